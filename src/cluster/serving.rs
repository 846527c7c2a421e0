//! The requests of other nodes that this node carries out.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use tokio::{sync::oneshot, time::Instant};

use crate::{
    cluster::recent::{Recent, RequestId},
    connection::{call_result::CallResult, shared::Shared},
};

/// The requests that this node carries out.
#[derive(Debug, Default)]
pub(crate) struct Serving {
    /// Each with the sender that cancels it when dropped.
    pub(crate) running: HashMap<RequestId, oneshot::Sender<()>>,
    pub(crate) ended: Recent,
    /// The latest results that the caller may complain about.
    pub(crate) results: VecDeque<(RequestId, Instant, Arc<Shared>, CallResult)>,
}

//! The lists of stations that this node collects.

use tokio::sync::mpsc;

use crate::cluster::{epoch::NodeId, wire::Page};

/// The receiver of the pages of one list. Each node sends one page at a time.
pub(crate) type List = mpsc::Sender<ListAnswer>;

#[derive(Debug)]
pub(crate) enum ListAnswer {
    Page(Page),
    Gone(NodeId),
}

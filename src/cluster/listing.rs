//! The lists of stations that this node collects.

use tokio::sync::mpsc;

use crate::cluster::{epoch::NodeId, wire::Page};

/// The receiver of the pages of one list. Each node sends one page at a time.
pub(crate) type List = mpsc::Sender<ListUpdate>;

#[derive(Debug)]
pub(crate) enum ListUpdate {
    Page(Page),
    Lost(NodeId),
}

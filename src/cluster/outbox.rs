//! The control messages that wait to be sent.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;

use crate::cluster::{epoch::NodeId, transport::Destination};

/// The control messages that may wait. More are dropped.
const MAX_MESSAGES: usize = 65_536;

/// The bytes of the control messages that may wait.
const MAX_BYTES: usize = 64 << 20;

/// The control messages that wait, in order.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    waiting: VecDeque<Posted>,
    bytes: usize,
}

/// A control message that waits to be sent.
#[derive(Debug)]
pub(crate) struct Posted {
    pub(crate) target: Target,
    pub(crate) request: Option<u64>,
    pub(crate) message: Bytes,
}

/// The receivers of a control message. The key is that of the station that the message is about.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    Node(NodeId, Option<Arc<str>>),
    Response(NodeId, u64, Option<Arc<str>>),
    All(Option<Arc<str>>),
    Event { key: Option<Box<str>>, kind: Box<str> },
}

impl Outbox {
    /// Adds a message. Returns `false` if too many wait.
    pub(crate) fn push(&mut self, posted: Posted) -> bool {
        let bytes = self.bytes + posted.message.len();
        let has_room = self.waiting.len() < MAX_MESSAGES && bytes <= MAX_BYTES;
        if has_room {
            self.bytes = bytes;
            self.waiting.push_back(posted);
        }
        has_room
    }

    /// Takes the message that has waited for the longest time.
    pub(crate) fn pop(&mut self) -> Option<Posted> {
        let posted = self.waiting.pop_front()?;
        self.bytes -= posted.message.len();
        Some(posted)
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }
}

impl Target {
    pub(crate) fn destination(&self) -> Destination<'_> {
        match self {
            Self::Node(node, key) => Destination::Node { node: *node, key: key.as_deref() },
            Self::Response(node, request, key) => {
                Destination::Response { node: *node, request: *request, key: key.as_deref() }
            }
            Self::All(key) => Destination::All(key.as_deref()),
            Self::Event { key, kind } => Destination::Event { key: key.as_deref(), kind },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_their_bytes_are_bounded() {
        for (len, max) in [(0, MAX_MESSAGES), (1 << 20, 64)] {
            let message = Bytes::from(vec![0; len]);
            let posted = || Posted { target: Target::All(None), request: None, message: message.clone() };
            let mut outbox = Outbox::default();
            assert_eq!((0..2 * max).filter(|_| outbox.push(posted())).count(), max);
            assert!(outbox.pop().is_some() && outbox.push(posted()) && !outbox.push(posted()));
        }
    }
}

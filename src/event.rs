//! What happens on connections, for those who want to look.
//!
//! Events cost nothing while nobody reads them: not even the event is made. A slow reader loses the oldest ones,
//! learns how many, and never slows a connection.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytestring::ByteString;
use tokio::sync::broadcast;

use crate::{
    close::info::CloseInfo,
    error::{CallError, ErrorCode, Violation},
    message::{
        frame::{Frame, MessageError},
        payload::{MessageId, Payload},
        tolerance::Deviation,
    },
    text::impl_text,
    validate::validator::PayloadKind,
};

/// Something that happened, and to whom.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Event {
    /// When it happened.
    pub at: SystemTime,
    /// The identity of the charging station, where it is known.
    pub identity: Option<Arc<str>>,
    /// The address at the other end, where it is known.
    pub remote_address: Option<SocketAddr>,
    /// What happened.
    pub kind: EventKind,
}

/// What can happen.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum EventKind {
    /// A client begins an attempt to connect.
    Connecting,
    /// A session was registered, or a client is connected.
    #[non_exhaustive]
    Opened {
        /// The subprotocol that was agreed on.
        protocol: Option<Arc<str>>,
    },
    /// A client lost its connection and is going to dial again.
    Disconnected(CloseInfo),
    /// Somebody asked for a session or a client to be closed.
    Closing,
    /// A session or a client ended. The cause says why: a session whose place a newer one took is
    /// [replaced](crate::close::CloseCause::Replaced).
    Closed(CloseInfo),
    /// A handshake was refused, or broken off.
    #[non_exhaustive]
    HandshakeRefused {
        /// The HTTP status of the answer, where there was one: 101 for the answer to a client that offers no
        /// common subprotocol.
        status: Option<u16>,
        /// Why.
        reason: String,
    },
    /// A message came in. What it says follows as an event of its own, where it can be read.
    Received(Text),
    /// A message went out: it was queued to be written with the next flush. What it says follows as an event of its
    /// own.
    Sent(Text),
    /// A CALL, from either end.
    #[non_exhaustive]
    Call {
        /// Which way it goes.
        direction: Direction,
        /// Its id.
        id: MessageId,
        /// Its action.
        action: Text,
        /// Its parameters.
        params: Payload,
    },
    /// A CALLRESULT, from either end.
    #[non_exhaustive]
    CallResult {
        /// Which way it goes.
        direction: Direction,
        /// The id of the call that it answers.
        id: MessageId,
        /// The result.
        result: Payload,
    },
    /// A CALLERROR, from either end.
    #[non_exhaustive]
    CallError {
        /// Which way it goes.
        direction: Direction,
        /// The id of the call that it answers.
        id: MessageId,
        /// The error.
        error: CallError,
    },
    /// A CALLRESULTERROR, from either end: whoever called cannot use the result (OCPP 2.1).
    #[non_exhaustive]
    CallResultError {
        /// Which way it goes.
        direction: Direction,
        /// The id of the call that was answered.
        id: MessageId,
        /// What is wrong with the result.
        error: CallError,
    },
    /// A SEND, from either end (OCPP 2.1).
    #[non_exhaustive]
    Send {
        /// Which way it goes.
        direction: Direction,
        /// Its id.
        id: MessageId,
        /// Its action.
        action: Text,
        /// Its parameters.
        params: Payload,
    },
    /// The answer to the call with this id has been written to the transport.
    ResponseWritten(MessageId),
    /// A message came in that cannot be served.
    #[non_exhaustive]
    BadMessage {
        /// The message.
        text: Text,
        /// What is wrong with it.
        fault: MessageError,
        /// The code that it was answered with, if it was answered.
        answer: Option<ErrorCode>,
    },
    /// An answer came in for a call that timed out or was dropped.
    LateResponse(MessageId),
    /// Something deviates from the standards and was [put up with](crate::Tolerance).
    #[non_exhaustive]
    Deviation {
        /// What.
        deviation: Deviation,
        /// The message, where it is in a message.
        text: Option<Text>,
    },
    /// A ping was answered, after this time.
    Pong(Duration),
    /// A SEND came in that is not served: its action has no handler, or it was refused as a call would be.
    #[non_exhaustive]
    UnhandledSend {
        /// The action.
        action: Text,
    },
    /// A payload did not pass [validation](crate::validate::Validation).
    #[non_exhaustive]
    ValidationFailed {
        /// Which way it went.
        direction: Direction,
        /// Which of the action's payloads it is.
        kind: PayloadKind,
        /// The action.
        action: Text,
        /// The id of the call.
        id: MessageId,
        /// What is wrong with it.
        violation: Violation,
        /// Whether it was stopped, or [only reported](crate::validate::Validation::report_only).
        enforced: bool,
    },
    /// So many events were lost before this one, because they were not read in time.
    Lagged(u64),
}

impl EventKind {
    /// What a message says.
    pub(crate) fn of(frame: Frame, direction: Direction) -> Self {
        match frame {
            Frame::Call { id, action, payload } => Self::Call { direction, id, action: Text(action), params: payload },
            Frame::CallResult { id, payload } => Self::CallResult { direction, id, result: payload },
            Frame::CallError { id, error } => Self::CallError { direction, id, error },
            Frame::CallResultError { id, error } => Self::CallResultError { direction, id, error },
            Frame::Send { id, action, payload } => Self::Send { direction, id, action: Text(action), params: payload },
        }
    }
}

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the peer to us.
    In,
    /// From us to the peer.
    Out,
}

/// A text of a message: an action, or the whole message. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Text(pub(crate) ByteString);

impl Text {
    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl_text!(Text);

/// A reader of events: those that happen from its making on.
///
/// It holds the latest [`CAPACITY`](Self::CAPACITY), with the messages that they are of; who reads more slowly gets an
/// [`EventKind::Lagged`].
#[derive(Debug)]
pub struct Events {
    receiver: broadcast::Receiver<Event>,
    hub: Arc<EventBus>,
}

impl Events {
    /// How many events wait for a reader.
    pub const CAPACITY: usize = 4096;

    /// The next event; `None` when there will be no more.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Event> {
        match self.receiver.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Event {
                at: SystemTime::now(),
                identity: None,
                remote_address: None,
                kind: EventKind::Lagged(missed),
            }),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.hub.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where events of many connections meet.
#[derive(Debug, Default)]
pub(crate) struct EventBus {
    readers: AtomicUsize,
    /// Made for the first reader, and gone once there will be no more events.
    sender: Mutex<Sender>,
}

#[derive(Debug, Default)]
enum Sender {
    #[default]
    Unused,
    Used(broadcast::Sender<Event>),
    Ended,
}

impl EventBus {
    pub(crate) fn subscribe(self: &Arc<Self>) -> Events {
        let mut sender = self.sender();
        if let Sender::Unused = *sender {
            *sender = Sender::Used(broadcast::Sender::new(Events::CAPACITY));
        }
        let receiver = match &*sender {
            Sender::Used(sender) => sender.subscribe(),
            Sender::Unused | Sender::Ended => broadcast::channel(1).1,
        };
        self.readers.fetch_add(1, Ordering::Relaxed);
        Events { receiver, hub: self.clone() }
    }

    /// Whether anybody looks.
    pub(crate) fn is_read(&self) -> bool {
        self.readers.load(Ordering::Relaxed) > 0
    }

    /// Tells the readers, if there are any.
    pub(crate) fn emit(&self, event: impl FnOnce() -> Event) {
        if !self.is_read() {
            return;
        }
        if let Sender::Used(sender) = &*self.sender() {
            // The last reader may have left in this moment.
            let _ = sender.send(event());
        }
    }

    /// There will be no more events: readers come to the end.
    pub(crate) fn end(&self) {
        *self.sender() = Sender::Ended;
    }

    fn sender(&self) -> MutexGuard<'_, Sender> {
        // Nothing that runs under the lock can leave it half done.
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pong() -> Event {
        Event { at: SystemTime::now(), identity: None, remote_address: None, kind: EventKind::Pong(Duration::ZERO) }
    }

    #[test]
    fn without_a_reader_no_event_is_made() {
        let hub = Arc::new(EventBus::default());
        hub.emit(|| unreachable!());
        drop(hub.subscribe());
        hub.emit(|| unreachable!());
    }

    #[tokio::test]
    async fn a_slow_reader_learns_how_many_it_lost() {
        let hub = Arc::new(EventBus::default());
        let mut events = hub.subscribe();
        for _ in 0..Events::CAPACITY + 3 {
            hub.emit(pong);
        }
        assert!(matches!(events.next().await, Some(Event { kind: EventKind::Lagged(3), .. })));
        assert!(matches!(events.next().await, Some(Event { kind: EventKind::Pong(_), .. })));
    }
}

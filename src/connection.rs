//! The engine of a connection, the same for both ends: pure rules ([`exchange`], [`keepalive`]), the WebSocket
//! ([`socket`]), and the one task that brings them together ([`driver`]).
//!
//! The outside sees none of it but the [`Link`], through which handles reach the driver.

mod calls_in;
pub(crate) mod calls_out;
pub(crate) mod driver;
pub(crate) mod exchange;
mod handler;
mod keepalive;
pub(crate) mod link;
pub(crate) mod socket;

pub(crate) use self::link::Link;

use std::{fmt, net::SocketAddr, pin::Pin, sync::Arc, time::SystemTime};

use bytestring::ByteString;
use http::Extensions;
use tokio::sync::oneshot;

use crate::{
    dialect::Dialect,
    error::{CallError, Error},
    options::Options,
    payload::{MessageId, Payload},
    validate::Valid,
};

use self::calls_out::{CallKey, Outgoing};

/// A call that came in, on its way to whatever answers it.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) id: MessageId,
    pub(crate) action: ByteString,
    pub(crate) payload: Payload,
    /// A CALL wants an answer, a SEND does not.
    pub(crate) wants_answer: bool,
    /// The connection that it came in on.
    pub(crate) generation: u32,
    /// Names it among all calls that came in, which its id does not.
    pub(crate) serial: u64,
    /// The bytes of its message, all of which it keeps in memory.
    weight: usize,
    /// What validation made of the payload.
    pub(crate) valid: Valid,
}

impl Inbound {
    fn new(id: MessageId, action: ByteString, payload: Payload, wants_answer: bool, weight: usize) -> Self {
        Self { id, action, payload, wants_answer, generation: 0, serial: 0, weight, valid: Valid::default() }
    }
}

/// The result that came in for a call of ours; empty where it was enough that the call was written.
#[derive(Debug, Default)]
pub(crate) struct Answered {
    pub(crate) id: MessageId,
    pub(crate) payload: Payload,
    /// What validation made of the payload.
    pub(crate) valid: Valid,
}

/// What a call is answered with.
#[derive(Debug)]
#[non_exhaustive]
pub enum Reply {
    /// A CALLRESULT.
    Result(Payload),
    /// A CALLERROR.
    Error(CallError),
    /// No answer at all: the peer will run into its timeout.
    Nothing,
    /// No other answer than the one that was given already, by way of [`Answer`](crate::extract::Answer).
    Given,
}

impl Reply {
    /// A word for it: the code of an error.
    pub(crate) fn outcome(&self) -> &str {
        match self {
            Self::Result(_) => "result",
            Self::Error(error) => error.code().as_str(),
            Self::Nothing => "no reply",
            Self::Given => "given early",
        }
    }
}

/// What answers the calls of a peer.
pub(crate) trait Dispatch: Send + Sync + 'static {
    fn dispatch(&self, call: Inbound, link: &Arc<Link>) -> Pin<Box<dyn Future<Output = Reply> + Send>>;
}

/// Where the outcome of a call goes.
pub(crate) type Ticket = oneshot::Sender<Result<Answered, Error>>;

/// What a handle asks of the driver.
#[derive(Debug)]
pub(crate) enum Command {
    Call(Box<Outgoing<Ticket>>),
    Cancel(CallKey),
    Answer(Box<EarlyAnswer>),
    /// A result that we cannot use: the peer may be told.
    Complain(Box<(MessageId, CallError)>),
    /// From now on, other handlers.
    Dispatch(Arc<dyn Dispatch>),
    /// From now on, other times and limits.
    Options(Box<Options>),
}

impl Command {
    /// Nobody will do it: whoever waits for it is told.
    fn fail(self) {
        let ticket = match self {
            Self::Call(call) => call.ticket,
            Self::Answer(answer) => answer.ticket,
            _ => return,
        };
        let _ = ticket.send(Err(Error::Disconnected { maybe_delivered: false }));
    }
}

/// An answer that a handler gives before it ends.
#[derive(Debug)]
pub(crate) struct EarlyAnswer {
    pub(crate) id: MessageId,
    pub(crate) action: ByteString,
    pub(crate) generation: u32,
    pub(crate) serial: u64,
    pub(crate) reply: Reply,
    /// Who wants to know when it has been written.
    pub(crate) ticket: Ticket,
}

impl fmt::Debug for dyn Dispatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dispatch")
    }
}

/// What is known of a connection from its beginning.
#[derive(Debug)]
pub(crate) struct About {
    pub(crate) identity: Arc<str>,
    pub(crate) remote_address: Option<SocketAddr>,
    pub(crate) opened_at: SystemTime,
    pub(crate) side: Side,
    /// What the application knows of it.
    pub(crate) extensions: Extensions,
}

/// Which side of a connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Server,
    Client,
}

/// What both ends agreed to speak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Agreed {
    pub(crate) protocol: Option<Arc<str>>,
    pub(crate) dialect: Dialect,
}

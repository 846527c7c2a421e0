//! What handles and driver share of a connection: the mailbox between them, and how it all ended.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Wake, Waker},
    time::{Duration, SystemTime},
};

use bytestring::ByteString;
use tokio::{sync::SetOnce, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    close::{info::CloseInfo, intent::Close},
    connection::{
        calls_out::{CallKey, Outgoing},
        info::{About, Agreed},
        request::Inbound,
        result::Ticket,
    },
    error::{CallError, Error},
    event::EventKind,
    message::payload::MessageId,
    options::Options,
    response::Response,
    telemetry::Telemetry,
};

/// What answers the calls of a peer.
pub(crate) trait Dispatch: Send + Sync + 'static {
    fn dispatch(&self, call: Inbound, link: &Arc<Link>) -> Pin<Box<dyn Future<Output = Response> + Send>>;
}

/// What a handle asks of the driver.
#[derive(Debug)]
pub(crate) enum Command {
    Call(Box<Outgoing<Ticket>>),
    Cancel(CallKey),
    Responder(Box<EarlyAnswer>),
    /// A result that we cannot use: the peer may be told.
    Complain(Box<(MessageId, CallError)>),
    /// From now on, other handlers.
    Dispatch(Arc<dyn Dispatch>),
    /// From now on, other times and limits.
    Options(Box<Options>),
}

impl Command {
    /// Nobody will do it: whoever waits for it is told.
    pub(super) fn fail(self) {
        let ticket = match self {
            Self::Call(call) => call.ticket,
            Self::Responder(answer) => answer.ticket,
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
    pub(crate) reply: Response,
    /// Who wants to know when it has been written.
    pub(crate) ticket: Ticket,
}

impl fmt::Debug for dyn Dispatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dispatch")
    }
}

/// What handles and driver share of a connection; a handle is little more than a pointer to it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) about: About,
    /// Set by the first handshake, and never changed by a later one.
    agreed: OnceLock<Agreed>,
    pub(crate) telemetry: Arc<Telemetry>,
    mailbox: Mutex<Mailbox>,
    /// Calls that wait for their turn, in the mailbox and in the exchange.
    waiting: AtomicUsize,
    max_waiting: usize,
    meanwhile: Meanwhile,
    keys: AtomicU64,
    opened: Instant,
    /// When something was last received, in milliseconds since `opened`.
    last_seen: AtomicU64,
    /// How many calls in a row ran into their timeout.
    timeouts: AtomicU32,
    closed: SetOnce<CloseInfo>,
}

/// What comes after a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Another one, perhaps.
    Reconnect,
    End,
}

/// What becomes of calls that are made while there is no connection, but going to be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meanwhile {
    Wait,
    Refuse,
}

/// What was in the mailbox, beside commands.
pub(super) struct Orders {
    pub(super) close: Option<Close>,
    /// Whether handlers can go on.
    pub(super) stirred: bool,
}

#[derive(Debug, Default)]
struct Mailbox {
    phase: Phase,
    is_connected: bool,
    commands: Vec<Command>,
    /// The first wish to close decides, so there is only ever one.
    close: Option<Box<Close>>,
    waker: Option<Waker>,
    asleep: bool,
    /// Whether handlers can go on.
    stirred: bool,
    /// Made when a handler first asks for it.
    gone: Option<CancellationToken>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    #[default]
    Open,
    /// Takes no more calls.
    Closing,
    /// The connection is lost as well.
    Lost,
    Closed,
}

impl Link {
    pub(crate) fn new(about: About, max_waiting: usize, meanwhile: Meanwhile, telemetry: Arc<Telemetry>) -> Arc<Self> {
        Arc::new(Self {
            about,
            agreed: OnceLock::new(),
            telemetry,
            mailbox: Mutex::default(),
            waiting: AtomicUsize::new(0),
            max_waiting,
            meanwhile,
            keys: AtomicU64::new(0),
            opened: Instant::now(),
            last_seen: AtomicU64::new(0),
            timeouts: AtomicU32::new(0),
            closed: SetOnce::new(),
        })
    }

    // For handles.

    pub(crate) fn next_key(&self) -> CallKey {
        CallKey(self.keys.fetch_add(1, Ordering::Relaxed))
    }

    /// Puts a call in line, or says at once why not.
    pub(crate) fn submit(&self, call: Box<Outgoing<Ticket>>) -> Result<(), Error> {
        let mut mailbox = self.mailbox();
        match mailbox.phase {
            Phase::Open if self.meanwhile == Meanwhile::Refuse && !mailbox.is_connected => {
                return Err(Error::NotConnected);
            }
            Phase::Open => {}
            Phase::Closing => return Err(Error::Closing),
            // The close frame is out, and the peer has yet to answer it.
            Phase::Lost if mailbox.close.is_some() => return Err(Error::Closing),
            Phase::Lost | Phase::Closed => return Err(Error::Closed),
        }
        // Only added to under the lock, so the bound holds.
        if self.waiting.load(Ordering::Relaxed) >= self.max_waiting {
            return Err(Error::QueueFull);
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        mailbox.push(Command::Call(call));
        Ok(())
    }

    /// Gives the driver something to do that cannot fail.
    pub(crate) fn order(&self, command: Command) {
        let mut mailbox = self.mailbox();
        if mailbox.phase != Phase::Closed {
            mailbox.push(command);
        }
    }

    /// Asks the driver to close. The first wish decides.
    pub(crate) fn close(&self, close: Close) {
        let mut mailbox = self.mailbox();
        if mailbox.close.is_none() && matches!(mailbox.phase, Phase::Open | Phase::Closing) {
            mailbox.phase = Phase::Closing;
            mailbox.close = Some(Box::new(close));
            mailbox.wake();
        }
    }

    pub(crate) async fn closed(&self) -> CloseInfo {
        self.closed.wait().await.clone()
    }

    pub(crate) fn agreed(&self) -> Option<&Agreed> {
        self.agreed.get()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.mailbox().phase == Phase::Open
    }

    /// Fires when the connection is lost, or closed without waiting for calls under way.
    pub(crate) fn gone(&self) -> CancellationToken {
        let mut mailbox = self.mailbox();
        let lost = matches!(mailbox.phase, Phase::Lost | Phase::Closed);
        let token = mailbox.gone.get_or_insert_default().clone();
        drop(mailbox);
        if lost {
            token.cancel();
        }
        token
    }

    pub(crate) fn last_seen(&self) -> SystemTime {
        self.about.opened_at + Duration::from_millis(self.last_seen.load(Ordering::Relaxed))
    }

    pub(crate) fn consecutive_timeouts(&self) -> u32 {
        self.timeouts.load(Ordering::Relaxed)
    }

    // For the driver and what runs it.

    /// The outcome of a handshake; gives what was agreed at the first one.
    pub(crate) fn agree(&self, agreed: Agreed) -> &Agreed {
        self.agreed.get_or_init(|| agreed)
    }

    /// A turn begins, in which the driver needs no waking: what comes next is [taken](Self::take) before its end.
    pub(super) fn begin_turn(&self, into: &mut Vec<Command>) -> Orders {
        let mut mailbox = self.mailbox();
        mailbox.asleep = false;
        mailbox.empty(into)
    }

    /// What has come since. The next one wakes the driver.
    pub(super) fn take(&self, into: &mut Vec<Command>, cx: &Context<'_>) -> Orders {
        let mut mailbox = self.mailbox();
        mailbox.asleep = true;
        match &mut mailbox.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        mailbox.empty(into)
    }

    /// Whether handlers can go on, asked between the two.
    pub(super) fn was_stirred(&self) -> bool {
        std::mem::take(&mut self.mailbox().stirred)
    }

    pub(super) fn leave_line(&self, calls: usize) {
        self.waiting.fetch_sub(calls, Ordering::Relaxed);
    }

    pub(super) fn seen(&self, now: Instant) {
        let millis = now.saturating_duration_since(self.opened).as_millis() as u64;
        self.last_seen.store(millis, Ordering::Relaxed);
    }

    pub(super) fn timed_out(&self) {
        // One task alone writes it.
        self.timeouts.store(self.consecutive_timeouts().saturating_add(1), Ordering::Relaxed);
    }

    pub(super) fn answered(&self) {
        self.timeouts.store(0, Ordering::Relaxed);
    }

    /// There is a connection. Its handlers, who were polled elsewhere until now, are to be polled in its turns.
    pub(crate) fn found(&self) {
        let mut mailbox = self.mailbox();
        (mailbox.is_connected, mailbox.stirred) = (true, true);
    }

    /// The connection is lost and handlers are told. Calls are taken on if there will be another.
    pub(super) fn lost(&self, next: Next) {
        let mut mailbox = self.mailbox();
        mailbox.is_connected = false;
        if next == Next::End {
            mailbox.phase = mailbox.phase.max(Phase::Lost);
        }
        let gone = mailbox.gone.take();
        // Those who wait for the token may run at once and come back for the mailbox.
        drop(mailbox);
        if let Some(gone) = gone {
            gone.cancel();
        }
    }

    /// Ends it. Calls that are still in the mailbox were never written.
    pub(crate) fn shut(&self, closed: CloseInfo) {
        self.lost(Next::End);
        let mut mailbox = self.mailbox();
        mailbox.phase = Phase::Closed;
        let left = std::mem::take(&mut mailbox.commands);
        mailbox.waker = None;
        drop(mailbox);
        left.into_iter().for_each(Command::fail);
        // Ends only once; a second end is none.
        let _ = self.closed.set(closed);
    }

    /// Reports a fact about this connection.
    pub(crate) fn report(&self, kind: EventKind) {
        self.telemetry.report(Some(&self.about.identity), self.about.remote_address, kind);
    }

    /// Whether anybody reads events.
    pub(super) fn is_watched(&self) -> bool {
        self.telemetry.is_observed()
    }

    fn mailbox(&self) -> MutexGuard<'_, Mailbox> {
        // Nothing that runs under the lock can leave it half done.
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes the driver for its handlers, unless a turn is to come to them anyway.
impl Wake for Link {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut mailbox = self.mailbox();
        mailbox.stirred = true;
        mailbox.wake();
    }
}

impl Mailbox {
    /// Moves the commands into `into`, which is empty.
    fn empty(&mut self, into: &mut Vec<Command>) -> Orders {
        std::mem::swap(&mut self.commands, into);
        Orders { close: self.close.as_deref().cloned(), stirred: std::mem::take(&mut self.stirred) }
    }

    fn push(&mut self, command: Command) {
        self.commands.push(command);
        self.wake();
    }

    fn wake(&mut self) {
        if std::mem::take(&mut self.asleep)
            && let Some(waker) = &self.waker
        {
            waker.wake_by_ref();
        }
    }
}

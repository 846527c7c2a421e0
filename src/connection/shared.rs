//! The state that the handles of a connection and its driver share.

use std::{
    any::Any,
    fmt,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    task::Wake,
    time::{Duration, SystemTime},
};

use bytestring::ByteString;
use http::Extensions;
use tokio::{sync::SetOnce, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    close::{
        info::{CloseCause, CloseInfo},
        intent::Close,
    },
    connection::{
        call_ids::CallIds,
        call_result::ResponseSender,
        calls_out::{CallKey, Outgoing},
        mailbox::{AfterDisconnect, Mailbox, QueueRules},
        negotiated::Negotiated,
        request::{IncomingRequest, RequestHead, RequestKey},
    },
    error::{CallError, Error},
    event::kind::{Direction, EventKind, Origin},
    message::payload::MessageId,
    options::Options,
    response::Response,
    telemetry::Telemetry,
    websocket::compression::CompressionInfo,
};

/// Responds to the requests of a peer.
pub(crate) trait Dispatch: Send + Sync + 'static {
    /// Returns the future of the response. `protocol` is the subprotocol of the connection.
    fn dispatch(
        &self,
        request: IncomingRequest,
        protocol: Option<&str>,
        shared: &Arc<Shared>,
    ) -> Pin<Box<dyn Future<Output = Response> + Send>>;

    /// Returns whether one handler takes all messages as they are.
    fn is_raw(&self) -> bool;
}

impl fmt::Debug for dyn Dispatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dispatch")
    }
}

/// A command of a handle to the driver.
#[derive(Debug)]
pub(crate) enum Command {
    /// Queues a call.
    Call(Box<Outgoing<ResponseSender>>),
    /// Cancels a call.
    Cancel(CallKey),
    /// Responds to a request before its handler finishes.
    Respond(Box<EarlyResponse>),
    /// Tells the peer that its result cannot be used.
    SendResultError(Box<(MessageId, ByteString, CallError)>),
    /// Replaces the handlers.
    SetDispatch(Arc<dyn Dispatch>),
    /// Replaces the options.
    SetOptions(Box<Options>),
}

/// A response that a handler gives before it ends.
#[derive(Debug)]
pub(crate) struct EarlyResponse {
    pub(crate) request: RequestHead,
    pub(crate) response: Response,
    /// Resolves when the response is written.
    pub(crate) sender: ResponseSender,
}

impl Command {
    /// Fails the call or response that the command carries.
    pub(super) fn fail(self) {
        let sender = match self {
            Self::Call(call) => call.sender,
            Self::Respond(early) => early.sender,
            _ => return,
        };
        let _ = sender.send(Err(Error::Disconnected { maybe_delivered: false }));
    }
}

/// The state that the handles of a connection and its driver share. A handle is little more than a pointer to it.
///
/// At a client it outlives connections, and even [runs](Run).
#[derive(Debug)]
pub(crate) struct Shared {
    /// A number that no other session of the process has.
    pub(crate) id: u64,
    run: RwLock<Arc<Run>>,
    mailbox: Mailbox<Command>,
    pub(crate) telemetry: Arc<Telemetry>,
    keys: AtomicU64,
    call_ids: CallIds,
    /// The time of the latest connect in milliseconds since the Unix epoch; [`NEVER`] before the first.
    connected_at: AtomicU64,
    /// The same moment in milliseconds since [`ORIGIN`].
    connected: AtomicU64,
    /// The moment of the latest input in milliseconds since [`ORIGIN`].
    last_seen: AtomicU64,
    /// The calls in a row that ran into their timeout.
    timeouts: AtomicU32,
    /// The round-trip time of the latest ping in microseconds; [`NO_PING`] before the first pong of a connection.
    ping: AtomicU32,
    /// Set if an early response may be in the mailbox.
    has_early_response: AtomicBool,
}

/// The time from the start of a session to its end. A client may have several, one after the other.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) identity: Arc<str>,
    pub(crate) remote_address: Option<SocketAddr>,
    pub(crate) extensions: Extensions,
    /// Set by the first handshake of the run. It changes only if a client offers other protocols.
    negotiated: Mutex<Option<Negotiated>>,
    closed: SetOnce<CloseInfo>,
    number: u32,
    errors: AtomicU32,
    /// The compression of the latest connection, if connections of this run may have one.
    compression: Option<Box<Mutex<Option<CompressionInfo>>>>,
}

/// The key of a session whose key is not its identity, in the extensions of its run.
#[derive(Debug, Clone)]
pub(crate) struct OwnKey(pub(crate) Arc<str>);

const NEVER: u64 = u64::MAX;

const NO_PING: u32 = u32::MAX;

/// Returns the id of a session. Later ids are higher.
pub(crate) fn next_session_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The moment that all connections count from.
pub(super) static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Run {
    pub(crate) fn new(identity: Arc<str>) -> Self {
        Self {
            identity,
            remote_address: None,
            extensions: Extensions::new(),
            negotiated: Mutex::default(),
            closed: SetOnce::new(),
            number: 0,
            errors: AtomicU32::new(0),
            compression: None,
        }
    }

    /// Allows connections of this run to have compression.
    pub(crate) fn allow_compression(&mut self) {
        self.compression = Some(Box::default());
    }

    /// Sets the compression of a connection that opens.
    pub(crate) fn set_compression(&self, info: Option<CompressionInfo>) {
        if let Some(compression) = &self.compression {
            *lock(compression) = info;
        }
    }

    /// Returns the compression of the latest connection.
    pub(crate) fn compression(&self) -> Option<CompressionInfo> {
        *lock(self.compression.as_ref()?)
    }

    /// Counts a compressed message.
    pub(super) fn count_compressed(&self, direction: Direction, text_len: usize, compressed_len: usize) {
        let Some(compression) = &self.compression else { return };
        if let Some(info) = &mut *lock(compression) {
            let messages = match direction {
                Direction::In => &mut info.received,
                Direction::Out => &mut info.sent,
            };
            messages.count(text_len, compressed_len);
        }
    }

    /// Counts call errors and bad messages. Only the driver calls it.
    #[cold]
    pub(super) fn count_errors(&self, errors: u16) {
        let before = self.errors.load(Ordering::Relaxed);
        self.errors.store(before.saturating_add(errors.into()), Ordering::Relaxed);
    }

    /// Returns the number of call errors in either direction, and of bad messages.
    pub(crate) fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed).into()
    }

    /// Returns the key of the session in the registry of its server.
    pub(crate) fn key(&self) -> &Arc<str> {
        self.own_key().unwrap_or(&self.identity)
    }

    /// Returns the key of the session if it is not the identity.
    pub(crate) fn own_key(&self) -> Option<&Arc<str>> {
        self.extensions.get().map(|OwnKey(key)| key)
    }

    /// Returns the outcome of the latest handshake.
    pub(crate) fn negotiated(&self) -> Option<Negotiated> {
        lock(&self.negotiated).clone()
    }

    /// Sets the outcome of a handshake.
    pub(crate) fn negotiate(&self, negotiated: Negotiated) {
        *lock(&self.negotiated) = Some(negotiated);
    }
}

impl Shared {
    /// Creates the state of a session that is closed until its first [run](Self::start_run).
    pub(crate) fn new(identity: Arc<str>, telemetry: Arc<Telemetry>) -> Arc<Self> {
        Self::closed_after(Run::new(identity), telemetry)
    }

    /// Creates the state of a session that is closed, as if this had been its last run.
    pub(crate) fn closed_after(run: Run, telemetry: Arc<Telemetry>) -> Arc<Self> {
        let _ = run.closed.set(CloseInfo::abnormal(CloseCause::Local));
        Arc::new(Self::with(next_session_id(), run, Mailbox::new(), telemetry))
    }

    /// Creates the state of a session with this [id](next_session_id), whose first run starts at once.
    pub(crate) fn started(id: u64, mut run: Run, rules: QueueRules, telemetry: Arc<Telemetry>) -> Arc<Self> {
        let mailbox = Mailbox::new();
        run.number = mailbox.open(rules).0;
        Arc::new(Self::with(id, run, mailbox, telemetry))
    }

    fn with(id: u64, run: Run, mailbox: Mailbox<Command>, telemetry: Arc<Telemetry>) -> Self {
        Self {
            id,
            run: RwLock::new(Arc::new(run)),
            mailbox,
            telemetry,
            keys: AtomicU64::new(0),
            call_ids: CallIds::random(),
            connected_at: AtomicU64::new(NEVER),
            connected: AtomicU64::new(0),
            last_seen: AtomicU64::new(0),
            timeouts: AtomicU32::new(0),
            ping: AtomicU32::new(NO_PING),
            has_early_response: AtomicBool::new(false),
        }
    }

    // For handles.

    /// Returns the current run, or the last one.
    pub(crate) fn run(&self) -> Arc<Run> {
        // No code under the lock can panic half way.
        self.run.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the source of the ids of calls.
    pub(crate) fn call_ids(&self) -> CallIds {
        self.call_ids
    }

    pub(crate) fn next_key(&self) -> CallKey {
        CallKey(self.keys.fetch_add(1, Ordering::Relaxed))
    }

    /// Queues a call.
    pub(crate) fn submit(&self, call: Box<Outgoing<ResponseSender>>) -> Result<(), Error> {
        self.mailbox.submit(Command::Call(call))
    }

    /// Sends a command that cannot fail.
    pub(crate) fn send(&self, command: Command) {
        self.mailbox.send(command);
    }

    /// Gives the response to a request before its handler finishes.
    pub(crate) fn respond(&self, early: EarlyResponse) {
        self.mailbox.send(Command::Respond(Box::new(early)));
        // Afterwards, so that the driver finds the response if it sees this.
        self.has_early_response.store(true, Ordering::Release);
    }

    /// Asks the driver to close. The first close decides.
    pub(crate) fn close(&self, close: Close) {
        self.mailbox.close(close);
    }

    /// Asks the driver of a client to end its connection, or its wait for one, or withdraws that.
    pub(crate) fn set_reconnect(&self, reconnect: bool) {
        self.mailbox.set_reconnect(reconnect);
    }

    /// Waits for the end of the run.
    pub(crate) async fn closed(&self) -> CloseInfo {
        let run = self.run();
        run.closed.wait().await.clone()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.mailbox.is_open()
    }

    /// Returns a token that is cancelled when the connection of a request is lost, or closed without waiting for pending
    /// calls.
    pub(crate) fn disconnect_token(&self, request: RequestKey) -> CancellationToken {
        self.mailbox.disconnect_token(request.generation)
    }

    /// Returns the time of the latest connect.
    pub(crate) fn connected_at(&self) -> Option<SystemTime> {
        let millis = Some(self.connected_at.load(Ordering::Relaxed)).filter(|millis| *millis != NEVER)?;
        Some(SystemTime::UNIX_EPOCH + Duration::from_millis(millis))
    }

    /// Returns the time of the latest input.
    pub(crate) fn last_seen_at(&self) -> Option<SystemTime> {
        let (connected, seen) = (self.connected.load(Ordering::Relaxed), self.last_seen.load(Ordering::Relaxed));
        Some(self.connected_at()? + Duration::from_millis(seen.saturating_sub(connected)))
    }

    pub(crate) fn consecutive_timeouts(&self) -> u32 {
        self.timeouts.load(Ordering::Relaxed)
    }

    /// Returns the round-trip time of the latest ping of the connection.
    pub(crate) fn ping(&self) -> Option<Duration> {
        let micros = Some(self.ping.load(Ordering::Relaxed)).filter(|micros| *micros != NO_PING)?;
        Some(Duration::from_micros(micros.into()))
    }

    /// Returns the number of calls that are not written yet.
    pub(crate) fn queued(&self) -> usize {
        self.mailbox.queued()
    }

    /// Returns the number of calls that wait for their response.
    pub(crate) fn in_flight(&self) -> usize {
        self.mailbox.in_flight()
    }

    // For the driver and what runs it.

    /// Begins a run.
    pub(crate) fn start_run(&self, mut run: Run, rules: QueueRules) -> Arc<Run> {
        let (number, left) = self.mailbox.open(rules);
        left.into_iter().for_each(Command::fail);
        run.number = number;
        let run = Arc::new(run);
        *self.run.write().unwrap_or_else(PoisonError::into_inner) = run.clone();
        run
    }

    pub(super) fn mailbox(&self) -> &Mailbox<Command> {
        &self.mailbox
    }

    /// Returns whether an early response may be in the mailbox.
    pub(super) fn has_early_response(&self) -> bool {
        self.has_early_response.load(Ordering::Acquire)
    }

    /// Takes the commands of handles within a turn, early responses among them.
    pub(super) fn take_early_responses(&self, commands: &mut Vec<Command>) {
        // Before the commands, so that none is missed that comes now.
        self.has_early_response.store(false, Ordering::Relaxed);
        self.mailbox.take_commands(commands);
    }

    /// Marks the connection as open.
    pub(crate) fn connected(&self) {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.connected_at.store(since_epoch.as_millis() as u64, Ordering::Relaxed);
        let now = millis(Instant::now());
        self.connected.store(now, Ordering::Relaxed);
        self.last_seen.store(now, Ordering::Relaxed);
        self.ping.store(NO_PING, Ordering::Relaxed);
        self.mailbox.connected();
    }

    /// Marks the connection as lost. Calls are accepted if another one follows. Returns the number of the next one.
    pub(super) fn disconnected(&self, run: &Run, after: AfterDisconnect) -> u32 {
        self.mailbox.disconnected(run.number, after)
    }

    /// Ends a run. Calls that are still in the mailbox were never written.
    pub(crate) fn finish(&self, run: &Run, closed: CloseInfo) {
        self.disconnected(run, AfterDisconnect::End);
        self.mailbox.finish(run.number).into_iter().for_each(Command::fail);
        // The first end counts.
        let _ = run.closed.set(closed);
    }

    pub(super) fn seen(&self, now: Instant) {
        self.last_seen.store(millis(now), Ordering::Relaxed);
    }

    pub(super) fn call_timed_out(&self) {
        // Only the driver writes it.
        self.timeouts.store(self.consecutive_timeouts().saturating_add(1), Ordering::Relaxed);
    }

    pub(super) fn call_ended(&self) {
        self.timeouts.store(0, Ordering::Relaxed);
    }

    pub(super) fn set_ping(&self, time: Duration) {
        let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX).min(NO_PING - 1);
        self.ping.store(micros, Ordering::Relaxed);
    }

    fn weak(self: &Arc<Self>) -> Weak<dyn Any + Send + Sync> {
        Arc::downgrade(self) as Weak<dyn Any + Send + Sync>
    }

    /// Reports a fact about this session.
    pub(crate) fn report(self: &Arc<Self>, kind: EventKind) {
        self.telemetry.report(kind, || self.origin());
    }

    /// Returns the origin of the events about this session.
    pub(crate) fn origin(self: &Arc<Self>) -> Origin {
        let run = self.run();
        Origin {
            session: Some(self.weak()),
            session_id: Some(self.id),
            key: Some(run.key().clone()),
            identity: Some(run.identity.clone()),
            remote_address: run.remote_address,
        }
    }
}

/// Locks a value of a run, which stays valid even if a thread panics.
fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

fn millis(now: Instant) -> u64 {
    now.saturating_duration_since(*ORIGIN).as_millis() as u64
}

/// The waker of handlers.
impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.mailbox.wake_handlers();
    }
}

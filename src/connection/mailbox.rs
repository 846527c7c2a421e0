//! The mailbox through which handles reach the driver of a connection.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Waker},
};

use tokio_util::sync::CancellationToken;

use crate::{close::intent::Close, error::Error};

/// A queue of commands, the intent to close, and the wake-up of the driver.
///
/// Its lock is the only one of a connection. It is held for a push or a swap.
#[derive(Debug)]
pub(super) struct Mailbox<C> {
    state: Mutex<State<C>>,
    /// The calls that are not written yet, in the mailbox and in the exchange.
    queued: AtomicU32,
    /// The calls that wait for their response.
    in_flight: AtomicU32,
}

/// The next phase after a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterDisconnect {
    /// The client tries to connect again.
    Reconnect,
    /// The end of the session, or of this run of a client.
    End,
}

/// The treatment of calls that are made between two connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OfflineCalls {
    /// They wait for the next connection.
    Queue,
    /// They fail.
    Refuse,
}

/// The limits of the queue of calls.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueRules {
    pub(crate) max_queued: usize,
    pub(crate) offline_calls: OfflineCalls,
}

/// The contents of the mailbox besides commands.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) close: Option<Close>,
    /// Set if a handle of a client asks for another connection.
    pub(super) reconnect: bool,
    /// Set if a handler can make progress.
    pub(super) handlers_woken: bool,
}

#[derive(Debug)]
struct State<C> {
    /// A longer queue needs more memory than there is. The size of a connection counts.
    max_queued: u32,
    offline_calls: OfflineCalls,
    phase: Phase,
    /// Counts the runs of a client, so that the end of one cannot end the next.
    run: u32,
    /// The number of the connection that is open or comes next. No two connections of a session share one.
    generation: u32,
    commands: Vec<C>,
    /// The first close decides, so there is only ever one.
    close: Option<Box<Close>>,
    waker: Option<Waker>,
    is_asleep: bool,
    reconnect: bool,
    handlers_woken: bool,
    /// Created when a handler first asks for it.
    disconnect_token: Option<CancellationToken>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// There is no connection yet or no longer, and a client tries to get one.
    Offline,
    Open,
    /// New calls are refused.
    Closing,
    /// New calls are refused, and there is no connection any more.
    Disconnected,
    Closed,
}

impl<C> Mailbox<C> {
    /// Creates a closed mailbox, which [`open`](Self::open) opens.
    pub(super) fn new() -> Self {
        let state = State {
            max_queued: 0,
            offline_calls: OfflineCalls::Queue,
            phase: Phase::Closed,
            run: 0,
            generation: 0,
            commands: Vec::new(),
            close: None,
            waker: None,
            is_asleep: false,
            reconnect: false,
            handlers_woken: false,
            disconnect_token: None,
        };
        Self { state: Mutex::new(state), queued: AtomicU32::new(0), in_flight: AtomicU32::new(0) }
    }

    /// Begins a run. Returns its number, and the commands that the last run has not taken.
    pub(super) fn open(&self, rules: QueueRules) -> (u32, Vec<C>) {
        let mut state = self.state();
        state.max_queued = u32::try_from(rules.max_queued).unwrap_or(u32::MAX);
        state.offline_calls = rules.offline_calls;
        state.phase = Phase::Offline;
        state.run += 1;
        state.generation += 1;
        (state.close, state.reconnect) = (None, false);
        self.queued.store(0, Ordering::Relaxed);
        (state.run, std::mem::take(&mut state.commands))
    }

    /// Queues a call.
    pub(super) fn submit(&self, call: C) -> Result<(), Error> {
        let mut state = self.state();
        match state.phase {
            Phase::Offline if state.offline_calls == OfflineCalls::Refuse => return Err(Error::NotConnected),
            Phase::Offline | Phase::Open => {}
            Phase::Closing => return Err(Error::Closing),
            // The close frame is sent, and the peer has not replied yet.
            Phase::Disconnected if state.close.is_some() => return Err(Error::Closing),
            Phase::Disconnected | Phase::Closed => return Err(Error::Closed),
        }
        // The counter grows under the lock only, so the limit holds.
        if self.queued.load(Ordering::Relaxed) >= state.max_queued {
            return Err(Error::QueueFull);
        }
        self.queued.fetch_add(1, Ordering::Relaxed);
        state.push(call);
        Ok(())
    }

    /// Returns the number of calls that are not written yet.
    pub(super) fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed) as usize
    }

    /// Returns the number of calls that wait for their response.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed) as usize
    }

    /// Sets the number of calls that wait for their response.
    pub(super) fn set_in_flight(&self, calls: u32) {
        self.in_flight.store(calls, Ordering::Relaxed);
    }

    /// Counts calls that have left the queue.
    pub(super) fn dequeued(&self, calls: u32) {
        self.queued.fetch_sub(calls, Ordering::Relaxed);
    }

    /// Sends a command that cannot fail. After the end it is dropped.
    pub(super) fn send(&self, command: C) {
        let mut state = self.state();
        if state.phase != Phase::Closed {
            state.push(command);
        }
    }

    /// Asks the driver to close. The first close decides.
    pub(super) fn close(&self, close: Close) {
        let mut state = self.state();
        if state.close.is_none() && state.phase <= Phase::Closing {
            state.phase = Phase::Closing;
            state.close = Some(Box::new(close));
            state.wake();
        }
    }

    /// Sets whether the driver of a client must end its connection, or its wait for one, to start another one.
    pub(super) fn set_reconnect(&self, reconnect: bool) {
        let mut state = self.state();
        state.reconnect = reconnect;
        if reconnect {
            state.wake();
        }
    }

    /// Returns whether calls are accepted.
    pub(super) fn is_open(&self) -> bool {
        self.state().phase <= Phase::Open
    }

    /// Returns the number of the connection that is open or comes next.
    pub(super) fn generation(&self) -> u32 {
        self.state().generation
    }

    /// Returns a token that is cancelled when the connection with this number ends. It already is if that has ended.
    pub(super) fn disconnect_token(&self, generation: u32) -> CancellationToken {
        let mut state = self.state();
        if state.generation == generation && state.phase < Phase::Disconnected {
            return state.disconnect_token.get_or_insert_default().clone();
        }
        // Not kept, because the next connection would get it.
        let token = CancellationToken::new();
        token.cancel();
        token
    }

    /// Begins a turn of the driver. Commands that arrive within the turn do not wake it, because it
    /// [takes](Self::take) them before the turn ends.
    pub(super) fn begin_turn(&self, commands: &mut Vec<C>) -> Inbox {
        let mut state = self.state();
        state.is_asleep = false;
        state.empty(commands)
    }

    /// Takes what has come. From now on the next command wakes the driver.
    pub(super) fn take(&self, commands: &mut Vec<C>, cx: &Context<'_>) -> Inbox {
        let mut state = self.state();
        state.is_asleep = true;
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        state.empty(commands)
    }

    /// Takes the commands alone, within a turn.
    pub(super) fn take_commands(&self, commands: &mut Vec<C>) {
        std::mem::swap(&mut self.state().commands, commands);
    }

    /// Returns whether a handler was woken since the turn began, and resets it.
    pub(super) fn take_handlers_woken(&self) -> bool {
        std::mem::take(&mut self.state().handlers_woken)
    }

    /// Records that a handler can make progress, and wakes the driver if it is asleep.
    pub(super) fn wake_handlers(&self) {
        let mut state = self.state();
        state.handlers_woken = true;
        state.wake();
    }

    /// Marks the connection as open. The first turn polls all handlers, because another waker polled them until now.
    pub(super) fn connected(&self) {
        let mut state = self.state();
        state.handlers_woken = true;
        if state.phase == Phase::Offline {
            state.phase = Phase::Open;
        }
    }

    /// Marks the connection as lost and cancels the token of its handlers. Returns the number of the next connection.
    pub(super) fn disconnected(&self, run: u32, after: AfterDisconnect) -> u32 {
        let mut state = self.state();
        if state.run != run {
            // The driver of an earlier run gets no more requests, so it needs no number of its own.
            return state.generation;
        }
        state.generation += 1;
        match after {
            AfterDisconnect::End => state.phase = state.phase.max(Phase::Disconnected),
            AfterDisconnect::Reconnect if state.phase == Phase::Open => state.phase = Phase::Offline,
            AfterDisconnect::Reconnect => {}
        }
        let (token, next) = (state.disconnect_token.take(), state.generation);
        // Tasks that wait for the token may run at once and lock the mailbox.
        drop(state);
        if let Some(token) = token {
            token.cancel();
        }
        next
    }

    /// Ends a run and returns the commands that it did not take.
    pub(super) fn finish(&self, run: u32) -> Vec<C> {
        let mut state = self.state();
        if state.run != run {
            return Vec::new();
        }
        state.phase = Phase::Closed;
        state.waker = None;
        std::mem::take(&mut state.commands)
    }

    fn state(&self) -> MutexGuard<'_, State<C>> {
        // No code under the lock can panic half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C> State<C> {
    /// Moves the commands into `commands`, which must be empty.
    fn empty(&mut self, commands: &mut Vec<C>) -> Inbox {
        std::mem::swap(&mut self.commands, commands);
        let handlers_woken = std::mem::take(&mut self.handlers_woken);
        Inbox { close: self.close.as_deref().cloned(), reconnect: self.reconnect, handlers_woken }
    }

    fn push(&mut self, command: C) {
        self.commands.push(command);
        self.wake();
    }

    fn wake(&mut self) {
        if std::mem::take(&mut self.is_asleep)
            && let Some(waker) = &self.waker
        {
            waker.wake_by_ref();
        }
    }
}

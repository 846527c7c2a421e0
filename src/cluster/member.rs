//! One node of a cluster: its state, the messages that it receives, and the task that sends what need not be awaited.

mod calls;
mod directory;
pub(crate) mod lists;
mod sending;
mod serving;
pub(crate) mod watching;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use tokio::{
    runtime::Handle,
    sync::{Notify, SetOnce},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    cluster::{
        directory::Directory,
        epoch::{Epoch, HybridClock, NodeId},
        home::Home,
        listing::List,
        members::{BEAT, Members},
        metrics,
        moves::Moves,
        node::{Node, Receive, Received},
        outbox::{Outbox, Target},
        requests::{Owners, Pending},
        serving::Serving,
        transport::{Cluster, JoinError, SendError},
        watching::Watching,
        wire::{self, Announcement, Broadcast, Control, Request, Response},
    },
    error::Error,
    info::StationInfo,
    openings::Openings,
    random::random,
};

/// The time after which a task that waits for a station asks again, and after which a failed subscription is repeated.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The time that the transport has for each message. Then the message counts as lost.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);

/// The time that calls of other nodes have to end when this node leaves, and that leaving itself may take.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// A node of a cluster.
///
/// Two tasks send what need not be awaited: one the control messages, and one the subscriptions and announcements, which
/// can take long.
pub(crate) struct Member {
    id: NodeId,
    name: Arc<str>,
    transport: Arc<dyn Cluster>,
    /// Absent at an observer.
    home: OnceLock<Weak<dyn Home>>,
    openings: Arc<Openings>,
    /// Apart from the state, because a session that opens takes it under the lock of the registry.
    clock: Mutex<HybridClock>,
    state: Mutex<State>,
    /// Notified if there are control messages to send.
    outbox_changed: Notify,
    /// Notified if there are subscriptions to change or sessions to announce.
    directory_changed: Notify,
    runtime: Handle,
    /// The tasks that carry out the requests of other nodes.
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Set when this node has left the cluster.
    left: SetOnce<()>,
    joined_at: Instant,
}

struct State {
    moves: Moves,
    members: Members,
    pending: HashMap<u64, Pending>,
    owners: Owners,
    lists: HashMap<u64, List>,
    serving: Serving,
    watching: Watching,
    directory: Directory,
    beat_due: Instant,
    outbox: Outbox,
    has_left: bool,
}

impl Member {
    /// Joins a cluster.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    pub(crate) fn join(transport: Arc<dyn Cluster>, openings: Arc<Openings>) -> Result<Arc<Self>, JoinError> {
        let id = NodeId::random();
        let name = transport.name().unwrap_or_else(|| format!("node-{id}").into());
        let now = Instant::now();
        let member = Arc::new(Self {
            id,
            name,
            transport,
            home: OnceLock::new(),
            openings,
            clock: Mutex::new(HybridClock::new(id)),
            state: Mutex::new(State {
                moves: Moves::default(),
                members: Members::default(),
                pending: HashMap::new(),
                owners: Owners::default(),
                lists: HashMap::new(),
                serving: Serving::default(),
                watching: Watching::default(),
                directory: Directory::default(),
                beat_due: now,
                outbox: Outbox::default(),
                has_left: false,
            }),
            outbox_changed: Notify::new(),
            directory_changed: Notify::new(),
            runtime: Handle::current(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            left: SetOnce::new(),
            joined_at: now,
        });
        let receiver: Arc<dyn Receive> = member.clone();
        member.transport.join(Node::new(id, Arc::downgrade(&receiver)))?;
        if member.transport.is_connected() {
            metrics::connected();
        }
        member.ask_for_introductions();
        // Ended by `stop`, which the server or the observer calls when it is dropped.
        member.runtime.spawn(member.clone().run());
        Ok(member)
    }

    /// Sets the server of this node.
    pub(crate) fn set_home(&self, home: Weak<dyn Home>) {
        let _ = self.home.set(home);
        self.state().beat_due = Instant::now();
        self.outbox_changed.notify_one();
    }

    /// Returns the names of the other nodes that this node has heard of.
    #[cfg(feature = "console")]
    pub(crate) fn other_nodes(&self) -> Vec<Arc<str>> {
        let state = self.state();
        state.members.all(Instant::now().into_std()).map(|(_, name)| name).collect()
    }

    /// Returns the name of this node.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Returns the epoch of a session that opens.
    pub(crate) fn next_epoch(&self) -> Epoch {
        let now = self.transport.now();
        self.clock().next(now)
    }

    /// Waits until a station is connected to any node. `find` returns the session of this node.
    pub(crate) async fn connected(&self, key: &Arc<str>, find: impl Fn() -> Option<StationInfo>) -> StationInfo {
        let waiting = self.openings.wait(key);
        loop {
            let mut opened = waiting.opened();
            if let Some(info) = find() {
                return info;
            }
            tokio::select! {
                info = self.info(key) => {
                    if let Ok(Some(info)) = info {
                        return info;
                    }
                }
                () = &mut opened => continue,
            }
            // An announcement may be lost.
            let _ = timeout(RETRY_INTERVAL, opened).await;
        }
    }

    /// Leaves the cluster, when all sessions have ended.
    pub(crate) async fn leave(&self) {
        self.tasks.close();
        let _ = timeout(LEAVE_TIMEOUT, self.tasks.wait()).await;
        self.stop();
        // The runtime of the task may be gone.
        let _ = timeout(3 * LEAVE_TIMEOUT, self.left.wait()).await;
    }

    /// Leaves the cluster in the background.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    fn home(&self) -> Option<Arc<dyn Home>> {
        self.home.get()?.upgrade()
    }

    /// Sends what need not be awaited, and leaves the cluster at the end.
    async fn run(self: Arc<Self>) {
        let working = async { tokio::join!(self.run_control(), self.run_directory()) };
        self.stop.run_until_cancelled(working).await;
        let _ = timeout(LEAVE_TIMEOUT, self.flush_outbox()).await;
        let _ = timeout(LEAVE_TIMEOUT, self.broadcast(&Broadcast::Leaving { from: self.id })).await;
        let _ = timeout(LEAVE_TIMEOUT, self.transport.leave()).await;
        self.end();
        let _ = self.left.set(());
    }

    /// Fails everything that waits for other nodes.
    fn end(&self) {
        self.fail_all_requests();
        let mut state = self.state();
        state.has_left = true;
        state.lists.clear();
        let readers = state.watching.end();
        drop(state);
        drop(readers);
    }

    /// Sends control messages, signs of life, probes and requests for events.
    async fn run_control(&self) {
        loop {
            let due = {
                let state = self.state();
                let others = [state.owners.probe_due, state.watching.renewal_due, state.serving.check_due];
                others.into_iter().flatten().chain([state.beat_due]).min()
            };
            self.wait_until(due, &self.outbox_changed).await;
            let now = Instant::now();
            self.check_callers(now);
            if self.transport.is_connected() {
                self.beat(now);
                self.probe(now);
                self.renew_watches(now).await;
                self.flush_outbox().await;
            }
        }
    }

    /// Waits for a moment or a notification. While the broker is away, looks every second if it is back.
    async fn wait_until(&self, due: Option<Instant>, changed: &Notify) {
        // The broker does not always tell that it is away, or back.
        let due = due.filter(|_| self.transport.is_connected()).unwrap_or_else(|| Instant::now() + RETRY_INTERVAL);
        tokio::select! {
            () = changed.notified() => {}
            () = sleep_until(due) => {}
        }
    }

    /// Sends a sign of life. An observer sends none: no list lacks its stations if it does not answer.
    fn beat(&self, now: Instant) {
        let is_due = {
            let mut state = self.state();
            let is_due = state.beat_due <= now;
            if is_due {
                state.beat_due = now + BEAT;
            }
            is_due
        };
        if is_due && self.home().is_some() {
            self.post(Target::All(None), None, wire::encode(&Broadcast::Here(self.introduction())));
        }
    }

    fn on_broadcast(self: &Arc<Self>, key: Option<&str>, message: Broadcast) {
        match message {
            Broadcast::Watch { from, watch, filter, lease } => self.on_watch(from, watch, filter, lease),
            // This node may carry out a request of its own, if the station has come here meanwhile.
            Broadcast::Cancel { from, request } => self.on_cancel(key, from, request),
            Broadcast::Open(Announcement { from, .. })
            | Broadcast::Introduce { from }
            | Broadcast::Leaving { from }
            | Broadcast::List { from, .. }
                if from == self.id => {}
            Broadcast::Here(introduction) if introduction.from == self.id => {}
            Broadcast::Open(announcement) => self.on_opened(announcement),
            Broadcast::Introduce { from } => {
                if self.home().is_some() {
                    self.control(from, &Control::Here(self.introduction()));
                }
            }
            Broadcast::Here(introduction) => self.on_here(&introduction),
            Broadcast::Leaving { from } => {
                tracing::info!(node = %from, "a node left the cluster");
                // Its responses may arrive later. A probe tells when there are no more.
                self.state().members.left(from, Instant::now().into_std());
                self.end_list_of(from);
            }
            Broadcast::List { from, request, prefix } => self.on_list(from, request, None, &prefix),
        }
    }

    fn on_control(self: &Arc<Self>, key: Option<&str>, message: Control) {
        match message {
            Control::Cancel { from, request } => self.on_cancel(key, from, request),
            Control::Probe { from, probe, requests } => self.on_probe(key, from, probe, requests),
            Control::Alive { from, probe, unknown } => self.on_alive(from, probe, &unknown),
            Control::CallResultError { from, request, error } => self.on_call_result_error(key, from, request, error),
            Control::List { from, request, after, prefix } => self.on_list(from, request, Some(&after), &prefix),
            Control::Here(introduction) => self.on_here(&introduction),
            Control::Announce { from, after } => self.on_announce(from, after),
            Control::Open(announcement) => self.on_part(announcement),
        }
    }

    /// Handles the end of another node.
    fn on_lost_node(&self, node: NodeId) {
        let mut state = self.state();
        state.members.lost(node);
        state.watching.forget(node);
        let running = state.serving.cancel_all_of(node);
        drop(state);
        drop(running);
        self.fail_requests_of(node);
        self.end_list_of(node);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock cannot leave the state inconsistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clock(&self) -> MutexGuard<'_, HybridClock> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Returns the number of a new request. A process that knows others cannot guess it, and respond in the place
    /// of the owner.
    fn next_request(&self) -> u64 {
        random()
    }
}

impl Receive for Member {
    fn received(self: Arc<Self>, received: Received<'_>, message: Bytes) {
        let this = &self;
        match received {
            Received::Request { node: from, request, key } => match read::<Request>(&message) {
                Some(message) if *message.key == *key => this.on_request(from, request, message),
                Some(_) => not_about(Some(key)),
                None => this.refuse_request(from, request, key),
            },
            Received::Control(key) => match read::<Control>(&message) {
                Some(message) if key.is_none() || message.may_be_about_a_station() => this.on_control(key, message),
                Some(_) => not_about(key),
                None => {}
            },
            Received::Response(request) => {
                _ = read::<Response>(&message).map(|response| this.on_response(request, response))
            }
            Received::Broadcast(key) => match read::<Broadcast>(&message) {
                Some(message) if key.is_none_or(|key| message.may_be_about(key)) => this.on_broadcast(key, message),
                Some(_) => not_about(key),
                None => {}
            },
            Received::Event => this.on_event(&message),
        }
    }

    fn not_delivered(self: Arc<Self>, request: u64) {
        self.on_not_delivered(request);
    }

    fn not_permitted(self: Arc<Self>, key: &str) {
        self.on_not_permitted(key);
    }

    fn disconnected(self: Arc<Self>) {
        tracing::warn!("the cluster is away: calls to other nodes fail");
        metrics::disconnected();
        self.fail_all_requests();
    }

    fn reconnected(self: Arc<Self>) {
        tracing::info!("the cluster is back");
        metrics::reconnected();
        let mut state = self.state();
        state.watching.renew();
        state.members.ask_again();
        drop(state);
        self.ask_for_introductions();
        self.directory_changed.notify_one();
    }

    fn messages_lost(self: Arc<Self>) {
        tracing::warn!("messages of other nodes were lost, because this node was too slow");
        metrics::dropped();
        self.state().members.ask_again();
        self.ask_for_introductions();
    }
}

/// Reads a message of another node, and logs one that cannot be read.
fn read<T: DeserializeOwned>(message: &[u8]) -> Option<T> {
    wire::decode(message)
        .inspect_err(|error| {
            metrics::dropped();
            tracing::warn!(%error, bytes = message.len(), "cannot read a message of another node");
        })
        .ok()
}

/// Logs a message of a process that can be permitted to send messages about this station only, and not this one.
fn not_about(key: Option<&str>) {
    metrics::dropped();
    tracing::warn!(key, "a message to the subject of a station is about something else");
}

/// Returns the failure of a message that was not sent.
fn send_failure(error: SendError) -> Error {
    match error {
        SendError::Disconnected => Error::Unreachable,
        SendError::TooLarge => Error::TooLarge { maybe_delivered: false },
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

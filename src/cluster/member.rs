//! One node of a cluster: its state, the messages that it receives, and the task that sends what need not be awaited.

mod calls;
pub(crate) mod lists;
mod serving;
pub(crate) mod watching;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fmt, mem,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use smallvec::SmallVec;
use tokio::{
    sync::{Notify, SetOnce},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    cluster::{
        epoch::{Epoch, HybridClock, NodeId},
        home::Home,
        listing::List,
        members::{BEAT, Heard, Members},
        metrics,
        moves::Moves,
        node::{Node, Receive, Received},
        requests::{Owners, Pending},
        serving::Serving,
        transport::{Cluster, Destination, JoinError, SendError, Topic},
        watching::Watching,
        wire::{self, Announced, Broadcast, Control, Reply, Request},
    },
    error::Error,
    info::StationInfo,
    openings::Openings,
    random::random,
    unix_time,
};

/// Sessions that open within this time are announced in one message.
const BATCH: Duration = Duration::from_millis(5);

/// The control messages that may wait. More are dropped.
const MAX_OUTBOX: usize = 65_536;

/// The announcements that may wait while the broker is away. Beyond that, everything is announced when it is back.
const MAX_OPENS: usize = 65_536;

/// The time after which a task that waits for a station asks again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The time that calls of other nodes have to end when this node leaves.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// A node of a cluster.
pub(crate) struct Member {
    id: NodeId,
    name: Arc<str>,
    transport: Arc<dyn Cluster>,
    /// Absent at an observer.
    home: OnceLock<Weak<dyn Home>>,
    openings: Arc<Openings>,
    state: Mutex<State>,
    changed: Notify,
    /// The tasks that carry out the requests of other nodes.
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Set when this node has left the cluster.
    left: SetOnce<()>,
    joined_at: Instant,
}

struct State {
    clock: HybridClock,
    moves: Moves,
    members: Members,
    next_request: u64,
    pending: HashMap<u64, Pending>,
    owners: Owners,
    lists: HashMap<u64, List>,
    serving: Serving,
    watching: Watching,
    /// The stations with a session here, with the ids of the sessions.
    stations: HashMap<Arc<str>, Interest>,
    /// The stations whose subscription must change.
    dirty: HashSet<Arc<str>>,
    /// The sessions to announce.
    opens: Vec<Announced>,
    opens_due: Option<Instant>,
    /// Set if all sessions must be announced.
    announce_all: bool,
    /// The latest time at which another node asked for that.
    announced_at: Option<Instant>,
    /// The number of messages that announced sessions.
    sent_opens: u64,
    beat_due: Instant,
    outbox: VecDeque<(Target, Option<u64>, Bytes)>,
}

/// The interest of this node in the requests to a station.
#[derive(Debug, Default)]
struct Interest {
    sessions: SmallVec<[u64; 1]>,
    is_subscribed: bool,
}

/// The parts of a sign of life.
struct Introduction {
    name: Box<str>,
    at: u64,
    opens: u64,
}

/// The receivers of a control message. The key is that of the station that the message is about.
#[derive(Debug, Clone)]
enum Target {
    Node(NodeId, Option<Arc<str>>),
    Reply(NodeId, u64, Option<Arc<str>>),
    All(Option<Arc<str>>),
}

impl Member {
    /// Joins a cluster. Must be called within a tokio runtime.
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
            state: Mutex::new(State {
                clock: HybridClock::new(id),
                moves: Moves::default(),
                members: Members::default(),
                // Another node cannot guess it and reply in the place of the owner.
                next_request: random(),
                pending: HashMap::new(),
                owners: Owners::default(),
                lists: HashMap::new(),
                serving: Serving::default(),
                watching: Watching::default(),
                stations: HashMap::new(),
                dirty: HashSet::new(),
                opens: Vec::new(),
                opens_due: None,
                announce_all: true,
                announced_at: None,
                sent_opens: 0,
                beat_due: now,
                outbox: VecDeque::new(),
            }),
            changed: Notify::new(),
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
        tokio::spawn(member.clone().work());
        Ok(member)
    }

    /// Sets the server of this node.
    pub(crate) fn set_home(&self, home: Weak<dyn Home>) {
        let _ = self.home.set(home);
        self.state().announce_all = true;
        self.changed.notify_one();
    }

    /// Returns the name of this node.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Returns the epoch of a session that opens.
    pub(crate) fn next_epoch(&self) -> Epoch {
        let now = self.transport.now();
        self.state().clock.next(now)
    }

    /// Subscribes to the calls to a station and announces its session.
    pub(crate) fn opened(&self, key: &Arc<str>, session: u64, epoch: Epoch) {
        let mut state = self.state();
        state.moves.forget(key);
        let interest = state.stations.entry(key.clone()).or_default();
        interest.sessions.push(session);
        if !interest.is_subscribed {
            state.dirty.insert(key.clone());
        }
        if state.opens.len() < MAX_OPENS {
            state.opens.push(Announced { key: (&**key).into(), epoch });
        } else {
            state.announce_all = true;
        }
        if state.opens_due.is_none() {
            state.opens_due = Some(Instant::now() + BATCH);
            self.changed.notify_one();
        }
    }

    /// Ends the subscription of a station if it has no other session here. May be called twice.
    pub(crate) fn closed(&self, key: &Arc<str>, session: u64) {
        let mut state = self.state();
        let Some(interest) = state.stations.get_mut(key) else { return };
        interest.sessions.retain(|open| *open != session);
        if interest.sessions.is_empty() && state.dirty.insert(key.clone()) {
            self.changed.notify_one();
        }
    }

    /// Waits until a station is connected to any node. `find` returns the session of this node.
    pub(crate) async fn connected(&self, key: &Arc<str>, find: impl Fn() -> Option<StationInfo>) -> StationInfo {
        let waiting = self.openings.wait(key);
        loop {
            let opened = waiting.opened();
            if let Some(info) = find() {
                return info;
            }
            if let Ok(Some(info)) = self.info(key).await {
                return info;
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
        self.left.wait().await;
    }

    /// Leaves the cluster in the background.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    fn home(&self) -> Option<Arc<dyn Home>> {
        self.home.get()?.upgrade()
    }

    /// Sends what need not be awaited, and leaves the cluster at the end.
    async fn work(self: Arc<Self>) {
        self.stop.run_until_cancelled(self.flush_when_due()).await;
        let leaving = async {
            self.flush().await;
            self.broadcast(&Broadcast::Leaving { from: self.id }).await;
            self.transport.leave().await;
        };
        let _ = timeout(LEAVE_TIMEOUT, leaving).await;
        let _ = self.left.set(());
    }

    /// Sends what need not be awaited, when it is due.
    async fn flush_when_due(&self) {
        loop {
            let due = self.due();
            let due = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.changed.notified() => {}
                () = due => {}
            }
            self.flush().await;
        }
    }

    /// Returns the moment of the next periodic task. `None` while the broker is away.
    fn due(&self) -> Option<Instant> {
        if !self.transport.is_connected() {
            return None;
        }
        let state = self.state();
        let others = [state.opens_due, state.owners.due(), state.watching.due()];
        others.into_iter().flatten().chain([state.beat_due]).min()
    }

    /// Sends everything that is due.
    async fn flush(&self) {
        if !self.transport.is_connected() {
            return;
        }
        let now = Instant::now();
        self.flush_outbox().await;
        // Taken before the subscriptions are updated, so that each announced session is subscribed.
        let sessions = self.take_opens(now).await;
        self.update_subscriptions().await;
        self.announce(sessions).await;
        self.beat(now).await;
        self.probe(now);
        self.renew_watches(now).await;
        self.flush_outbox().await;
    }

    async fn flush_outbox(&self) {
        loop {
            let Some((target, request, message)) = self.state().outbox.pop_front() else { return };
            let to = match &target {
                Target::Node(node, key) => Destination::Node(*node, key.as_deref()),
                Target::Reply(node, request, key) => Destination::Reply(*node, *request, key.as_deref()),
                Target::All(key) => Destination::All(key.as_deref()),
            };
            if let Err(error) = self.transport.send(to, request, message).await {
                tracing::debug!(%error, "a message to another node was not sent");
            }
        }
    }

    /// Subscribes to the stations that have a session here, and ends the subscriptions of the others.
    async fn update_subscriptions(&self) {
        let dirty = mem::take(&mut self.state().dirty);
        for key in dirty {
            let (wanted, is_subscribed) = {
                let mut state = self.state();
                let Some(interest) = state.stations.get_mut(&key) else { continue };
                let wanted = !interest.sessions.is_empty();
                let was = mem::replace(&mut interest.is_subscribed, wanted);
                if !wanted {
                    state.stations.remove(&key);
                }
                (wanted, was)
            };
            let topic = Topic::Station(&key);
            let changed = match (wanted, is_subscribed) {
                (true, false) => self.transport.subscribe(topic).await,
                (false, true) => self.transport.unsubscribe(topic).await,
                _ => Ok(()),
            };
            if let Err(error) = changed {
                // The broker is away. The transport restores its subscriptions, but not one that it never had.
                tracing::debug!(%error, key = &*key, "cannot change a subscription");
                let mut state = self.state();
                if let Some(interest) = state.stations.get_mut(&key) {
                    interest.is_subscribed = is_subscribed;
                    state.dirty.insert(key);
                }
            }
        }
    }

    /// Returns the sessions that must be announced now.
    async fn take_opens(&self, now: Instant) -> Vec<Announced> {
        {
            let mut state = self.state();
            if !state.announce_all {
                if state.opens_due.is_none_or(|due| due > now) {
                    return Vec::new();
                }
                state.opens_due = None;
                return mem::take(&mut state.opens);
            }
            state.announce_all = false;
            state.announced_at = Some(Instant::now());
            state.opens_due = None;
            state.opens.clear();
        }
        self.broadcast(&Broadcast::Who { from: self.id }).await;
        self.introduce().await;
        self.home().map(|home| home.announcements()).unwrap_or_default()
    }

    async fn announce(&self, sessions: Vec<Announced>) {
        let mut sessions = sessions.into_iter().peekable();
        while sessions.peek().is_some() {
            let mut left = self.transport.max_message_size() / 2;
            let mut chunk = Vec::new();
            // A key takes up to six bytes per byte if all of them are escaped.
            while let Some(session) = sessions.next_if(|session| chunk.is_empty() || 6 * session.key.len() + 64 < left)
            {
                left = left.saturating_sub(6 * session.key.len() + 64);
                chunk.push(session);
            }
            let opens = {
                let mut state = self.state();
                state.sent_opens += 1;
                state.sent_opens
            };
            self.broadcast(&Broadcast::Open { from: self.id, opens, sessions: chunk }).await;
        }
    }

    /// Sends a sign of life.
    async fn beat(&self, now: Instant) {
        {
            let mut state = self.state();
            if state.beat_due > now {
                return;
            }
            state.beat_due = now + BEAT;
        }
        self.introduce().await;
    }

    /// Tells the other nodes of this one. An observer is not one that they could miss.
    async fn introduce(&self) {
        if self.home().is_some() {
            let Introduction { name, at, opens } = self.introduction();
            self.broadcast(&Broadcast::Here { from: self.id, name, at, opens }).await;
        }
    }

    async fn broadcast(&self, message: &Broadcast) {
        self.broadcast_about(None, message).await;
    }

    /// Sends a message about a station to all nodes.
    async fn broadcast_about(&self, key: Option<&str>, message: &Broadcast) {
        if let Err(error) = self.transport.send(Destination::All(key), None, wire::encode(message)).await {
            tracing::debug!(%error, "a message to all nodes was not sent");
        }
    }

    /// Sends a control message in the background.
    fn post(&self, target: Target, request: Option<u64>, message: Bytes) {
        let mut state = self.state();
        if state.outbox.len() >= MAX_OUTBOX {
            drop(state);
            metrics::dropped();
            tracing::warn!("too many messages to other nodes wait: one is dropped");
            return;
        }
        state.outbox.push_back((target, request, message));
        drop(state);
        self.changed.notify_one();
    }

    fn control(&self, node: NodeId, message: &Control) {
        self.post(Target::Node(node, None), None, wire::encode(message));
    }

    /// Sends a control message about a station in the background.
    fn control_about(&self, key: &Arc<str>, node: NodeId, message: &Control) {
        self.post(Target::Node(node, Some(key.clone())), None, wire::encode(message));
    }

    /// Handles the announcement of sessions by another node.
    fn on_open(&self, from: NodeId, sessions: Vec<Announced>) -> Vec<Announced> {
        let (now, time) = (Instant::now().into_std(), self.transport.now());
        let home = self.home();
        let mut claims = Vec::new();
        for Announced { key, epoch } in sessions {
            let key: Arc<str> = key.into();
            {
                let mut state = self.state();
                state.clock.observe(epoch, time);
                state.moves.record(&key, from, epoch, now);
            }
            if let Some(claim) = home.as_ref().and_then(|home| home.announced(&key, epoch)) {
                self.state().moves.forget(&key);
                claims.push(Announced { key: (*key).into(), epoch: claim });
            }
            self.openings.notify(&key);
        }
        claims
    }

    fn introduction(&self) -> Introduction {
        let at = unix_time::millis(self.transport.now());
        Introduction { name: (&*self.name).into(), at, opens: self.state().sent_opens }
    }

    /// Handles a sign of life.
    fn on_here(&self, node: NodeId, Introduction { name, at, opens }: Introduction) {
        let skew = at as f64 - unix_time::millis(self.transport.now()) as f64;
        metrics::clock_skew(skew / 1000.0);
        let heard = self.state().members.heard(node, &name, opens, Instant::now().into_std());
        if heard == Heard::First {
            tracing::info!(node = &*name, "a node joined the cluster");
            if skew.abs() > MAX_SKEW_MS {
                tracing::warn!(node = &*name, seconds = skew / 1000.0, "the clock of a node differs from this one's");
            }
            self.state().watching.renew();
            self.changed.notify_one();
        }
        // The announcements of a node before this one heard of it are missing.
        if heard == Heard::Incomplete || (heard == Heard::First && opens > 0) {
            self.control(node, &Control::Announce { from: self.id });
        }
    }

    /// Announces all sessions again, at most once a second.
    fn announce_all(&self) {
        let mut state = self.state();
        if state.announced_at.is_none_or(|at| at.elapsed() >= RETRY_INTERVAL) {
            state.announced_at = Some(Instant::now());
            state.announce_all = true;
            drop(state);
            self.changed.notify_one();
        }
    }

    fn on_broadcast(self: &Arc<Self>, message: Broadcast) {
        match message {
            Broadcast::Watch { from, watch, filter, lease } => self.on_watch(from, watch, filter, lease),
            Broadcast::Open { from, .. }
            | Broadcast::Who { from }
            | Broadcast::Here { from, .. }
            | Broadcast::Leaving { from }
            | Broadcast::List { from, .. }
            | Broadcast::Cancel { from, .. }
                if from == self.id => {}
            Broadcast::Open { from, opens, sessions } => {
                if self.state().members.opened(from, opens) {
                    self.control(from, &Control::Announce { from: self.id });
                }
                let claims = self.on_open(from, sessions);
                if !claims.is_empty() {
                    self.control(from, &Control::Claim { from: self.id, sessions: claims });
                }
            }
            Broadcast::Who { from } => {
                if self.home().is_some() {
                    let Introduction { name, at, opens } = self.introduction();
                    self.control(from, &Control::Here { from: self.id, name, at, opens });
                }
            }
            Broadcast::Here { from, name, at, opens } => {
                self.on_here(from, Introduction { name, at, opens });
            }
            Broadcast::Leaving { from } => {
                tracing::info!(node = %from, "a node left the cluster");
                self.on_gone(from);
            }
            Broadcast::List { from, request } => self.on_list(from, request, None),
            Broadcast::Cancel { from, request } => self.on_cancel(from, request),
        }
    }

    fn on_control(&self, key: Option<&str>, message: Control) {
        match message {
            Control::Cancel { from, request } => self.on_cancel(from, request),
            Control::Probe { from, requests } => self.on_probe(key, from, requests),
            Control::Alive { from, unknown } => self.on_alive(from, &unknown),
            Control::Claim { from, sessions } => drop(self.on_open(from, sessions)),
            Control::Complain { from, request, error } => self.on_complaint(from, request, error),
            Control::List { from, request, after } => self.on_list(from, request, Some(&after)),
            Control::Here { from, name, at, opens } => {
                self.on_here(from, Introduction { name, at, opens });
            }
            Control::Announce { .. } => self.announce_all(),
        }
    }

    /// Handles the end of another node.
    fn on_gone(&self, node: NodeId) {
        self.state().members.forget(node);
        self.fail_requests_of(node);
        self.on_lister_gone(node);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock cannot leave the state inconsistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The clock of another node may differ by this much without a warning.
const MAX_SKEW_MS: f64 = 10_000.0;

impl State {
    fn next_request(&mut self) -> u64 {
        self.next_request = self.next_request.wrapping_add(1);
        self.next_request
    }
}

impl Receive for Member {
    fn received(self: Arc<Self>, received: Received<'_>, message: Bytes) {
        let this = &self;
        match received {
            Received::Request(from, request, key) => match read::<Request>(&message) {
                Some(message) if *message.key == *key => this.on_request(from, request, message),
                Some(_) => not_about(Some(key)),
                None => this.refuse_request(from, request, key),
            },
            Received::Control(key) => match read::<Control>(&message) {
                Some(message) if key.is_none() || message.may_be_about_a_station() => this.on_control(key, message),
                Some(_) => not_about(key),
                None => {}
            },
            Received::Reply(request) => _ = read::<Reply>(&message).map(|reply| this.on_reply(request, reply)),
            Received::Broadcast(key) => match read::<Broadcast>(&message) {
                Some(message) if key.is_none_or(|key| message.may_be_about(key)) => this.on_broadcast(message),
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
        state.announce_all = true;
        state.watching.renew();
        drop(state);
        self.changed.notify_one();
    }

    fn messages_lost(self: Arc<Self>) {
        tracing::warn!("messages of other nodes were lost, because this node was too slow");
        metrics::dropped();
        self.state().announce_all = true;
        self.changed.notify_one();
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

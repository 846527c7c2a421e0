//! The servers of a simulation: one alone, or the nodes of a cluster, which stop and start again, lose their broker and
//! each other, and have clocks that jump.

use std::{
    future::pending,
    ops::RangeInclusive,
    panic::panic_any,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use ocpp_rpc::{
    Accept, Authenticate, Close, Handshake, Options, Reject, RpcServer,
    cluster::{self, Destination, Local},
    event::{Direction, EventKind},
    server::DuplicateIdentity,
};
use tokio::{task::JoinHandle, time::sleep};

use crate::{
    history::{Caller, Fact},
    seeds::{Habits, close, options, session_options},
    tapped::{Fate, Tapped},
    world::{Planned, World, lock, router},
};

const NAMES: &[&str] = &["a", "b", "c"];

/// The servers of a simulation. Each start of one has a number.
pub struct Nodes {
    world: Arc<World>,
    habits: Habits,
    duplicates: DuplicateIdentity,
    /// `None` if there is one server alone.
    cluster: Option<Local>,
    network: Mutex<Network>,
    /// Set when the faults of the cluster have ended.
    is_healed: Arc<AtomicBool>,
    slots: Mutex<Vec<Slot>>,
    starts: AtomicUsize,
    /// The readers of events, which end with their servers.
    watching: Mutex<Vec<JoinHandle<()>>>,
}

/// The state of a cluster.
struct Network {
    /// In milliseconds.
    delay: RangeInclusive<u64>,
    loss: f64,
    duplication: f64,
    /// The number of faults at this moment because of which all messages are lost.
    blackouts: usize,
    /// The number of other faults at this moment because of which messages are lost.
    troubles: usize,
}

/// The place of a server, which is empty while it is down.
#[derive(Default)]
struct Slot {
    node: Option<Node>,
    clock: Clock,
}

/// A running server.
#[derive(Clone)]
pub struct Node {
    pub number: usize,
    pub server: RpcServer,
}

/// The time that a clock is ahead, in milliseconds. It may jump.
type Clock = Arc<AtomicI64>;

/// The key of a session, as the authenticator has set it.
#[derive(Clone, PartialEq)]
pub struct Key(pub String);

impl Nodes {
    pub fn start(world: &Arc<World>, habits: Habits) -> Arc<Self> {
        let duplicates = [DuplicateIdentity::ReplaceOld, DuplicateIdentity::RejectNew, DuplicateIdentity::AllowBoth];
        let nodes = Arc::new(Self {
            world: world.clone(),
            habits,
            duplicates: world.pick(&duplicates),
            cluster: (habits.nodes > 1).then(Local::new),
            network: Mutex::new(Network::new(0..=0)),
            is_healed: Arc::default(),
            slots: Mutex::new((0..habits.nodes).map(|_| Slot::default()).collect()),
            starts: AtomicUsize::new(0),
            watching: Mutex::default(),
        });
        if nodes.is_cluster() {
            nodes.change_network();
        }
        for slot in 0..habits.nodes {
            nodes.start_node(slot);
        }
        nodes
    }

    pub fn is_cluster(&self) -> bool {
        self.cluster.is_some()
    }

    /// Returns whether a station may have several sessions in the end.
    pub fn allows_duplicates(&self) -> bool {
        self.duplicates == DuplicateIdentity::AllowBoth
    }

    /// Returns the servers that run.
    pub fn running(&self) -> Vec<Node> {
        lock(&self.slots).iter().filter_map(|slot| slot.node.clone()).collect()
    }

    /// Returns one of the servers. `None` if it is down.
    pub fn any(&self) -> Option<Node> {
        let slot = self.any_slot();
        lock(&self.slots)[slot].node.clone()
    }

    fn any_slot(&self) -> usize {
        self.world.roll(0..self.habits.nodes)
    }

    fn start_node(&self, slot: usize) {
        let Self { world, habits, .. } = self;
        let number = self.starts.fetch_add(1, Ordering::Relaxed);
        let clock = lock(&self.slots)[slot].clock.clone();
        let builder = RpcServer::builder(router(world, Caller::Node(number)))
            .protocols(["ocpp2.1", "ocpp1.6"])
            .options(self.options())
            .duplicate_identity(self.duplicates)
            .handshake_timeout(Duration::from_secs(5))
            .auth(authenticator(world, *habits));
        let builder = match &self.cluster {
            Some(cluster) => {
                let node = Tapped::new(cluster.node(NAMES[slot]))
                    .clock(move |now| jumped(now, clock.load(Ordering::Relaxed)))
                    .on_send(watch_requests(world, number, &self.is_healed));
                builder.cluster(node)
            }
            None => builder,
        };
        let server = builder.build().expect("valid settings, and a free name");
        if self.habits.is_watched {
            lock(&self.watching).push(watch_events(world, &server));
        }
        world.step(format!("node {number} starts in the place {slot}"));
        lock(&self.slots)[slot].node = Some(Node { number, server });
    }

    fn options(&self) -> Options {
        let options = options(&self.world, Options::server(), &[]);
        if self.habits.is_compressed { options } else { options.compression(None) }
    }

    /// Does something bad to the cluster. Returns the task that makes up for it.
    pub fn harm(self: &Arc<Self>) -> Option<JoinHandle<()>> {
        let (world, slot) = (&self.world, self.any_slot());
        let cluster = self.cluster.clone()?;
        let (name, nodes) = (NAMES[slot], self.clone());
        match world.roll(0..12) {
            0..4 => return self.restart(slot),
            4 | 5 => {
                let pause = world.milliseconds(0..8000);
                world.step(format!("the broker of {slot} is away for {pause:?}"));
                cluster.disconnect(name);
                self.change(|network| network.troubles += 1);
                return Some(tokio::spawn(async move {
                    sleep(pause).await;
                    cluster.reconnect(name);
                    nodes.change(|network| network.troubles -= 1);
                }));
            }
            6 | 7 => {
                let pause = world.milliseconds(0..15_000);
                world.step(format!("{slot} is alone for {pause:?}"));
                cluster.divide(&[&[name]]);
                self.change(|network| network.troubles += 1);
                return Some(tokio::spawn(async move {
                    sleep(pause).await;
                    cluster.unite();
                    nodes.change(|network| network.troubles -= 1);
                }));
            }
            8 => {
                let pause = world.milliseconds(0..12_000);
                world.step(format!("all messages of the cluster are lost for {pause:?}"));
                self.change(|network| network.blackouts += 1);
                return Some(tokio::spawn(async move {
                    sleep(pause).await;
                    nodes.change(|network| network.blackouts -= 1);
                }));
            }
            9 | 10 => {
                let jump = world.pick(&[-3_600_000, -20_000, -1000, 1000, 20_000, 3_600_000]);
                world.step(format!("the clock of {slot} jumps by {jump} ms"));
                lock(&self.slots)[slot].clock.fetch_add(jump, Ordering::Relaxed);
            }
            _ => self.change_network(),
        }
        None
    }

    /// Stops a node, and starts it again after a while.
    fn restart(self: &Arc<Self>, slot: usize) -> Option<JoinHandle<()>> {
        let world = &self.world;
        let Node { number, server } = lock(&self.slots)[slot].node.take()?;
        let (pause, mut close) = (world.milliseconds(0..8000), close(world));
        if world.chance(50) {
            world.step(format!("node {number} is killed, for {pause:?}"));
            self.cluster.iter().for_each(|cluster| cluster.kill(NAMES[slot]));
            close = Close::forced();
        } else {
            world.step(format!("node {number} closes for {pause:?}: {close:?}"));
        }
        self.change(|network| network.troubles += 1);
        let nodes = self.clone();
        Some(tokio::spawn(async move {
            server.close(close).await;
            drop(server);
            sleep(pause).await;
            nodes.start_node(slot);
            nodes.change(|network| network.troubles -= 1);
        }))
    }

    fn change_network(&self) {
        const DELAYS: &[RangeInclusive<u64>] = &[0..=0, 0..=5, 5..=50, 0..=300, 500..=4000];
        let world = &self.world;
        let delay = DELAYS[world.roll(0..DELAYS.len())].clone();
        let (loss, duplication) = (world.pick(&[0.0, 0.0, 0.05, 0.3]), world.pick(&[0.0, 0.0, 0.2]));
        self.change(|network| *network = Network { delay, loss, duplication, ..*network });
    }

    /// Changes the state of the cluster, and records it.
    fn change(&self, change: impl FnOnce(&mut Network)) {
        let (Some(cluster), mut network) = (&self.cluster, lock(&self.network)) else { return };
        change(&mut network);
        let Network { delay, loss, duplication, blackouts, troubles } = &*network;
        let loss = if *blackouts > 0 { 1.0 } else { *loss };
        cluster.set_delay(Duration::from_millis(*delay.start())..=Duration::from_millis(*delay.end()));
        cluster.set_loss(loss);
        cluster.set_duplication(*duplication);
        let is_lossy = loss > 0.0 || *troubles > 0;
        self.world.record(Fact::Network { delay: *delay.end(), is_lossy, duplication: *duplication });
    }

    /// Ends all faults of the cluster. Clocks stay as they are.
    pub fn heal(&self) {
        let Some(cluster) = &self.cluster else { return };
        self.world.step("the cluster is whole again");
        self.is_healed.store(true, Ordering::Relaxed);
        cluster.unite();
        NAMES.iter().for_each(|name| cluster.reconnect(name));
        self.change(|network| *network = Network::new(0..=10));
    }

    /// Waits until the events of all servers have ended.
    pub async fn watched(&self) {
        let watching = std::mem::take(&mut *lock(&self.watching));
        for events in watching {
            let _ = events.await;
        }
    }
}

impl Network {
    fn new(delay: RangeInclusive<u64>) -> Self {
        Self { delay, loss: 0.0, duplication: 0.0, blackouts: 0, troubles: 0 }
    }
}

fn authenticator(world: &Arc<World>, habits: Habits) -> impl Authenticate + use<> {
    let world = world.clone();
    move |handshake: Handshake| {
        let world = world.clone();
        async move {
            let link = handshake.remote_address().map_or(0, |address| address.port());
            match world.roll(0..20) {
                0 => sleep(world.milliseconds(1..500)).await,
                1 => pending().await,
                2 => return Err(Reject::unauthorized()),
                3 => panic_any(Planned),
                _ => {}
            }
            let client = handshake.query().and_then(|query| query.strip_prefix("client=")?.parse().ok());
            let Some(client) = client else { return Err(Reject::not_found()) };
            if !handshake.password().is_some_and(|password| world.knows_password(client, &password)) {
                world.record(Fact::UnknownPassword { link });
                return Err(Reject::unauthorized());
            }
            let key = habits.key(client, handshake.identity());
            let options = session_options(&world, habits, link);
            Ok(Accept::new().key(key.clone()).extension(Key(key)).options(options))
        }
    }
}

/// Records the ends of calls at a server, and counts the sessions that open and close, as far as no event is lost.
fn watch_events(world: &Arc<World>, server: &RpcServer) -> JoinHandle<()> {
    let (mut events, world) = (server.events(), world.clone());
    tokio::spawn(async move {
        let (mut open, mut is_complete) = (0_usize, true);
        while let Some(event) = events.next().await {
            match event.kind {
                EventKind::Opened { .. } => open += 1,
                EventKind::Closed(_) => match open.checked_sub(1) {
                    Some(left) => open = left,
                    None if is_complete => world.record(Fact::Broken("a session closed and never opened".into())),
                    None => {}
                },
                EventKind::CallEnded { direction: Direction::Out, id, .. } => {
                    if let Some(call) = world.call_of_id(id.as_str()) {
                        world.record(Fact::EndedAtServer { call });
                    }
                }
                EventKind::Lagged(_) => is_complete = false,
                _ => {}
            }
        }
        if is_complete {
            world.record(Fact::Left { what: "opened sessions without the event of their end", number: open });
        }
    })
}

/// Records the requests of a node, and delays some of them.
fn watch_requests(
    world: &Arc<World>,
    number: usize,
    is_healed: &Arc<AtomicBool>,
) -> impl Fn(&cluster::Node, Destination<'_>, &Bytes) -> Fate + use<> {
    let (world, is_healed) = (world.clone(), is_healed.clone());
    move |_, to, message| {
        let is_request = matches!(to, Destination::Station(_) | Destination::StationAt { .. });
        let Some(call) = number_in(message).filter(|_| is_request) else { return Fate::Sent };
        world.record(Fact::Requested { call, node: number });
        if is_healed.load(Ordering::Relaxed) || !world.chance(4) {
            return Fate::Sent;
        }
        let late = world.milliseconds(1000..10_000);
        world.record(Fact::Late { call, late });
        Fate::Late(late)
    }
}

/// Returns the time of a clock that has jumped.
fn jumped(now: SystemTime, jumps: i64) -> SystemTime {
    /// No jump leads to a time before 1970.
    const START: Duration = Duration::from_secs(1 << 30);
    let distance = Duration::from_millis(jumps.unsigned_abs());
    if jumps < 0 { now + START - distance } else { now + START + distance }
}

/// Returns the number of the call in a request.
fn number_in(message: &[u8]) -> Option<u64> {
    let text = str::from_utf8(message).ok()?;
    let (_, number) = text.split_once(r#""n":"#)?;
    number.split(',').next()?.parse().ok()
}

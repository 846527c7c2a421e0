//! Simulations in memory: all ends are this crate's, the links between them and the cluster of servers have faults, and
//! the seed decides all of it.

use std::{
    cell::Cell,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{HeaderValue, header};
use ocpp_rpc::{
    Close, Options, RpcClient, Session, Tolerance,
    client::{Backoff, ClientState, Reconnect, Target},
    compression::Compression,
    server::{ConnectionInfo, Listener},
    unstable::seed as seed_library,
};
use tokio::{
    runtime::{Builder, Handle},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    history::{Caller, End, Fact, History},
    link::{Fault, FaultKind, LinkEnd, Plan, link, link_over_tcp},
    nodes::{Key, Node, Nodes},
    world::{Medium, Peer, World, lock, router},
};

/// Runs the simulation of a seed to its end, and returns its history.
pub fn run(seed: u64, medium: Medium) -> History {
    UNPLANNED_PANICS.set(0);
    let mut builder = Builder::new_current_thread();
    if medium == Medium::Memory {
        seed_library(seed);
        builder.enable_time().start_paused(true);
    } else {
        builder.enable_all();
    }
    let runtime = builder.build().expect("a runtime");
    let world = runtime.block_on(async {
        let world = World::new(seed, medium);
        Simulation::new(&world).await.run().await;
        world.stop.cancel();
        let tasks = || Handle::current().metrics().num_alive_tasks();
        let _ = timeout(medium.long(), async {
            while tasks() > 0 {
                sleep(Duration::from_secs(1)).await;
            }
        })
        .await;
        world.record(Fact::Left { what: "tasks", number: tasks() });
        world.record(Fact::Left { what: "panics", number: UNPLANNED_PANICS.get() });
        world
    });
    seed_library(None);
    world.take_history()
}

thread_local! {
    /// The panics of this thread that no handler has planned.
    pub static UNPLANNED_PANICS: Cell<usize> = const { Cell::new(0) };
}

struct Simulation {
    world: Arc<World>,
    nodes: Arc<Nodes>,
    /// Set if the medium is sockets.
    listener: Option<Listener>,
    clients: Vec<RpcClient>,
    /// The keys of the clients' sessions at the server.
    keys: Vec<String>,
    links: Arc<Mutex<Links>>,
    /// The calls and other tasks of the script. All of them end in the end.
    tasks: Vec<JoinHandle<()>>,
    /// The tasks that make up for the faults of a cluster.
    repairs: Vec<JoinHandle<()>>,
}

/// The time after which a cluster without faults has one session of each station.
const SETTLED: Duration = Duration::from_secs(15);

/// The links that were made, and what cuts each.
type Links = Vec<(u16, CancellationToken)>;

/// The choices that hold for a whole simulation.
#[derive(Clone, Copy)]
pub struct Habits {
    /// The number of servers. Several are the nodes of a cluster.
    pub nodes: usize,
    /// The percentage of links with faults.
    faults: usize,
    is_corrupting: bool,
    pub is_compressed: bool,
    has_tenants: bool,
    /// Whether two clients may have the same identity.
    has_twins: bool,
    /// Whether the events of the servers are read.
    pub is_watched: bool,
}

impl Habits {
    /// Returns the key of a client's sessions. Clients of two tenants may have the same identity.
    pub fn key(self, client: usize, identity: &str) -> String {
        if self.has_tenants { format!("{}/{identity}", client % 2) } else { identity.to_owned() }
    }
}

impl Simulation {
    async fn new(world: &Arc<World>) -> Self {
        let habits = Habits {
            nodes: if world.medium == Medium::Memory { world.pick(&[1, 1, 2, 3]) } else { 1 },
            faults: world.pick(&[0, 30, 70]),
            is_corrupting: world.chance(30),
            is_compressed: world.chance(20),
            has_tenants: world.chance(30),
            has_twins: world.chance(20),
            is_watched: world.chance(30),
        };
        let links = Arc::<Mutex<Links>>::default();
        let nodes = Nodes::start(world, habits);
        let listener = match (world.medium, nodes.any()) {
            (Medium::Sockets, Some(node)) => Some(node.server.listen("127.0.0.1:0").await.expect("a socket")),
            _ => None,
        };
        let address = listener.as_ref().map(Listener::local_addr);
        let count = world.roll(1..4);
        let identities: Vec<_> =
            (0..count).map(|client| format!("CP-{}", if habits.has_twins { 0 } else { client })).collect();
        let clients = identities.iter().enumerate().map(|(at, identity)| {
            let (world, nodes, links) = (world.clone(), nodes.clone(), links.clone());
            Dial { world, nodes, address, links, client: at, habits }.client(identity)
        });
        let clients = clients.collect();
        let keys = identities.iter().enumerate().map(|(client, identity)| habits.key(client, identity)).collect();
        Self { world: world.clone(), nodes, listener, clients, keys, links, tasks: Vec::new(), repairs: Vec::new() }
    }

    async fn run(mut self) {
        let (world, nodes) = (self.world.clone(), self.nodes.clone());
        for client in 0..self.clients.len() {
            self.connect(client);
        }
        let longest = if nodes.is_cluster() { world.pick(&[300, 1500]) } else { 300 };
        for _ in 0..world.roll(5..40) {
            sleep(world.milliseconds(0..longest)).await;
            self.step();
        }
        if nodes.is_cluster() {
            self.settle().await;
        }
        self.end().await;
        nodes.watched().await;
    }

    /// Does something at random.
    fn step(&mut self) {
        let world = self.world.clone();
        let client = world.roll(0..self.clients.len());
        match world.roll(0..if self.nodes.is_cluster() { 170 } else { 110 }) {
            0..40 => {
                let session = Peer::Session(self.clients[client].session());
                for _ in 0..world.pick(&[1, 1, 2, 5]) {
                    self.tasks.push(world.spawn_call(&session, Caller::Client(client)));
                }
            }
            40..70 => {
                if let Some((node, session)) = self.session(client) {
                    let session = Peer::Session(session);
                    for _ in 0..world.pick(&[1, 1, 2, 5]) {
                        self.tasks.push(world.spawn_call(&session, Caller::Node(node)));
                    }
                }
            }
            70..76 => {
                if !self.tasks.is_empty() {
                    world.step("a caller drops its call");
                    // Most of the latest have not ended.
                    let first = if world.chance(50) { self.tasks.len().saturating_sub(8) } else { 0 };
                    self.tasks[world.roll(first..self.tasks.len())].abort();
                }
            }
            76..79 => {
                world.step(format!("client {client} sets options"));
                let options = options(&world, Options::client(), &[End::Client(client)]);
                let _ = self.clients[client].update(|settings| settings.options(options));
            }
            79..82 => {
                if let Some((_, session)) = self.session(client) {
                    world.step(format!("the server sets options of {}", session.identity()));
                    let end = session.remote_address().map_or(0, |address| address.port());
                    let _ = session.set_options(options(&world, Options::server(), &[End::Server(end)]));
                }
            }
            82..86 => {
                if let Some((_, session)) = self.session(client) {
                    let close = close(&world);
                    world.step(format!("the server closes {}: {close:?}", session.identity()));
                    self.tasks.push(tokio::spawn(async move { drop(session.close(close).await) }));
                }
            }
            86..89 => {
                let close = close(&world);
                world.step(format!("client {client} closes: {close:?}"));
                let client = self.clients[client].clone();
                self.tasks.push(tokio::spawn(async move { drop(client.close(close).await) }));
            }
            89..93 => self.connect(client),
            93..98 => {
                let links = lock(&self.links);
                if !links.is_empty() {
                    let (link, cut) = &links[world.roll(0..links.len())];
                    world.step(format!("link {link} is cut"));
                    cut.cancel();
                }
            }
            98..100 => {
                world.step(format!("client {client} sets its router"));
                let router = router(&world, Caller::Client(client));
                self.clients[client].update(|settings| settings.router(router)).expect("valid settings");
            }
            100..103 => self.update(client),
            103..106 => {
                world.step(format!("client {client} reconnects"));
                let client = self.clients[client].clone();
                self.tasks.push(tokio::spawn(async move { drop(client.reconnect().await) }));
            }
            106..110 | 130..170 => {
                if let Some(Node { number, server }) = self.nodes.any() {
                    let station = Peer::Station(server.station(&*self.keys[client]));
                    for _ in 0..world.pick(&[1, 1, 2, 5]) {
                        self.tasks.push(world.spawn_call(&station, Caller::Node(number)));
                    }
                }
            }
            110..112 => {
                if let Some(Node { number, server }) = self.nodes.any() {
                    let close = close(&world);
                    world.step(format!("node {number} closes the station of client {client}: {close:?}"));
                    let station = server.station(&*self.keys[client]);
                    self.tasks.push(tokio::spawn(async move { drop(station.close(close).await) }));
                }
            }
            _ => self.repairs.extend(self.nodes.harm()),
        }
    }

    /// Changes settings of a client that hold from its next connection.
    fn update(&self, client: usize) {
        let world = &self.world;
        world.step(format!("client {client} changes its settings"));
        let protocols = world.pick(&[&["ocpp2.1"][..], &["ocpp1.6"], &["ocpp1.6", "ocpp2.1"]]);
        let updated = self.clients[client].update(|settings| {
            let settings = settings.password(world.next_password(client));
            match world.roll(0..4) {
                0 => settings.protocols(protocols),
                1 => settings.reconnect(reconnect(world)),
                2 => settings.connect_timeout(world.milliseconds(500..5000)),
                _ => settings.header(header::ACCEPT_LANGUAGE, HeaderValue::from_static("en")),
            }
        });
        updated.expect("valid settings");
    }

    /// Returns the session of a client at one of the servers, with the number of the server.
    fn session(&self, client: usize) -> Option<(usize, Session)> {
        let (key, mut nodes) = (Key(self.keys[client].clone()), self.nodes.running());
        if nodes.len() > 1 {
            let first = self.world.roll(0..nodes.len());
            nodes.rotate_left(first);
        }
        nodes.into_iter().find_map(|Node { number, server }| {
            let (session, all) = (server.session(&key.0), server.sessions());
            let mut own = all.iter().filter(|session| session.extension().as_ref() == Some(&key));
            let is_right = match &session {
                None => own.next().is_none(),
                Some(found) => own.any(|session| session.id() == found.id()),
            };
            if !is_right {
                self.world.record(Fact::Broken(format!("the key of client {client} finds {session:?} of {all:?}")));
            }
            Some((number, session?))
        })
    }

    fn connect(&mut self, client: usize) {
        self.world.step(format!("client {client} connects"));
        let (world, handle) = (self.world.clone(), self.clients[client].clone());
        self.tasks.push(tokio::spawn(async move {
            if let Err(error) = handle.connect().await {
                world.step(format!("client {client} cannot connect: {error}"));
            }
        }));
    }

    /// Ends the faults of the cluster, and checks that all nodes agree on where the stations are.
    async fn settle(&mut self) {
        for repair in self.repairs.drain(..) {
            let _ = repair.await;
        }
        self.nodes.heal();
        sleep(SETTLED).await;
        if !self.nodes.allows_duplicates() {
            self.check_duplicates().await;
        }
        let connected = self.connected();
        for (client, link) in &connected {
            self.check_reach(*client, *link).await;
        }
        self.check_lists(&connected).await;
    }

    /// Returns the open sessions of a key at all nodes, by their links.
    fn open_links(&self, key: &str) -> Vec<u16> {
        let key = Key(key.to_owned());
        let sessions = self.nodes.running().into_iter().flat_map(|node| node.server.sessions());
        let open = sessions.filter(|session| session.is_open() && session.extension().as_ref() == Some(&key));
        open.filter_map(|session| session.remote_address().map(|address| address.port())).collect()
    }

    /// Checks that each key has at most one session. Twins replace each other all the time: then a moment counts.
    async fn check_duplicates(&self) {
        for key in &self.keys {
            let mut open = Vec::new();
            for _ in 0..100 {
                open = self.open_links(key);
                if open.len() <= 1 {
                    break;
                }
                sleep(Duration::from_millis(100)).await;
            }
            if open.len() > 1 {
                self.world.record(Fact::Broken(format!("{key} has several sessions in the end: links {open:?}")));
            }
        }
    }

    /// Returns the clients that are connected over a link without a fault, and that have no twin, with their links.
    fn connected(&self) -> Vec<(usize, u16)> {
        let world = &self.world;
        let mut connected = Vec::new();
        for (client, handle) in self.clients.iter().enumerate() {
            let Some(link) = self.sound_link(client) else { continue };
            if self.keys.iter().filter(|key| **key == self.keys[client]).count() > 1
                || handle.state() != ClientState::Open
            {
                continue;
            }
            if self.open_links(&self.keys[client]).contains(&link) {
                connected.push((client, link));
            } else {
                world.record(Fact::Broken(format!("client {client} is connected over link {link}, at no server")));
            }
        }
        connected
    }

    /// Returns the latest link of a client, if it is some seconds old and has no fault.
    fn sound_link(&self, client: usize) -> Option<u16> {
        let (_, link) = self.world.so_far(|history| history.last_link(client))?;
        let is_cut = lock(&self.links).iter().any(|(other, cut)| *other == link && cut.is_cancelled());
        let is_sound = self.world.so_far(|history| history.is_sound(link));
        (is_sound && !is_cut).then_some(link)
    }

    /// Checks that each node reaches a station with one session.
    async fn check_reach(&self, client: usize, link: u16) {
        for Node { number, server } in self.nodes.running() {
            let key = &self.keys[client];
            let is_connected = || self.open_links(key) == [link] && self.sound_link(client) == Some(link);
            if !is_connected() {
                continue;
            }
            let error = self.world.reach(server.station(&**key), Caller::Node(number)).await;
            if let Some(error) = error.filter(|_| is_connected()) {
                self.world.record(Fact::Broken(format!("node {number} does not reach client {client}: {error}")));
            }
        }
    }

    /// Checks that each node lists each station once.
    async fn check_lists(&self, connected: &[(usize, u16)]) {
        for Node { number, server } in self.nodes.running() {
            let mut stations = server.stations();
            let mut listed = Vec::new();
            while let Some(page) = stations.next().await {
                listed.extend(page.into_iter().map(|station| station.key.to_string()));
            }
            let missing = stations.missing_nodes();
            if !missing.is_empty() {
                self.world.record(Fact::Broken(format!("node {number} lists no stations of {missing:?}")));
            }
            for (client, link) in connected {
                let key = &self.keys[*client];
                let is_connected = || self.open_links(key) == [*link] && self.sound_link(*client) == Some(*link);
                let times = listed.iter().filter(|listed| *listed == key).count();
                if times != 1 && is_connected() {
                    self.world.record(Fact::Broken(format!("node {number} lists {key} {times} times")));
                }
            }
        }
    }

    /// Closes both ends, and records what does not end.
    async fn end(self) {
        let Self { world, nodes, clients, tasks, listener, .. } = self;
        // A client that is closed before its last `connect` is polled would connect again.
        sleep(Duration::from_millis(1)).await;
        world.step("the end");
        let close_servers = async {
            let closing = nodes.running().into_iter().map(|Node { number, server }| {
                let (close, world) = (close(&world), &world);
                world.step(format!("node {number} closes: {close:?}"));
                async move {
                    let closed = timeout(world.medium.long(), server.close(close)).await;
                    let never = usize::from(closed.is_err());
                    world.record(Fact::Left { what: "closes of a server that never ended", number: never });
                    world.record(Fact::Left { what: "sessions", number: server.sessions().len() });
                }
            });
            futures_util::future::join_all(closing).await;
        };
        let close_clients = async {
            for client in &clients {
                let close = close(&world);
                world.step(format!("a client closes: {close:?}"));
                let closed = timeout(world.medium.long(), client.close(close)).await;
                world
                    .record(Fact::Left { what: "closes of a client that never ended", number: closed.is_err().into() });
            }
        };
        if world.chance(50) {
            close_servers.await;
            close_clients.await;
        } else {
            tokio::join!(close_servers, close_clients);
        }
        let mut left = 0;
        for task in tasks {
            if timeout(world.medium.long(), task).await.is_err() {
                left += 1;
            }
        }
        world.record(Fact::Left { what: "calls, connects and closes that never ended", number: left });
        drop(listener);
    }
}

pub fn session_options(world: &World, habits: Habits, link: u16) -> Options {
    let options = options(world, Options::server(), &[End::Server(link)]);
    if habits.is_compressed { options } else { options.compression(None) }
}

/// Returns random options, and records their limits for the ends that use them.
pub fn options(world: &World, options: Options, ends: &[End]) -> Options {
    let in_flight = world.pick(&[1, 1, 1, 2, 4]);
    let handlers = world.pick(if world.is_stuck { &[1, 2] } else { &[1, 2, 8, 64] });
    let timeout = world.milliseconds(500..5000);
    for end in ends {
        world.record(Fact::Limits { end: *end, in_flight, handlers, timeout });
    }
    let tolerances = [Tolerance::Strict, Tolerance::Lenient, Tolerance::Permissive];
    options
        .call_concurrency(in_flight)
        .handler_concurrency(handlers)
        .call_timeout(timeout)
        .call_queue(world.pick(&[2, 1000]))
        .handler_queue(world.pick(&[0, 2, 256]))
        .ping_interval(world.pick(&[None, Some(Duration::from_millis(700)), Some(Duration::from_secs(3))]))
        .activity_defers_pings(world.chance(50))
        .max_bad_messages(world.pick(&[None, Some(0), Some(3)]))
        .max_unsent(world.pick(&[4096, 4 << 20]))
        .close_timeout(world.milliseconds(1..3000))
        .tolerance(world.pick(&tolerances))
}

pub fn close(world: &World) -> Close {
    match world.roll(0..4) {
        0 => Close::forced(),
        1 => Close::restart().reason("a restart"),
        2 => Close::normal(),
        _ => Close::going_away().drain(world.milliseconds(0..5000)),
    }
}

fn reconnect(world: &World) -> Reconnect {
    let backoff = Backoff::exponential()
        .min(world.milliseconds(50..500))
        .max(Duration::from_secs(2))
        .jitter(world.pick(&[0.0, 0.25]));
    Reconnect::always()
        .backoff(backoff)
        .attempts(world.pick(&[None, None, Some(3)]))
        .retry_first_connect(world.chance(70))
        .refuse_calls(world.chance(20))
        .drop_responses(world.chance(30))
}

/// The connector of a client.
#[derive(Clone)]
struct Dial {
    world: Arc<World>,
    nodes: Arc<Nodes>,
    /// The address of the server if the medium is sockets.
    address: Option<SocketAddr>,
    links: Arc<Mutex<Links>>,
    client: usize,
    habits: Habits,
}

impl Dial {
    fn client(self, identity: &str) -> RpcClient {
        let Self { world, client, habits, .. } = self.clone();
        let mut options = options(&world, Options::client(), &[End::Client(client)]);
        if habits.is_compressed {
            options = options.compression(Compression::new());
        }
        RpcClient::builder("ws://csms.test/ocpp", identity)
            .protocols([world.pick(&["ocpp2.1", "ocpp1.6"])])
            .options(options)
            .query("client", &client.to_string())
            .password(world.next_password(client))
            .reconnect(reconnect(&world))
            .connect_timeout(Duration::from_secs(4))
            .router(router(&world, Caller::Client(client)))
            .connector(move |_: Target| {
                let dial = self.clone();
                async move { dial.dial().await }
            })
            .build()
            .expect("valid settings")
    }

    async fn dial(&self) -> io::Result<LinkEnd> {
        let Self { world, nodes, address, links, client, habits } = self;
        match world.roll(0..100) {
            0..6 => return Err(io::ErrorKind::ConnectionRefused.into()),
            6..8 => std::future::pending().await,
            _ => {}
        }
        let Some(Node { number: node, server }) = nodes.any() else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        let cut = world.stop.child_token();
        let plan = plan(world, *habits);
        let (number, near) = if let Some(address) = address {
            link_over_tcp(world, *address, plan, &cut).await?
        } else {
            let number = lock(links).len() as u16;
            let (near, far) = link(world, number, plan, &cut);
            // The port of the address is the number of the link.
            let info = ConnectionInfo::new().remote_address(([192, 0, 2, 1], number).into());
            tokio::spawn(async move { server.serve_connection(far, info).await });
            (number, near)
        };
        lock(links).push((number, cut));
        world.record(Fact::Dialled { client: *client, link: number, node });
        Ok(near)
    }
}

fn plan(world: &World, habits: Habits) -> Plan {
    let mut plan = Plan {
        latency: world.pick(&[0, 1, 20, 100]),
        piece: world.pick(&[1, 7, 500, 65_536]),
        buffer: world.pick(&[64, 4096, 65_536]),
        from_client: Vec::new(),
        from_server: Vec::new(),
    };
    if plan.piece == 1 && world.chance(80) {
        // Single bytes are slow.
        plan.piece = 100;
    }
    if world.is_stuck {
        plan.from_client.push(Fault { after: world.roll(3..10), kind: FaultKind::Cut });
    }
    for faults in [&mut plan.from_client, &mut plan.from_server] {
        while world.chance(habits.faults) && faults.len() < 4 {
            // One in four faults is a fault of the handshake.
            let after = if world.chance(25) { 0 } else { world.roll(1..20) };
            faults.push(Fault { after, kind: fault(world, habits) });
        }
    }
    if world.chance(habits.faults / 3) {
        plan.from_server.push(Fault { after: world.roll(1..20), kind: FaultKind::Vanish });
    }
    plan
}

fn fault(world: &World, habits: Habits) -> FaultKind {
    match world.roll(0..if habits.is_corrupting { 12 } else { 7 }) {
        0 => FaultKind::Cut,
        1 => FaultKind::Reset,
        2 => FaultKind::HalfClose,
        3 => FaultKind::Stall(world.roll(1..8000) as u64),
        4 => FaultKind::Silence,
        5 => FaultKind::Truncate,
        // A compressed text with other bytes can become a valid message with other content.
        6 if !habits.is_compressed => FaultKind::Repeat,
        6 => FaultKind::Cut,
        7..10 if !habits.is_compressed => FaultKind::Character(world.pick(b"\"},]x\\\x01\n")),
        7..9 => FaultKind::Stall(100),
        10 if !habits.is_compressed => FaultKind::NotAscii,
        _ => FaultKind::Head(world.roll(0..8) as u8),
    }
}

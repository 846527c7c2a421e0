//! Simulations in memory: both ends are this crate's, the link between them has faults, and the seed decides all of it.

use std::{
    cell::Cell,
    io,
    net::SocketAddr,
    panic::panic_any,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{HeaderValue, header};
use ocpp_rpc::{
    Accept, Close, Handshake, Options, Reject, RpcClient, RpcServer, Session, Tolerance,
    client::{Backoff, Reconnect, Target},
    compression::Compression,
    event::EventKind,
    server::{ConnectionInfo, DuplicateIdentity, Listener},
    unstable::seed as seed_library,
};
use tokio::{
    runtime::{Builder, Handle},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    history::{End, Fact, History, Side},
    link::{Fault, FaultKind, LinkEnd, Plan, link, link_over_tcp},
    world::{Medium, Planned, World, lock, router},
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
    server: RpcServer,
    /// Set if the medium is sockets.
    listener: Option<Listener>,
    clients: Vec<RpcClient>,
    /// The keys of the clients' sessions at the server.
    keys: Vec<String>,
    links: Arc<Mutex<Links>>,
    /// The calls and other tasks of the script. All of them end in the end.
    tasks: Vec<JoinHandle<()>>,
}

/// The key of a session, as the authenticator has set it.
#[derive(Clone, PartialEq)]
struct Key(String);

/// The links that were made, and what cuts each.
type Links = Vec<(u16, CancellationToken)>;

/// The choices that hold for a whole simulation.
#[derive(Clone, Copy)]
struct Habits {
    /// The percentage of links with faults.
    faults: usize,
    is_corrupting: bool,
    is_compressed: bool,
    has_tenants: bool,
}

impl Habits {
    /// Returns the key of a client's sessions. Clients of two tenants may have the same identity.
    fn key(self, client: usize, identity: &str) -> String {
        if self.has_tenants { format!("{}/{identity}", client % 2) } else { identity.to_owned() }
    }
}

impl Simulation {
    async fn new(world: &Arc<World>) -> Self {
        let habits = Habits {
            faults: world.pick(&[0, 30, 70]),
            is_corrupting: world.chance(30),
            is_compressed: world.chance(20),
            has_tenants: world.chance(30),
        };
        let links = Arc::<Mutex<Links>>::default();
        let server = server(world, habits);
        let listener = match world.medium {
            Medium::Memory => None,
            Medium::Sockets => Some(server.listen("127.0.0.1:0").await.expect("a socket")),
        };
        let address = listener.as_ref().map(Listener::local_addr);
        let count = world.roll(1..4);
        let same_identity = world.chance(15);
        let identities: Vec<_> =
            (0..count).map(|client| format!("CP-{}", if same_identity { 0 } else { client })).collect();
        let clients = identities.iter().enumerate().map(|(at, identity)| {
            let (world, server, links) = (world.clone(), server.clone(), links.clone());
            Dial { world, server, address, links, client: at, habits }.client(identity)
        });
        let clients = clients.collect();
        let keys = identities.iter().enumerate().map(|(client, identity)| habits.key(client, identity)).collect();
        Self { world: world.clone(), server, listener, clients, keys, links, tasks: Vec::new() }
    }

    async fn run(mut self) {
        let world = self.world.clone();
        let events = world.chance(30).then(|| self.watch_events());
        for client in 0..self.clients.len() {
            self.connect(client);
        }
        for _ in 0..world.roll(5..40) {
            sleep(world.milliseconds(0..300)).await;
            self.step();
        }
        self.end().await;
        if let Some(events) = events {
            let _ = events.await;
        }
    }

    /// Does something at random.
    fn step(&mut self) {
        let world = self.world.clone();
        let client = world.roll(0..self.clients.len());
        match world.roll(0..106) {
            0..40 => {
                let session = self.clients[client].session();
                for _ in 0..world.pick(&[1, 1, 2, 5]) {
                    self.tasks.push(world.spawn_call(&session, Side::Client));
                }
            }
            40..70 => {
                if let Some(session) = self.session(client) {
                    for _ in 0..world.pick(&[1, 1, 2, 5]) {
                        self.tasks.push(world.spawn_call(&session, Side::Server));
                    }
                }
            }
            70..76 => {
                if !self.tasks.is_empty() {
                    world.step("a caller drops its call");
                    self.tasks[world.roll(0..self.tasks.len())].abort();
                }
            }
            76..79 => {
                world.step(format!("client {client} sets options"));
                let options = options(&world, Options::client(), &[End::Client(client)]);
                let _ = self.clients[client].update(|settings| settings.options(options));
            }
            79..82 => {
                if let Some(session) = self.session(client) {
                    world.step(format!("the server sets options of {}", session.identity()));
                    let end = session.remote_address().map_or(0, |address| address.port());
                    let _ = session.set_options(options(&world, Options::server(), &[End::Server(end)]));
                }
            }
            82..86 => {
                if let Some(session) = self.session(client) {
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
                let router = router(&world, Some(client));
                self.clients[client].update(|settings| settings.router(router)).expect("valid settings");
            }
            100..103 => self.update(client),
            _ => {
                world.step(format!("client {client} reconnects"));
                let client = self.clients[client].clone();
                self.tasks.push(tokio::spawn(async move { drop(client.reconnect().await) }));
            }
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

    fn session(&self, client: usize) -> Option<Session> {
        let key = Key(self.keys[client].clone());
        let session = self.server.session(&key.0);
        let all = self.server.sessions();
        let mut own = all.iter().filter(|session| session.extension().as_ref() == Some(&key));
        let is_right = match &session {
            None => own.next().is_none(),
            Some(found) => own.any(|session| session.id() == found.id()),
        };
        if !is_right {
            self.world.record(Fact::Broken(format!("the key of client {client} finds {session:?} of {all:?}")));
        }
        session
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

    /// Counts the sessions that open and close, as far as no event is lost.
    fn watch_events(&self) -> JoinHandle<()> {
        let (mut events, world) = (self.server.events(), self.world.clone());
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
                    EventKind::Lagged(_) => is_complete = false,
                    _ => {}
                }
            }
            if is_complete {
                world.record(Fact::Left { what: "opened sessions without the event of their end", number: open });
            }
        })
    }

    /// Closes both ends, and records what does not end.
    async fn end(self) {
        let Self { world, server, clients, tasks, listener, .. } = self;
        // A client that is closed before its last `connect` is polled would connect again.
        sleep(Duration::from_millis(1)).await;
        world.step("the end");
        let close_server = async {
            let close = close(&world);
            world.step(format!("the server closes: {close:?}"));
            let closed = timeout(world.medium.long(), server.close(close)).await;
            world.record(Fact::Left { what: "closes of the server that never ended", number: closed.is_err().into() });
            world.record(Fact::Left { what: "sessions", number: server.sessions().len() });
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
            close_server.await;
            close_clients.await;
        } else {
            tokio::join!(close_server, close_clients);
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

fn server(world: &Arc<World>, habits: Habits) -> RpcServer {
    let duplicates = [DuplicateIdentity::ReplaceOld, DuplicateIdentity::RejectNew, DuplicateIdentity::AllowBoth];
    let mut options = options(world, Options::server(), &[]);
    if !habits.is_compressed {
        options = options.compression(None);
    }
    let authenticate = {
        let world = world.clone();
        move |handshake: Handshake| {
            let world = world.clone();
            async move {
                let link = handshake.remote_address().map_or(0, |address| address.port());
                match world.roll(0..20) {
                    0 => sleep(world.milliseconds(1..500)).await,
                    1 => std::future::pending().await,
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
    };
    RpcServer::builder(router(world, None))
        .protocols(["ocpp2.1", "ocpp1.6"])
        .options(options)
        .duplicate_identity(world.pick(&duplicates))
        .handshake_timeout(Duration::from_secs(5))
        .auth(authenticate)
        .build()
        .expect("valid settings")
}

fn session_options(world: &World, habits: Habits, link: u16) -> Options {
    let options = options(world, Options::server(), &[End::Server(link)]);
    if habits.is_compressed { options } else { options.compression(None) }
}

/// Returns random options, and records their limits for the ends that use them.
fn options(world: &World, options: Options, ends: &[End]) -> Options {
    let in_flight = world.pick(&[1, 1, 1, 2, 4]);
    let handlers = world.pick(if world.is_stuck { &[1, 2] } else { &[1, 2, 8, 64] });
    for end in ends {
        world.record(Fact::Limits { end: *end, in_flight, handlers });
    }
    let tolerances = [Tolerance::Strict, Tolerance::Lenient, Tolerance::Permissive];
    options
        .call_concurrency(in_flight)
        .handler_concurrency(handlers)
        .call_timeout(world.milliseconds(500..5000))
        .call_queue(world.pick(&[2, 1000]))
        .handler_queue(world.pick(&[0, 2, 256]))
        .ping_interval(world.pick(&[None, Some(Duration::from_millis(700)), Some(Duration::from_secs(3))]))
        .activity_defers_pings(world.chance(50))
        .max_bad_messages(world.pick(&[None, Some(0), Some(3)]))
        .max_unsent(world.pick(&[4096, 4 << 20]))
        .close_timeout(world.milliseconds(1..3000))
        .tolerance(world.pick(&tolerances))
}

fn close(world: &World) -> Close {
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
    server: RpcServer,
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
            .router(router(&world, Some(client)))
            .connector(move |_: Target| {
                let dial = self.clone();
                async move { dial.dial().await }
            })
            .build()
            .expect("valid settings")
    }

    async fn dial(&self) -> io::Result<LinkEnd> {
        let Self { world, server, address, links, client, habits } = self;
        match world.roll(0..100) {
            0..6 => return Err(io::ErrorKind::ConnectionRefused.into()),
            6..8 => std::future::pending().await,
            _ => {}
        }
        let cut = world.stop.child_token();
        let plan = plan(world, *habits);
        let (number, near) = if let Some(address) = address {
            link_over_tcp(world, *address, plan, &cut).await?
        } else {
            let number = lock(links).len() as u16;
            let (near, far) = link(world, number, plan, &cut);
            let server = server.clone();
            // The port of the address is the number of the link.
            let info = ConnectionInfo::new().remote_address(([192, 0, 2, 1], number).into());
            tokio::spawn(async move { server.serve_connection(far, info).await });
            (number, near)
        };
        lock(links).push((number, cut));
        world.record(Fact::Dialled { client: *client, link: number });
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

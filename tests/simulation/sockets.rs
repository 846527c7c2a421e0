//! Real sockets: a server under attack with an honest station, and a client of servers that misbehave.
//!
//! The latency of the honest station is a time of the real clock, which hardly another test asserts.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs,
    net::SocketAddr,
    sync::{Arc, Mutex, atomic::Ordering},
    thread,
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    routing::{get, post},
};
use ocpp_rpc::{
    Accept, Close, Handshake, Options, Payload, Reject, RpcClient, RpcRouter, RpcServer,
    client::{Backoff, ClientState, Reconnect, RpcClientBuilder},
    server::Listener,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    sync::SetOnce,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use tokio_util::sync::CancellationToken;

use crate::{
    attacks::{Attack, Tally},
    setting,
    world::lock,
};

/// The latency that an honest station may see.
const MAX_LATENCY: Duration = Duration::from_millis(250);

/// The time in which a new station must be served.
const MAX_CONNECT: Duration = Duration::from_secs(3);

/// The server's own deadlines, which end the connections of attackers that do nothing.
const DEADLINE: Duration = Duration::from_secs(1);

/// The time in which the last of these must have ended.
const MAX_LIFE: Duration = Duration::from_secs(20);

/// The rounds before the baseline is taken: they fill caches and pools.
const WARM_UP: usize = 4;

/// The rounds of a block. The server must end one block with the resident memory of the block's beginning.
const ROUNDS: usize = 10;

/// The blocks at most.
///
/// A peak fragments the allocator's heap, and its pages stay resident. That adds to the memory of one block. A leak adds
/// to that of each block.
const BLOCKS: usize = 3;

/// The body of a response that soon fills the buffers of a client that does not read.
const LARGE: &str = match str::from_utf8(&[b'x'; 256 << 10]) {
    Ok(text) => text,
    Err(_) => unreachable!(),
};

/// A server with a listener, on threads of its own.
struct Site {
    runtime: Runtime,
    server: RpcServer,
    address: SocketAddr,
    _listener: Listener,
}

impl Site {
    fn new() -> Self {
        async fn heartbeat() -> Result<Value, Infallible> {
            Ok(json!({"currentTime": "2026-01-01T00:00:00Z"}))
        }
        async fn slow() -> Result<Value, Infallible> {
            sleep(Duration::from_secs(1)).await;
            Ok(json!({}))
        }
        // Encoded once, because a build for tests takes milliseconds for it.
        let large = Payload::encode(&json!({"text": "x".repeat(64 << 10)})).expect("JSON");
        let large = move || std::future::ready(Ok::<_, Infallible>(large.clone()));
        let authenticate = async |handshake: Handshake| {
            if handshake.identity().starts_with("hang") {
                std::future::pending::<()>().await;
            }
            Ok::<_, Reject>(Accept::new())
        };
        let router = RpcRouter::new().on("Heartbeat", heartbeat).on("Slow", slow).on("Large", large);
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let server = RpcServer::builder(router)
            .protocols(["ocpp1.6"])
            .auth(authenticate)
            .max_connections(128)
            .max_pending_handshakes(32)
            .handshake_timeout(DEADLINE)
            .body_timeout(DEADLINE)
            .options(Options::server().max_unsent(1 << 20).close_timeout(DEADLINE))
            .build()
            .expect("valid settings");
        let app = Router::new()
            .route("/read", post(async |_: Bytes| {}))
            .route("/large", get(async || LARGE))
            .route("/health", get(async || "well"))
            .route_service("/ocpp/{*identity}", server.clone());
        let listener = runtime.block_on(server.bind("127.0.0.1:0").app(app).serve()).expect("a socket");
        Self { runtime, server, address: listener.local_addr(), _listener: listener }
    }

    fn tasks(&self) -> usize {
        self.runtime.metrics().num_alive_tasks()
    }

    /// Waits until only the honest session is left.
    async fn settle(&self) {
        let settled = timeout(Duration::from_secs(40), async {
            // Accepting, and the honest session.
            while self.server.sessions().len() > 1 || self.tasks() > 3 {
                sleep(Duration::from_millis(50)).await;
            }
        });
        let is_settled = settled.await.is_ok();
        assert!(is_settled, "{} sessions and {} tasks are left", self.server.sessions().len(), self.tasks());
    }

    /// Returns the least use of resources within a second, because newcomers of the honest station come and go.
    async fn resources(&self) -> Resources {
        let now = || Resources { tasks: self.tasks(), files: files(), memory: memory() };
        let mut least = now();
        for _ in 0..100 {
            sleep(Duration::from_millis(10)).await;
            let Resources { tasks, files, memory } = now();
            least = Resources {
                tasks: least.tasks.min(tasks),
                files: least.files.min(files),
                memory: least.memory.min(memory),
            };
        }
        least
    }
}

#[derive(Clone, Copy, Debug)]
struct Resources {
    tasks: usize,
    files: usize,
    /// The resident memory of the process, in pages.
    memory: usize,
}

/// Returns the open files of this process. Zero on systems that do not list them.
fn files() -> usize {
    fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

fn memory() -> usize {
    let memory = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    memory.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default()
}

/// The latencies of the honest station during one attack.
#[derive(Clone, Copy, Default)]
struct Latencies {
    heartbeats: usize,
    worst: Duration,
    worst_connect: Duration,
}

#[derive(Default)]
struct Measured {
    attack: Option<Attack>,
    latencies: BTreeMap<Option<Attack>, Latencies>,
}

impl Measured {
    fn heartbeat(&mut self, attack: Option<Attack>, latency: Duration) {
        let latencies = self.latencies.entry(attack).or_default();
        latencies.heartbeats += 1;
        latencies.worst = latencies.worst.max(latency);
    }

    fn connect(&mut self, attack: Option<Attack>, latency: Duration) {
        let latencies = self.latencies.entry(attack).or_default();
        latencies.worst_connect = latencies.worst_connect.max(latency);
    }
}

fn station(address: SocketAddr, identity: &str) -> RpcClientBuilder {
    RpcClient::builder(format!("ws://{address}/ocpp"), identity).protocols(["ocpp1.6"]).reconnect(Reconnect::never())
}

/// Sends heartbeats and connects again and again, and records how long both take.
async fn be_honest(address: SocketAddr, measured: Arc<Mutex<Measured>>, stop: Arc<SetOnce<()>>) {
    let client = station(address, "honest").connect().await.expect("a session");
    let beat = async {
        loop {
            let (attack, started) = (lock(&measured).attack, Instant::now());
            client.call::<Value>("Heartbeat", &()).await.expect("a response");
            lock(&measured).heartbeat(attack, started.elapsed());
            sleep(Duration::from_millis(5)).await;
        }
    };
    let come = async {
        loop {
            let (attack, started) = (lock(&measured).attack, Instant::now());
            let newcomer = loop {
                // A place may be free a moment later.
                match station(address, "newcomer").connect_timeout(MAX_CONNECT).connect().await {
                    Ok(newcomer) => break newcomer,
                    Err(error) if started.elapsed() < MAX_CONNECT => {
                        println!("a newcomer cannot connect during {attack:?}: {error}");
                        sleep(Duration::from_millis(20)).await;
                    }
                    Err(error) => panic!("no newcomer gets in during {attack:?}: {error}"),
                }
            };
            newcomer.call::<Value>("Heartbeat", &()).await.expect("a response");
            lock(&measured).connect(attack, started.elapsed());
            newcomer.close(Close::normal()).await;
            sleep(Duration::from_millis(30)).await;
        }
    };
    tokio::select! {
        _ = stop.wait() => {}
        () = async { _ = tokio::join!(beat, come) } => {}
    }
}

#[test]
fn honest_station_is_served_under_attacks() {
    let _alone = crate::alone();
    let seconds = setting("CAMPAIGN_SOCKET_SECONDS", 60) as f64 * 0.5;
    let slot = Duration::from_secs_f64(seconds / ((WARM_UP + ROUNDS) * Attack::ALL.len()) as f64);
    let site = Site::new();
    let measured = Arc::<Mutex<Measured>>::default();
    let stop = Arc::<SetOnce<()>>::default();
    let honest = {
        let (measured, stop, address) = (measured.clone(), stop.clone(), site.address);
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        thread::spawn(move || runtime.block_on(be_honest(address, measured, stop)))
    };
    let attackers = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let tallies: Vec<_> = Attack::ALL.iter().map(|attack| (*attack, Arc::<Tally>::default())).collect();
    let mut attacks = 0;
    let mut run_rounds = |rounds: usize| {
        for _ in 0..rounds {
            let mut connections = JoinSet::new();
            for (attack, tally) in &tallies {
                lock(&measured).attack = Some(*attack);
                attackers.block_on(async {
                    let stop = CancellationToken::new();
                    for number in 0..attack.connections() {
                        connections.spawn(attack.run(site.address, number, tally.clone(), stop.clone()));
                    }
                    sleep(slot).await;
                    stop.cancel();
                });
                attacks += 1;
                assert!(!honest.is_finished(), "the honest station failed during {attack:?}");
            }
            lock(&measured).attack = None;
            let ended = attackers.block_on(async { timeout(MAX_LIFE, connections.join_all()).await });
            let running = |(_, tally): &&(Attack, Arc<Tally>)| tally.running.load(Ordering::Relaxed) > 0;
            assert!(ended.is_ok(), "the server ends no {:?}", tallies.iter().filter(running).collect::<Vec<_>>());
            attackers.block_on(site.settle());
        }
        attackers.block_on(site.resources())
    };
    let mut ends = vec![run_rounds(WARM_UP)];
    while ends.len() <= BLOCKS && !ends.windows(2).any(keeps_memory) {
        ends.push(run_rounds(ROUNDS));
    }
    stop.set(()).expect("set once");
    honest.join().expect("the honest station is served");
    println!("{:<24} {:>10} {:>10} {:>12} {:>14}", "attack", "arrived", "heartbeats", "worst", "worst connect");
    let latencies = std::mem::take(&mut lock(&measured).latencies);
    for (attack, latency) in &latencies {
        let name = attack.map_or("none".to_owned(), |attack| format!("{attack:?}"));
        let (worst, connect) = (latency.worst.as_secs_f64() * 1e3, latency.worst_connect.as_secs_f64() * 1e3);
        let arrived = tallies.iter().find(|(other, _)| Some(*other) == *attack);
        let arrived = arrived.map_or(0, |(_, tally)| tally.arrived.load(Ordering::Relaxed));
        println!("{name:<24} {arrived:>10} {:>10} {worst:>9.1} ms {connect:>11.1} ms", latency.heartbeats);
    }
    println!("{attacks} attacks; after {WARM_UP} rounds and after each {ROUNDS} more: {ends:?}");
    for (attack, tally) in &tallies {
        assert!(tally.arrived.load(Ordering::Relaxed) > 0, "no connection of {attack:?} got to its point");
    }
    for (attack, latency) in latencies {
        assert!(latency.worst <= MAX_LATENCY, "a heartbeat took {:?} during {attack:?}", latency.worst);
        assert!(latency.worst_connect <= MAX_CONNECT, "a newcomer took {:?} during {attack:?}", latency.worst_connect);
    }
    for end in &ends {
        assert!(end.tasks <= ends[0].tasks && end.files <= ends[0].files, "{:?} became {end:?}", ends[0]);
    }
    assert!(ends.windows(2).any(keeps_memory), "each block of rounds leaves memory in use: {ends:?}");
}

/// Returns whether the resident memory after a block is at most 5 % above that before it.
fn keeps_memory(block: &[Resources]) -> bool {
    block[1].memory * 100 <= block[0].memory * 105
}

/// The ways in which a server treats a connection.
#[derive(Clone, Copy, Debug)]
enum Misbehaviour {
    Closes,
    SendsGarbage,
    SendsAnEndlessHead,
    ComputesAWrongAccept,
    NamesNoProtocol,
    NamesAnotherProtocol,
    SendsGarbageAfterTheHandshake,
    ClosesAfterTheHandshake,
    IsSilent,
    IsUnavailable,
    PromisesABody,
}

const MISBEHAVIOURS: &[Misbehaviour] = &[
    Misbehaviour::Closes,
    Misbehaviour::SendsGarbage,
    Misbehaviour::SendsAnEndlessHead,
    Misbehaviour::ComputesAWrongAccept,
    Misbehaviour::NamesNoProtocol,
    Misbehaviour::NamesAnotherProtocol,
    Misbehaviour::SendsGarbageAfterTheHandshake,
    Misbehaviour::ClosesAfterTheHandshake,
    Misbehaviour::IsSilent,
    Misbehaviour::IsUnavailable,
    Misbehaviour::PromisesABody,
];

impl Misbehaviour {
    async fn serve(self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && !matches!(self, Self::Closes | Self::SendsGarbage) {
            head.push(stream.read_u8().await?);
        }
        let accept = accept_of(&head);
        let upgrade = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
        let protocol = "Sec-WebSocket-Protocol: ocpp1.6\r\n";
        match self {
            Self::Closes => {}
            Self::SendsGarbage => stream.write_all(&[0x16, 3, 1, 0xff, 0xfe, 0, b'\n', b'\n']).await?,
            Self::SendsAnEndlessHead => {
                stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\n").await?;
                loop {
                    stream.write_all(b"X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n").await?;
                }
            }
            Self::ComputesAWrongAccept => {
                stream.write_all(format!("{upgrade}{protocol}Sec-WebSocket-Accept: AAAA\r\n\r\n").as_bytes()).await?;
            }
            Self::NamesNoProtocol => stream.write_all(format!("{upgrade}{accept}\r\n").as_bytes()).await?,
            Self::NamesAnotherProtocol => {
                let other = "Sec-WebSocket-Protocol: ocpp9\r\n";
                stream.write_all(format!("{upgrade}{accept}{other}\r\n").as_bytes()).await?;
            }
            Self::SendsGarbageAfterTheHandshake => {
                stream.write_all(format!("{upgrade}{accept}{protocol}\r\n").as_bytes()).await?;
                stream.write_all(&[0xff; 4096]).await?;
            }
            Self::ClosesAfterTheHandshake => {
                stream.write_all(format!("{upgrade}{accept}{protocol}\r\n").as_bytes()).await?;
            }
            Self::IsSilent => std::future::pending().await,
            Self::IsUnavailable => {
                let head = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n";
                stream.write_all(head.as_bytes()).await?;
            }
            Self::PromisesABody => {
                stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 1000\r\n\r\n").await?;
                std::future::pending().await
            }
        }
        Ok(())
    }
}

/// Returns the header that accepts the key of a request (RFC 6455 §4.2.2).
fn accept_of(head: &[u8]) -> String {
    let head = String::from_utf8_lossy(head);
    let key = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("sec-websocket-key").then_some(value)
    });
    let accept = tungstenite::handshake::derive_accept_key(key.unwrap_or_default().as_bytes());
    format!("Sec-WebSocket-Accept: {accept}\r\n")
}

#[test]
fn client_outlives_servers_that_misbehave() {
    let _alone = crate::alone();
    let site = Site::new();
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(outlive_misbehaviour(site.address));
}

async fn outlive_misbehaviour(server: SocketAddr) {
    // The proxy treats one connection badly, and passes on the next one.
    let proxy = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let address = proxy.local_addr().expect("bound");
    let backoff = Backoff::exponential().min(Duration::from_millis(50)).max(Duration::from_millis(200));
    let client = RpcClient::builder(format!("ws://{address}/ocpp"), "CP-1")
        .protocols(["ocpp1.6"])
        .reconnect(Reconnect::always().backoff(backoff))
        .connect_timeout(Duration::from_secs(1));
    let pass = async |mut stream: TcpStream| {
        let mut upstream = TcpStream::connect(server).await.expect("the server listens");
        let passing = async move { copy_bidirectional(&mut stream, &mut upstream).await };
        tokio::spawn(passing).abort_handle()
    };
    let first = async { pass(proxy.accept().await.expect("a connection").0).await };
    let (client, mut passed) = tokio::join!(client.connect(), first);
    let client = client.expect("a session");
    for misbehaviour in MISBEHAVIOURS {
        let waiting = tokio::spawn(client.call::<Value>("Heartbeat", &()).timeout(Duration::from_secs(1)));
        passed.abort();
        let (stream, _) =
            timeout(Duration::from_secs(20), proxy.accept()).await.expect("a dial").expect("a connection");
        let serving = tokio::spawn(misbehaviour.serve(stream));
        let (stream, _) = timeout(Duration::from_secs(20), proxy.accept())
            .await
            .unwrap_or_else(|_| panic!("the client gave up: {misbehaviour:?}, {:?}", client.state()))
            .expect("a connection");
        passed = pass(stream).await;
        let mut states = client.states();
        let opened = timeout(Duration::from_secs(20), states.wait_for(|state| *state == ClientState::Open)).await;
        opened.unwrap_or_else(|_| panic!("not open after {misbehaviour:?}")).expect("a client");
        let heartbeat = timeout(Duration::from_secs(20), client.call::<Value>("Heartbeat", &())).await;
        heartbeat.expect("in time").unwrap_or_else(|error| panic!("{misbehaviour:?}: {error}"));
        // Made while the link was cut: it was sent and lost, or it waited.
        let _ = waiting.await.expect("no panic");
        serving.abort();
    }
    client.close(Close::normal()).await;
}

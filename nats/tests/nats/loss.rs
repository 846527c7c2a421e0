//! Nodes and servers of NATS that are killed, stopped, restarted and cut off.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{FutureExt, future::join_all};
use ocpp_rpc::{
    Error,
    client::{Backoff, Reconnect},
    cluster::Stations,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    broker::{Broker, Proxy, packaged, pinned},
    node::{Node, Station, connect, start, start_all, until},
    process::Process,
};

const SECOND: Duration = Duration::from_secs(1);

async fn list(mut stations: Stations) -> (Vec<String>, Vec<String>) {
    let mut keys = Vec::new();
    while let Some(page) = stations.next().await {
        keys.extend(page.into_iter().map(|station| station.key));
    }
    keys.sort();
    (keys, stations.missing_nodes().iter().map(|name| name.to_string()).collect())
}

#[tokio::test]
async fn calls_to_a_killed_node_fail_within_three_seconds() {
    let broker = Broker::start().await;
    let [a] = start_all(&broker, ["a"]).await;
    let (b, mut c) = (Process::start(&broker.url(), "b").await, Process::start(&broker.url(), "c").await);
    let mut peers = Vec::new();
    for number in 0..50 {
        peers.push(Station::connect(b.endpoint(), &format!("CP-{number}")).await);
    }
    let elsewhere = Station::connect(c.endpoint(), "CP-c").await;
    let stations: Vec<_> = (0..50).map(|number| a.server.station(format!("CP-{number}"))).collect();
    join_all(stations.iter().map(|station| station.connected(None))).await;
    a.finds("CP-c").await;

    // When the node is killed, half of the calls are reported as taken, and the others are not.
    let call_all = |stations: &[ocpp_rpc::Station]| {
        join_all(stations.iter().map(|station| station.call::<Value>("Wait", &()).timeout(None)))
    };
    let taken = call_all(&stations[..25]);
    let not_taken = async {
        sleep(SECOND / 2).await;
        call_all(&stations[25..]).await
    };
    let killed = async {
        for peer in &peers {
            peer.receives(1).await;
        }
        b.signal(Signal::KILL);
        Instant::now()
    };
    let (taken, not_taken, killed_at) = tokio::join!(taken, not_taken, killed);
    assert!(killed_at.elapsed() < 3 * SECOND, "{:?}", killed_at.elapsed());
    for outcome in taken.into_iter().chain(not_taken) {
        assert!(matches!(outcome, Err(Error::Disconnected { maybe_delivered: true })), "{outcome:?}");
    }
    assert!(matches!(a.call("CP-0", "Echo").await, Err(Error::NotConnected)));
    c.echo("CP-c").await.expect("the others are not affected");
    a.call("CP-c", "Echo").await.expect("the others are not affected");
    assert_eq!(elsewhere.received(), 2);
}

#[tokio::test]
async fn node_that_is_stopped_is_missing_and_comes_back() {
    let broker = Broker::start().await;
    let [a, c] = start_all(&broker, ["a", "c"]).await;
    let b = Process::start(&broker.url(), "b").await;
    let peer = Station::connect(b.endpoint(), "CP-1").await;
    let _other = Station::connect(&c.endpoint(), "CP-2").await;
    a.finds("CP-1").await;
    a.finds("CP-2").await;
    let station = a.server.station("CP-1");
    let mut in_flight = station.call::<Value>("Wait", &json!({})).timeout(None);
    assert!((&mut in_flight).now_or_never().is_none());
    peer.receives(1).await;
    // Until it is reported as taken.
    sleep(Duration::from_millis(300)).await;

    b.signal(Signal::STOP);
    let start = Instant::now();
    let (keys, missing) = list(a.server.stations()).await;
    assert_eq!((keys, missing), (vec!["CP-2".to_owned()], vec!["b".to_owned()]));
    assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
    let new = a.call("CP-1", "Echo");
    let (in_flight, new) = tokio::join!(in_flight, new);
    assert!(matches!(in_flight, Err(Error::Disconnected { maybe_delivered: true })), "{in_flight:?}");
    assert!(matches!(new, Err(Error::Disconnected { maybe_delivered: true })), "{new:?}");
    assert!(start.elapsed() < 5 * SECOND, "{:?}", start.elapsed());

    b.signal(Signal::CONT);
    peer.release(1);
    a.call("CP-1", "Echo").await.expect("the session is still there");
    let (keys, missing) = list(c.server.stations()).await;
    assert_eq!((keys, missing), (vec!["CP-1".to_owned(), "CP-2".to_owned()], Vec::new()));
}

#[tokio::test]
async fn sessions_outlive_nats_and_are_reachable_when_it_is_back() {
    for program in [Some(pinned()), packaged()].into_iter().flatten() {
        let mut broker = Broker::start_with(program, "").await;
        let [a, b] = start_all(&broker, ["a", "b"]).await;
        let observer = connect(&broker.url(), "api").await;
        let peer = Station::connect(&b.endpoint(), "CP-1").await;
        a.finds("CP-1").await;
        observer.station("CP-1").connected(None).await.expect("connected");
        let session = b.server.session("CP-1").expect("connected").id();
        let mut in_flight = a.server.station("CP-1").call::<Value>("Wait", &json!({})).timeout(None);
        assert!((&mut in_flight).now_or_never().is_none());
        peer.receives(1).await;

        broker.kill();
        let start = Instant::now();
        let in_flight = in_flight.await;
        assert!(matches!(in_flight, Err(Error::Disconnected { maybe_delivered: true })), "{in_flight:?}");
        assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
        peer.release(1);
        let start = Instant::now();
        for _ in 0..100 {
            assert!(matches!(a.call("CP-1", "Echo").await, Err(Error::Unreachable)));
            let call = observer.station("CP-1").call::<Value>("Echo", &()).await;
            assert!(matches!(call, Err(Error::Unreachable)), "{call:?}");
            b.call("CP-1", "Echo").await.expect("a local call");
        }
        assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
        let late = Station::connect(&b.endpoint(), "CP-2").await;
        sleep(SECOND).await;

        broker.restart().await;
        for key in ["CP-1", "CP-2"] {
            a.finds(key).await;
            observer.station(key).connected(None).await.expect("connected");
            a.call(key, "Echo").await.expect("a result");
            observer.station(key).call::<Value>("Echo", &()).await.expect("a result");
        }
        assert_eq!(b.server.session("CP-1").expect("connected").id(), session, "no session was replaced");
        assert!(peer.client.session().is_open() && late.client.session().is_open());
    }
}

#[tokio::test]
async fn server_of_nats_that_is_stopped_is_noticed() {
    let broker = Broker::start().await;
    let [a, b] = start_all(&broker, ["a", "b"]).await;
    let _peer = Station::connect(&b.endpoint(), "CP-1").await;
    a.finds("CP-1").await;
    broker.signal(Signal::STOP);
    let start = Instant::now();
    let call = a.call("CP-1", "Echo").await;
    assert!(matches!(call, Err(Error::Disconnected { maybe_delivered: true })), "{call:?}");
    let mut call = call;
    while !matches!(call, Err(Error::Unreachable)) {
        call = a.call("CP-1", "Echo").await;
        assert!(start.elapsed() < 20 * SECOND);
    }
    b.call("CP-1", "Echo").await.expect("a local call");
    broker.signal(Signal::CONT);
    a.finds("CP-1").await;
    a.call("CP-1", "Echo").await.expect("a result");
}

#[tokio::test]
async fn node_that_is_cut_off_serves_its_own_stations_and_returns() {
    let broker = Broker::start().await;
    let proxy = Proxy::start(broker.address()).await;
    let [a] = start_all(&broker, ["a"]).await;
    let b = start(connect(&proxy.url(), "b").await).await;
    let peer = Station::connect(&b.endpoint(), "CP-1").await;
    let _other = Station::connect(&a.endpoint(), "CP-2").await;
    a.finds("CP-1").await;
    b.finds("CP-2").await;
    let mut in_flight = a.server.station("CP-1").call::<Value>("Wait", &json!({})).timeout(None);
    assert!((&mut in_flight).now_or_never().is_none());
    peer.receives(1).await;

    proxy.cut();
    let in_flight = timeout(3 * SECOND, in_flight).await.expect("in time");
    assert!(matches!(in_flight, Err(Error::Disconnected { maybe_delivered: true })), "{in_flight:?}");
    peer.release(1);
    assert!(matches!(a.call("CP-1", "Echo").await, Err(Error::NotConnected)));
    assert!(matches!(b.call("CP-2", "Echo").await, Err(Error::Unreachable)));
    b.call("CP-1", "Echo").await.expect("a local call");
    a.call("CP-2", "Echo").await.expect("a local call");

    // The station moves to the other side meanwhile: the newer session wins when the node is back.
    let moved = Station::connect(&a.endpoint(), "CP-1").await;
    assert!(peer.client.session().is_open() && moved.client.session().is_open());
    proxy.mend();
    timeout(10 * SECOND, peer.client.closed()).await.expect("replaced");
    assert!(moved.client.session().is_open());
    b.finds("CP-1").await;
    b.call("CP-1", "Echo").await.expect("a result");
    assert_eq!(moved.received(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_cuts_leave_each_call_with_one_truthful_outcome() {
    let broker = Broker::start().await;
    let proxies = [Proxy::start(broker.address()).await, Proxy::start(broker.address()).await];
    let mut nodes = Vec::new();
    for (proxy, name) in proxies.iter().zip(["a", "b"]) {
        nodes.push(Arc::new(start(connect(&proxy.url(), name).await).await));
    }
    let mut peers = Vec::new();
    for number in 0..10 {
        peers.push(Station::connect(&nodes[1].endpoint(), &format!("CP-{number}")).await);
        nodes[0].finds(&format!("CP-{number}")).await;
    }
    let stop = CancellationToken::new();
    let outcomes = Arc::new(Mutex::new(HashMap::new()));
    let mut callers = JoinSet::new();
    for caller in 0..20_u64 {
        callers.spawn(call_until(nodes[0].clone(), caller, 10, stop.clone(), outcomes.clone()));
    }
    for round in 0..40 {
        sleep(Duration::from_millis(40 + 13 * (round % 7))).await;
        let proxy = &proxies[(round % 2) as usize];
        proxy.cut();
        sleep(Duration::from_millis(15)).await;
        proxy.mend();
    }
    sleep(SECOND).await;
    stop.cancel();
    callers.join_all().await;
    check(&outcomes.lock().expect("no panic"), &peers);
}

/// Calls stations one after the other, each call with a number of its own, and records the outcomes. Returns the time of the
/// longest call.
async fn call_until(
    node: Arc<Node>,
    caller: u64,
    stations: u64,
    stop: CancellationToken,
    outcomes: Arc<Mutex<Outcomes>>,
) -> Duration {
    let (mut number, mut longest) = (caller << 32, Duration::ZERO);
    while !stop.is_cancelled() {
        number += 1;
        let place = number % stations;
        let station = node.server.station(format!("CP-{place}"));
        let call = station.call::<Value>("Echo", &json!({"n": number})).total_timeout(10 * SECOND);
        let start = Instant::now();
        let outcome = timeout(15 * SECOND, call).await.expect("every call ends");
        longest = longest.max(start.elapsed());
        let is_away = matches!(outcome, Err(Error::NotConnected | Error::Unreachable));
        let outcome = outcome.map(|_| ()).map_err(|error| (error.maybe_delivered(), format!("{error:?}")));
        outcomes.lock().expect("no panic").insert((place as usize, number), outcome);
        if is_away {
            sleep(Duration::from_millis(2)).await;
        }
    }
    longest
}

/// The outcomes of calls, by station and number: an error with its text and whether it may have been carried out.
type Outcomes = HashMap<(usize, u64), Result<(), (bool, String)>>;

/// Compares the outcomes of calls with the number of times that the stations received them.
fn check(outcomes: &Outcomes, peers: &[Station]) {
    let mut kinds: HashMap<String, usize> = HashMap::new();
    for ((place, number), outcome) in outcomes {
        let received = peers[*place].echoed(*number);
        let kind = match outcome {
            Ok(()) => {
                assert_eq!(received, 1, "a call with a result");
                "result".to_owned()
            }
            Err((true, error)) => {
                assert!(received <= 1, "a call was carried out {received} times: {error}");
                error.clone()
            }
            Err((false, error)) => {
                assert_eq!(received, 0, "a call that was not delivered: {error}");
                error.clone()
            }
        };
        *kinds.entry(kind).or_default() += 1;
    }
    println!("{kinds:?}");
    assert!(kinds.get("result").is_some_and(|results| *results > 100), "{kinds:?}");
}

/// Forwards connections to one of several servers.
struct Balancer {
    address: SocketAddr,
    targets: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Balancer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let targets = Arc::<Mutex<Vec<SocketAddr>>>::default();
        let shared = targets.clone();
        tokio::spawn(async move {
            let mut turn = 0;
            while let Ok((mut downstream, _)) = listener.accept().await {
                turn += 1;
                let target = {
                    let targets = shared.lock().expect("no panic");
                    targets[turn % targets.len()]
                };
                tokio::spawn(async move {
                    if let Ok(mut upstream) = TcpStream::connect(target).await {
                        let _ = copy_bidirectional(&mut downstream, &mut upstream).await;
                    }
                });
            }
        });
        Self { address, targets }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_restart_under_load_accounts_for_every_call() {
    let broker = Broker::start().await;
    let balancer = Balancer::start().await;
    let mut nodes = Vec::new();
    for name in ["a", "b", "c"] {
        nodes.push(Process::start(&broker.url(), name).await);
        balancer.targets.lock().expect("no panic").push(nodes.last().expect("one").address());
    }
    let endpoint = format!("ws://{}", balancer.address);
    let backoff = Backoff::exponential().min(Duration::from_millis(50)).max(Duration::from_millis(200));
    let mut peers = Vec::new();
    for number in 0..30 {
        let reconnect = Reconnect::always().backoff(backoff.clone());
        peers.push(Station::connect_with(&endpoint, &format!("CP-{number}"), "ocpp1.6", reconnect).await);
    }
    let [caller] = start_all(&broker, ["caller"]).await;
    let caller = Arc::new(caller);
    for number in 0..30 {
        caller.finds(&format!("CP-{number}")).await;
    }
    let stop = CancellationToken::new();
    let outcomes = Arc::<Mutex<Outcomes>>::default();
    let mut callers = JoinSet::new();
    for number in 0..20_u64 {
        callers.spawn(call_until(caller.clone(), number, 30, stop.clone(), outcomes.clone()));
    }
    for (place, name) in ["a2", "b2", "c2"].into_iter().enumerate() {
        sleep(SECOND).await;
        let new = Process::start(&broker.url(), name).await;
        balancer.targets.lock().expect("no panic")[place] = new.address();
        let old = std::mem::replace(&mut nodes[place], new);
        old.close().await;
    }
    sleep(SECOND).await;
    stop.cancel();
    // NATS drops calls to a node that leaves at that moment. They do not wait until 2 s have passed.
    let longest = callers.join_all().await.into_iter().max().expect("several callers");
    assert!(longest < Duration::from_millis(1900), "{longest:?}");
    check(&outcomes.lock().expect("no panic"), &peers);
    // All stations are connected once, each to a new node.
    until("30 stations at the new nodes", || caller.server.sessions().is_empty()).await;
    let mut stations = caller.server.stations();
    let mut nodes_of = Vec::new();
    while let Some(page) = stations.next().await {
        nodes_of.extend(page.into_iter().filter_map(|station| station.node));
    }
    assert_eq!((nodes_of.len(), stations.missing_nodes().len()), (30, 0), "{nodes_of:?}");
    assert!(nodes_of.iter().all(|node| node.ends_with('2')), "{nodes_of:?}");
}

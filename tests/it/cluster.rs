//! Servers that are nodes of a cluster, in memory.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use ocpp_rpc::{
    Call, Close, Error, ErrorCode, Payload, RpcRouter, RpcServer, StationInfo,
    close::CloseCause,
    cluster::{Destination, EventFilter, Local, NodeEvent, NodeId, Observer, Received, SendError, Stations},
    event::EventKind,
    server::DuplicateIdentity,
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    support::{NextNow, SECOND, Station, closed},
    tapped::{Fate, Tapped},
};

/// The time within which an idle cluster has delivered everything.
const SETTLED: Duration = Duration::from_millis(50);

fn node(cluster: &Local, name: &str) -> RpcServer {
    node_with(cluster, name, DuplicateIdentity::ReplaceOld)
}

fn node_with(cluster: &Local, name: &str, duplicates: DuplicateIdentity) -> RpcServer {
    let protocols = ["ocpp2.1", "ocpp1.6"];
    let server = RpcServer::builder(RpcRouter::new()).protocols(protocols).duplicate_identity(duplicates);
    server.cluster(cluster.node(name)).build().expect("a valid configuration")
}

/// Two nodes, and a station that is connected to the second one.
async fn two_nodes(protocol: &str) -> (Local, RpcServer, RpcServer, Station) {
    let cluster = Local::new();
    let (a, b) = (node(&cluster, "a"), node(&cluster, "b"));
    let station = Station::connect(&b, "CP-1", protocol).await;
    sleep(SETTLED).await;
    (cluster, a, b, station)
}

/// Returns `true` if the station has received nothing but pings, and is open.
fn is_idle(peer: &mut Station) -> bool {
    std::iter::from_fn(|| peer.ws.next_now()).all(|message| message.is_ping() || message.is_pong())
}

fn reset(server: &RpcServer) -> Call<Value> {
    server.station("CP-1").call("Reset", &json!({"type": "Soft"}))
}

#[tokio::test(start_paused = true)]
async fn b84_station_of_another_node_is_called_like_one_of_this_node() {
    let (_cluster, a, _b, mut peer) = two_nodes("ocpp1.6").await;
    let respond = async |peer: &mut Station, response: &str| {
        let (id, request) = peer.receive_call().await;
        peer.send(response.replace("ID", &id)).await;
        request
    };
    let station = a.station("CP-1");
    assert!(station.session().is_none(), "the session is at the other node");
    let (result, request) = tokio::join!(reset(&a), respond(&mut peer, r#"[3,"ID",{"status":"Accepted"}]"#));
    assert_eq!(result.expect("a result"), json!({"status": "Accepted"}));
    assert_eq!(request, json!(["Reset", {"type": "Soft"}]));

    let rejection = r#"[4,"ID","NotSupported","no relay",{"relay":1}]"#;
    let (result, _) = tokio::join!(reset(&a), respond(&mut peer, rejection));
    let Err(Error::Rejected(error)) = result else { panic!("{result:?}") };
    assert_eq!((error.code(), error.description()), (&ErrorCode::NOT_SUPPORTED, "no relay"));
    assert_eq!(error.details().map(Payload::as_str), Some(r#"{"relay":1}"#));

    let own_id = station.call::<Value>("Reset", &()).id("own");
    let (result, ()) = tokio::join!(own_id, async {
        assert_eq!(peer.receive().await, r#"[2,"own","Reset",{}]"#);
        peer.send(r#"[3,"own",{}]"#).await;
    });
    result.expect("a result");

    let start = Instant::now();
    let (result, _) = tokio::join!(reset(&a).timeout(SECOND), peer.receive_call());
    assert!(matches!(result, Err(Error::Timeout)), "{result:?}");
    assert!((SECOND..SECOND + SETTLED).contains(&start.elapsed()), "{:?}", start.elapsed());

    let mut in_flight = reset(&a).timeout(None);
    assert!((&mut in_flight).now_or_never().is_none());
    peer.receive_call().await;
    let queued = reset(&a).total_timeout(3 * SECOND).await;
    assert!(matches!(queued, Err(Error::NeverSent)), "{queued:?}");
    let bypassing = reset(&a).bypass_queue();
    let (result, _) = tokio::join!(bypassing, respond(&mut peer, r#"[3,"ID",{}]"#));
    result.expect("a result");
    drop(in_flight);
    sleep(SETTLED).await;
    reset(&a).fire_and_forget().await.expect("written");
    peer.receive_call().await;
    assert!(matches!(station.send("Notify", &()).await, Err(Error::SendNotSupported)));
    assert!(matches!(station.call::<u8>("Reset", &[1]).await, Err(Error::Encode(_))));

    let info = station.info().await.expect("reachable").expect("connected");
    assert_eq!((&*info.key, info.node.as_deref(), info.protocol.as_deref()), ("CP-1", Some("b"), Some("ocpp1.6")));
    let (closed, received) = tokio::join!(station.close(Close::new(4001).reason("moved")), peer.closed());
    assert_eq!(received, (4001, "moved".to_owned()));
    let closed = closed.expect("closed");
    assert_eq!((closed.code, closed.cause), (4001, CloseCause::Local));
}

#[tokio::test(start_paused = true)]
async fn b84_result_that_does_not_decode_is_reported_to_the_station() {
    let (_cluster, a, _b, mut peer) = two_nodes("ocpp2.1").await;
    let call = a.station("CP-1").call::<u8>("Reset", &());
    let (result, id) = tokio::join!(call, async {
        let (id, _) = peer.receive_call().await;
        peer.send(format!(r#"[3,"{id}",{{}}]"#)).await;
        id
    });
    assert!(matches!(result, Err(Error::Decode(_))), "{result:?}");
    let complaint: Value = serde_json::from_str(&peer.receive().await).expect("JSON");
    assert_eq!((&complaint[0], &complaint[1]), (&json!(5), &json!(id)), "{complaint}");
    a.station("CP-1").send("Notify", &json!({"a": 1})).await.expect("written");
    assert!(peer.receive().await.starts_with("[6,"));
}

#[tokio::test(start_paused = true)]
async fn b84_calls_from_one_node_are_written_in_order() {
    let (_cluster, a, _b, mut peer) = two_nodes("ocpp1.6").await;
    let station = a.station("CP-1");
    let calls: Vec<_> = (0..50).map(|number| station.call::<Value>("N", &json!({"n": number}))).collect();
    let results = futures_util::future::join_all(calls);
    let (results, ()) = tokio::join!(results, async {
        for number in 0..50 {
            let (id, request) = peer.receive_call().await;
            assert_eq!(request, json!(["N", {"n": number}]));
            peer.send(format!(r#"[3,"{id}",{{}}]"#)).await;
        }
    });
    assert!(results.iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn b85_station_on_no_node_is_not_connected_and_a_cluster_that_is_away_unreachable() {
    let (cluster, a, b, mut peer) = two_nodes("ocpp1.6").await;
    let start = Instant::now();
    let absent = a.station("CP-2").call::<Value>("Reset", &()).await;
    assert!(matches!(absent, Err(Error::NotConnected)), "{absent:?}");
    assert!(a.station("CP-2").info().await.expect("reachable").is_none());
    assert!(matches!(a.station("CP-2").close(Close::normal()).await, Err(Error::NotConnected)));
    cluster.disconnect("a");
    assert!(matches!(reset(&a).await, Err(Error::Unreachable)));
    assert!(matches!(a.station("CP-1").info().await, Err(Error::Unreachable)));
    assert!(start.elapsed() < Duration::from_millis(20), "{:?}", start.elapsed());
    // The station's own node does not need the cluster.
    cluster.disconnect("b");
    let (result, ()) = tokio::join!(reset(&b), async {
        let (id, _) = peer.receive_call().await;
        peer.send(format!(r#"[3,"{id}",{{}}]"#)).await;
    });
    result.expect("a result");
    let error = reset(&a).await.expect_err("away");
    assert!(error.is_retryable() && !error.maybe_delivered());
}

#[tokio::test(start_paused = true)]
async fn b86_call_ends_if_its_node_does_not_take_it_or_is_lost() {
    // Not taken within 2 s.
    let (cluster, a, _b, _peer) = two_nodes("ocpp1.6").await;
    cluster.set_loss(1.0);
    let start = Instant::now();
    assert!(matches!(reset(&a).await, Err(Error::Disconnected { maybe_delivered: true })));
    assert_eq!(start.elapsed(), 2 * SECOND);
    // A total timeout that is shorter still holds.
    let start = Instant::now();
    assert!(matches!(reset(&a).total_timeout(SECOND).await, Err(Error::Timeout)));
    assert!(start.elapsed() < 3 * SECOND / 2);

    // The node is killed, or its broker lost, while the call is in flight.
    type Cut = fn(&Local);
    let cuts: [(Cut, Duration); 4] = [
        (|cluster| cluster.kill("b"), SECOND / 2),
        (|cluster| cluster.divide(&[&["a"], &["b"]]), SECOND / 2),
        (|cluster| cluster.disconnect("a"), Duration::from_millis(10)),
        (|cluster| cluster.set_loss(1.0), 3 * SECOND),
    ];
    for (cut, limit) in cuts {
        let (cluster, a, _b, mut peer) = two_nodes("ocpp1.6").await;
        let mut calls = futures_util::future::join_all((0..3).map(|_| reset(&a).timeout(None)));
        assert!(timeout(SECOND, &mut calls).await.is_err(), "in flight");
        peer.receive_call().await;
        cut(&cluster);
        let start = Instant::now();
        let ended = calls.await;
        assert!(start.elapsed() <= limit, "{:?}", start.elapsed());
        for ended in ended {
            assert!(matches!(ended, Err(Error::Disconnected { maybe_delivered: true })), "{ended:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b86_long_call_is_not_cut_while_its_node_answers() {
    let (_cluster, a, _b, mut peer) = two_nodes("ocpp1.6").await;
    let call = reset(&a).timeout(None);
    let (result, ()) = tokio::join!(call, async {
        let (id, _) = peer.receive_call().await;
        for _ in 0..60 {
            sleep(10 * SECOND).await;
            peer.ask(r#"[2,"h","Heartbeat",{}]"#).await;
        }
        peer.send(format!(r#"[3,"{id}",{{}}]"#)).await;
    });
    result.expect("a result after ten minutes");
}

#[tokio::test(start_paused = true)]
async fn b86_reply_that_is_lost_ends_its_call() {
    let (cluster, a, _b, mut peer) = two_nodes("ocpp1.6").await;
    let mut call = reset(&a).timeout(None);
    assert!(timeout(SECOND, &mut call).await.is_err(), "in flight");
    let (id, _) = peer.receive_call().await;
    cluster.set_loss(1.0);
    peer.send(format!(r#"[3,"{id}",{{}}]"#)).await;
    sleep(SETTLED).await;
    cluster.set_loss(0.0);
    let start = Instant::now();
    assert!(matches!(call.await, Err(Error::Disconnected { maybe_delivered: true })));
    assert!(start.elapsed() < SECOND);
}

/// A broker drops a request if the node that it chose ends its subscription, or leaves, at that moment.
#[tokio::test(start_paused = true)]
async fn b86_request_that_is_dropped_while_its_station_disconnects_fails_early() {
    type IsTo = fn(Destination<'_>) -> bool;
    // Until the move of the station is forgotten, it is called at its node.
    let cases: [(Duration, IsTo, bool); 3] = [
        (SETTLED, |to| matches!(to, Destination::StationAt { .. }), false),
        (31 * SECOND, |to| matches!(to, Destination::Station(_)), false),
        (31 * SECOND, |to| matches!(to, Destination::Station(_)), true),
    ];
    for (age, is_to, comes_back) in cases {
        let (cluster, requests) = (Local::new(), Arc::<AtomicUsize>::default());
        let sent = requests.clone();
        let tapped = Tapped::new(cluster.node("a")).on_send(move |_, to, message| {
            let is_call = is_to(to) && message.windows(6).any(|part| part == b"\"Soft\"");
            sent.fetch_add(is_call.into(), Ordering::Relaxed);
            if is_call { Fate::Lost } else { Fate::Sent }
        });
        let a = RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).cluster(tapped).build().expect("valid");
        let [b, c] = ["b", "c"].map(|name| node(&cluster, name));
        let mut peer = Station::connect(&b, "CP-1", "ocpp1.6").await;
        tokio::spawn(async move { peer.closed().await });
        sleep(age).await;
        let moving = async {
            b.close(Close::normal()).await;
            if comes_back { Some(Station::connect(&c, "CP-1", "ocpp1.6").await) } else { None }
        };
        let start = Instant::now();
        let (call, _peer) = tokio::join!(reset(&a), moving);
        assert!(matches!(call, Err(Error::Disconnected { maybe_delivered: true })), "{call:?}");
        assert!(start.elapsed() < SECOND / 2, "{:?}", start.elapsed());
        assert_eq!(requests.load(Ordering::Relaxed), 1, "it is not sent again");
    }
}

#[tokio::test(start_paused = true)]
async fn b86_station_that_has_left_is_not_looked_for_after_the_total_timeout() {
    let (cluster, a, _b, peer) = two_nodes("ocpp1.6").await;
    drop(peer);
    sleep(SETTLED).await;
    let way = Duration::from_millis(120);
    cluster.set_delay(way..=way);
    let start = Instant::now();
    let result = reset(&a).total_timeout(Duration::from_millis(1)).await;
    assert!(matches!(result, Err(Error::NotConnected)), "{result:?}");
    assert!(start.elapsed() <= Duration::from_millis(251), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn b86_message_too_large_for_the_cluster_is_an_error() {
    let (cluster, a, _b, mut peer) = two_nodes("ocpp1.6").await;
    cluster.set_max_message_size(4096);
    let large = json!({"a": "x".repeat(5000)});
    let error = a.station("CP-1").call::<Value>("Large", &large).await.expect_err("too large");
    assert!(matches!(error, Error::TooLarge { maybe_delivered: false }) && !error.maybe_delivered(), "{error:?}");
    let (result, ()) = tokio::join!(reset(&a), async {
        let (id, request) = peer.receive_call().await;
        assert_eq!(request[0], "Reset", "the large call was not written");
        peer.send(format!(r#"[3,"{id}",{large}]"#)).await;
    });
    assert!(matches!(result, Err(Error::TooLarge { maybe_delivered: true })), "{result:?}");
}

#[tokio::test(start_paused = true)]
async fn b87_call_that_is_dropped_is_cancelled_at_its_node() {
    let (cluster, a, b, mut peer) = two_nodes("ocpp1.6").await;
    let mut in_flight = reset(&a).timeout(None);
    assert!((&mut in_flight).now_or_never().is_none());
    peer.receive_call().await;
    // Queued at the other node: never written.
    let mut queued = a.station("CP-1").call::<Value>("Queued", &());
    assert!(timeout(SECOND, &mut queued).await.is_err());
    drop(queued);
    sleep(SETTLED).await;
    drop(in_flight);
    sleep(SETTLED).await;
    let (result, ()) = tokio::join!(reset(&b), async {
        let (id, request) = peer.receive_call().await;
        assert_eq!(request[0], "Reset");
        peer.send(format!(r#"[3,"{id}",{{}}]"#)).await;
    });
    result.expect("the connection is free");

    // Calls and cancellations that overtake each other: each call is queued at the other node, or never begins.
    let mut in_flight = reset(&b).timeout(None);
    assert!((&mut in_flight).now_or_never().is_none());
    peer.receive_call().await;
    cluster.set_delay(Duration::ZERO..=3 * SECOND);
    for _ in 0..50 {
        let mut dropped = a.station("CP-1").call::<Value>("Dropped", &());
        assert!((&mut dropped).now_or_never().is_none());
        drop(dropped);
    }
    sleep(10 * SECOND).await;
    drop(in_flight);
    let last = b.station("CP-1").call::<Value>("Last", &()).fire_and_forget();
    let (last, (_, request)) = tokio::join!(last, peer.receive_call());
    last.expect("written");
    assert_eq!(request[0], "Last", "no dropped call is written");
}

#[tokio::test(start_paused = true)]
async fn b87_cancellation_that_arrives_before_its_call_is_remembered() {
    let (cluster, a, _b, mut peer) = two_nodes("ocpp1.6").await;
    cluster.set_delay(SECOND..=SECOND);
    let mut call = reset(&a);
    assert!((&mut call).now_or_never().is_none(), "on its way");
    cluster.set_delay(Duration::ZERO..=Duration::ZERO);
    drop(call);
    sleep(2 * SECOND).await;
    assert!(is_idle(&mut peer), "the call is not written");
}

/// A broker may deliver messages to different destinations in several tasks.
#[tokio::test(start_paused = true)]
async fn b87_cancellation_that_arrives_together_with_its_call_is_not_lost() {
    let from: NodeId = "0123456789abcdef".parse().expect("an id");
    let is_armed = Arc::<AtomicBool>::default();
    let armed = is_armed.clone();
    // Another task handles the cancellation while the node looks at the call.
    let tapped = Tapped::new(Local::new().node("b")).on_now(move |node| {
        if armed.swap(false, Ordering::Relaxed) {
            let cancel = json!({"cancel": {"from": from, "request": 1}}).to_string();
            node.get().expect("joined").received(Received::Control(Some("CP-1")), cancel.into());
        }
    });
    let node = tapped.node();
    let server = RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).cluster(tapped).build().expect("valid");
    let mut peer = Station::connect(&server, "CP-1", "ocpp1.6").await;
    sleep(SETTLED).await;
    is_armed.store(true, Ordering::Relaxed);
    let call = json!({"key": "CP-1", "mode": "call", "expires": u64::MAX >> 1, "action": "Reset", "params": {}});
    node.get()
        .expect("joined")
        .received(Received::Request { node: from, request: 1, key: "CP-1" }, call.to_string().into());
    assert!(!is_armed.load(Ordering::Relaxed), "the node has read its clock");
    sleep(SECOND).await;
    assert!(is_idle(&mut peer), "the call is not written");
}

#[tokio::test(start_paused = true)]
async fn b87_calls_that_count_as_lost_are_cancelled_at_their_node() {
    type Cut = fn(&Local);
    let cuts: [(Cut, Cut); 3] = [
        (|cluster| cluster.disconnect("a"), |cluster| cluster.reconnect("a")),
        (|cluster| cluster.divide(&[&["a"], &["b"]]), Local::unite),
        (|cluster| cluster.set_loss(1.0), |cluster| cluster.set_loss(0.0)),
    ];
    for (cut, mend) in cuts {
        let (cluster, a, b, mut peer) = two_nodes("ocpp1.6").await;
        let mut in_flight = reset(&b).timeout(None);
        assert!((&mut in_flight).now_or_never().is_none());
        peer.receive_call().await;
        let mut queued = a.station("CP-1").call::<Value>("Queued", &()).timeout(None);
        assert!(timeout(SECOND, &mut queued).await.is_err(), "queued at the other node");
        cut(&cluster);
        let lost = queued.await.expect_err("lost");
        assert!(lost.maybe_delivered(), "{lost:?}");
        mend(&cluster);
        sleep(4 * SECOND).await;
        drop(in_flight);
        let last = b.station("CP-1").call::<Value>("Last", &()).fire_and_forget();
        let (last, (_, request)) = tokio::join!(last, peer.receive_call());
        last.expect("written");
        assert_eq!(request[0], "Last", "the queued call is cancelled");
    }
}

#[tokio::test(start_paused = true)]
async fn b87_calls_of_a_node_that_is_gone_are_cancelled() {
    let (cluster, a, b, mut peer) = two_nodes("ocpp1.6").await;
    let mut in_flight = reset(&a).timeout(None);
    assert!((&mut in_flight).now_or_never().is_none());
    peer.receive_call().await;
    cluster.kill("a");
    sleep(5 * SECOND).await;
    let (result, ()) = tokio::join!(reset(&b).total_timeout(SECOND), async {
        let (id, _) = peer.receive_call().await;
        peer.send(format!(r#"[3,"{id}",{{}}]"#)).await;
    });
    result.expect("the connection is free");
}

#[tokio::test(start_paused = true)]
async fn b88_station_that_moves_replaces_its_session_at_the_other_node() {
    let (_cluster, a, b, mut old) = two_nodes("ocpp1.6").await;
    let mut events = b.events();
    let mut new = Station::connect(&a, "CP-1", "ocpp1.6").await;
    assert_eq!(old.closed().await, (1008, "replaced by a newer connection".to_owned()));
    assert_eq!(closed(&mut events).await.cause, CloseCause::Replaced);
    let (result, ()) = tokio::join!(reset(&b), async {
        let (id, _) = new.receive_call().await;
        new.send(format!(r#"[3,"{id}",{{}}]"#)).await;
    });
    result.expect("the new session responds");
    // And back.
    let mut back = Station::connect(&b, "CP-1", "ocpp1.6").await;
    assert_eq!(new.closed().await.0, 1008);
    assert!(is_idle(&mut back), "the newest session stays");
}

#[tokio::test(start_paused = true)]
async fn b88_sessions_are_settled_after_the_cluster_was_divided() {
    for away in [true, false] {
        let (cluster, a, b, mut old) = two_nodes("ocpp1.6").await;
        if away {
            cluster.disconnect("a");
        } else {
            cluster.divide(&[&["a"], &["b"]]);
        }
        let mut new = Station::connect(&a, "CP-1", "ocpp1.6").await;
        sleep(SECOND).await;
        assert!(is_idle(&mut old) && is_idle(&mut new), "both are open");
        cluster.reconnect("a");
        cluster.unite();
        assert_eq!(timeout(6 * SECOND, old.closed()).await.expect("replaced").0, 1008);
        assert!(is_idle(&mut new), "the newest session stays");
        assert_eq!((a.sessions().len(), b.sessions().len()), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn b88_policies_for_a_duplicate_identity_hold_for_all_nodes() {
    let cluster = Local::new();
    let [a, b] = ["a", "b"].map(|name| node_with(&cluster, name, DuplicateIdentity::AllowBoth));
    let [mut first, mut second] =
        [Station::connect(&a, "CP-1", "ocpp1.6").await, Station::connect(&b, "CP-1", "ocpp1.6").await];
    sleep(10 * SECOND).await;
    assert!(is_idle(&mut first) && is_idle(&mut second), "both are open");

    let cluster = Local::new();
    let [a, b] = ["a", "b"].map(|name| node_with(&cluster, name, DuplicateIdentity::RejectNew));
    let mut first = Station::connect(&a, "CP-1", "ocpp1.6").await;
    sleep(SETTLED).await;
    let request = tokio_tungstenite::tungstenite::client::IntoClientRequest::into_client_request("ws://test/ocpp/CP-1");
    let refused = tokio_tungstenite::client_async(request.expect("a request"), crate::support::dial(&b)).await;
    let Err(tokio_tungstenite::tungstenite::Error::Http(response)) = refused else { panic!("{refused:?}") };
    assert_eq!(response.status(), 409);
    // Both connect before either node has learned of the other: the older session stays.
    cluster.divide(&[&["a"], &["b"]]);
    let mut second = Station::connect(&b, "CP-1", "ocpp1.6").await;
    cluster.unite();
    assert_eq!(
        timeout(10 * SECOND, second.closed()).await.expect("closed"),
        (1008, "the identity is already connected".to_owned())
    );
    assert!(is_idle(&mut first), "the older session stays");
}

/// With `RejectNew`, the older session takes precedence, and its node must say so.
#[tokio::test(start_paused = true)]
async fn b93_lost_claim_is_made_up_for() {
    // Lost on the way, and refused by the broker.
    for fate in [|| Fate::Lost, || Fate::Failed(SendError::Disconnected)] {
        let (cluster, is_claimed) = (Local::new(), Arc::<AtomicUsize>::default());
        let claims = is_claimed.clone();
        let tapped = Tapped::new(cluster.node("a")).on_send(move |_, _, message| {
            let is_claim = message.windows(6).any(|part| part == b"\"over\"");
            let is_first = is_claim && claims.fetch_add(1, Ordering::Relaxed) == 0;
            if is_first { fate() } else { Fate::Sent }
        });
        let duplicates = DuplicateIdentity::RejectNew;
        let a = RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).duplicate_identity(duplicates);
        let a = a.cluster(tapped).build().expect("a valid configuration");
        let b = node_with(&cluster, "b", duplicates);
        let mut first = Station::connect(&a, "CP-1", "ocpp1.6").await;
        // The other node has heard of the session, and lacks no announcement.
        sleep(SECOND).await;
        cluster.divide(&[&["a"], &["b"]]);
        let mut second = Station::connect(&b, "CP-1", "ocpp1.6").await;
        cluster.unite();
        assert_eq!(timeout(10 * SECOND, second.closed()).await.expect("closed").0, 1008);
        assert!(is_claimed.load(Ordering::Relaxed) > 0 && is_idle(&mut first), "the older session stays");
    }
}

#[tokio::test(start_paused = true)]
async fn b93_nodes_with_different_settings_do_not_announce_for_ever() {
    let (cluster, messages) = (Local::new(), Arc::<AtomicUsize>::default());
    let [a, b] = [("a", DuplicateIdentity::ReplaceOld), ("b", DuplicateIdentity::RejectNew)].map(|(name, setting)| {
        let messages = messages.clone();
        let tapped = Tapped::new(cluster.node(name)).on_send(move |_, _, _| {
            messages.fetch_add(1, Ordering::Relaxed);
            Fate::Sent
        });
        let server = RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).duplicate_identity(setting);
        server.cluster(tapped).build().expect("a valid configuration")
    });
    sleep(SECOND).await;
    let mut older = Station::connect(&b, "CP-1", "ocpp1.6").await;
    sleep(SETTLED).await;
    let mut newer = Station::connect(&a, "CP-1", "ocpp1.6").await;
    sleep(SECOND).await;
    let before = messages.load(Ordering::Relaxed);
    sleep(100 * SECOND).await;
    let sent = messages.load(Ordering::Relaxed) - before;
    assert!(sent <= 50, "{sent} messages beside the signs of life");
    assert!(is_idle(&mut older) && is_idle(&mut newer), "each node keeps its own");
}

/// A node that was away for long asks for the sessions that are new, a part at a time, and not for all.
#[tokio::test(start_paused = true)]
async fn b93_node_that_returns_asks_for_what_is_new() {
    let (cluster, sent) = (Local::new(), Arc::<std::sync::Mutex<Vec<usize>>>::default());
    let announced = sent.clone();
    // The announcements that go to one node, as the number of their sessions.
    let tapped = Tapped::new(cluster.node("a")).on_send(move |_, to, message| {
        if let (Destination::Node { .. }, Some(sessions)) = (to, count_sessions(message)) {
            announced.lock().expect("no panic").push(sessions);
        }
        Fate::Sent
    });
    let a = RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).cluster(tapped).build().expect("valid");
    // Each responds to pings.
    let run = |mut peer: Station| tokio::spawn(async move { peer.closed().await });
    for number in 0..50 {
        run(Station::connect(&a, &format!("CP-{number}"), "ocpp1.6").await);
    }
    sleep(SECOND).await;
    let b = node(&cluster, "b");
    sleep(SETTLED).await;
    let old = run(Station::connect(&b, "CP-new", "ocpp1.6").await);
    sleep(10 * SECOND).await;
    assert!(sent.lock().expect("no panic").is_empty(), "a node that joins without sessions lacks none");

    cluster.divide(&[&["a"], &["b"]]);
    sleep(SECOND).await;
    run(Station::connect(&a, "CP-new", "ocpp1.6").await);
    sleep(90 * SECOND).await;
    cluster.unite();
    assert_eq!(timeout(6 * SECOND, old).await.expect("replaced").expect("no panic").0, 1008);
    sleep(10 * SECOND).await;
    assert_eq!(*sent.lock().expect("no panic"), [1], "nothing but the new session, once");
}

fn count_sessions(message: &[u8]) -> Option<usize> {
    let message: Value = serde_json::from_slice(message).ok()?;
    Some(message["open"]["sessions"].as_array()?.len())
}

#[tokio::test(start_paused = true)]
async fn b89_recent_move_is_called_at_the_node_that_announced_it() {
    // The old session is half-dead: its node does not learn of the new one, and calls could still go there.
    let cluster = Local::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| node(&cluster, name));
    let mut old = Station::connect(&b, "CP-1", "ocpp1.6").await;
    sleep(SETTLED).await;
    cluster.divide(&[&["a", "c"], &["b"]]);
    let mut new = Station::connect(&c, "CP-1", "ocpp1.6").await;
    sleep(SETTLED).await;
    cluster.unite();
    for _ in 0..20 {
        let (result, ()) = tokio::join!(reset(&a), async {
            let (id, _) = new.receive_call().await;
            new.send(format!(r#"[3,"{id}",{{}}]"#)).await;
        });
        result.expect("the new session responds");
    }
    assert!(is_idle(&mut old), "no call went to the old session");
    drop((b, c));
}

#[tokio::test(start_paused = true)]
async fn b89_call_goes_to_an_older_session_if_the_newer_one_has_ended() {
    let cluster = Local::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| node(&cluster, name));
    let mut old = Station::connect(&b, "CP-1", "ocpp1.6").await;
    sleep(SETTLED).await;
    cluster.divide(&[&["a", "c"], &["b"]]);
    let new = Station::connect(&c, "CP-1", "ocpp1.6").await;
    sleep(SETTLED).await;
    drop(new);
    sleep(SETTLED).await;
    cluster.unite();
    let (result, ()) = tokio::join!(reset(&a), async {
        let (id, _) = old.receive_call().await;
        old.send(format!(r#"[3,"{id}",{{}}]"#)).await;
    });
    result.expect("the older session responds");
    drop(b);
}

#[tokio::test(start_paused = true)]
async fn b90_list_has_the_stations_of_all_nodes_and_names_those_that_do_not_answer() {
    let cluster = Local::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| node(&cluster, name));
    let mut stations = Vec::new();
    for (server, count) in [(&a, 3), (&b, 1203), (&c, 2)] {
        for number in 0..count {
            stations.push(Station::connect(server, &format!("CP-{count}-{number}"), "ocpp1.6").await);
        }
    }
    sleep(SECOND).await;
    let (listed, missing) = list(a.stations()).await;
    assert_eq!((listed.len(), missing), (1208, vec![]));
    let on_b = listed.iter().filter(|(_, node)| node == "b").count();
    assert_eq!(on_b, 1203);
    let observer = Observer::join(cluster.node("api")).expect("joined");
    assert_eq!(list(observer.stations()).await.0, listed);

    let start = Instant::now();
    cluster.divide(&[&["a", "c", "api"], &["b"]]);
    // The broker tells that b is gone: nothing of it is missing.
    let (listed, missing) = list(a.stations()).await;
    assert_eq!((listed.len(), missing), (5, vec![]));
    cluster.unite();
    sleep(6 * SECOND).await;
    // The broker does not tell.
    cluster.set_loss(1.0);
    let start_lost = Instant::now();
    let (listed, mut missing) = list(a.stations()).await;
    missing.sort();
    assert_eq!((listed.len(), missing), (3, vec!["b".to_owned(), "c".to_owned()]));
    assert!(start_lost.elapsed() < SECOND && start.elapsed() < 10 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn b90_list_of_a_node_that_is_away_names_the_others_and_asks_none() {
    let (cluster, asked) = (Local::new(), Arc::<AtomicUsize>::default());
    let counted = {
        let asked = asked.clone();
        Tapped::new(cluster.node("a")).on_send(move |_, _, message| {
            asked.fetch_add(usize::from(message.starts_with(b"{\"list\"")), Ordering::Relaxed);
            Fate::Sent
        })
    };
    let a = RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).cluster(counted).build().expect("valid");
    let b = node(&cluster, "b");
    let _peers = [Station::connect(&a, "CP-1", "ocpp1.6").await, Station::connect(&b, "CP-2", "ocpp1.6").await];
    sleep(SECOND).await;
    cluster.disconnect("a");
    let start = Instant::now();
    for _ in 0..3 {
        let (listed, missing) = list(a.stations()).await;
        assert_eq!((listed.len(), missing), (1, vec!["b".to_owned()]));
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    cluster.reconnect("a");
    sleep(SECOND).await;
    assert_eq!(asked.load(Ordering::Relaxed), 0, "nobody waits for these lists");
    let (listed, missing) = list(a.stations()).await;
    assert_eq!((listed.len(), missing, asked.load(Ordering::Relaxed)), (2, vec![], 1));
}

#[tokio::test(start_paused = true)]
async fn b90_information_has_the_ping_time_the_calls_and_the_errors_of_a_station() {
    let (_cluster, a, b, mut peer) = two_nodes("ocpp1.6").await;
    // The information is the same at each node, and in the list.
    let info = async || {
        sleep(SETTLED).await;
        let info = b.station("CP-1").info().await.expect("reachable").expect("connected");
        assert_eq!(a.station("CP-1").info().await.expect("reachable"), Some(info.clone()));
        let mut stations = a.stations();
        assert_eq!(stations.next().await, Some(vec![info.clone()]));
        info
    };
    let counts = |info: &StationInfo| (info.queued, info.in_flight, info.errors);
    let start = info().await;
    assert_eq!((start.ping, counts(&start)), (None, (0, 0, 0)));
    assert_eq!(serde_json::to_value(&start).expect("JSON")["ping"], Value::Null);

    // The station is slow to answer the ping.
    let mut events = b.events();
    sleep(30 * SECOND).await;
    assert!(is_idle(&mut peer) && is_idle(&mut peer));
    let ping = info().await.ping.expect("a pong");
    let event = events.next().await.expect("an event");
    assert!(matches!(event.kind, EventKind::Pong(time) if time.as_micros() == ping.as_micros()), "{event:?}: {ping:?}");
    drop(events);

    let mut calls: Vec<_> = (0..3).map(|_| reset(&a)).collect();
    assert!(calls.iter_mut().all(|call| call.now_or_never().is_none()));
    peer.receive_call().await;
    assert_eq!(counts(&info().await), (2, 1, 0));
    calls.truncate(1);
    assert_eq!(counts(&info().await), (0, 1, 0));
    calls.clear();
    assert_eq!(counts(&info().await), (0, 0, 0));

    // A call error of each end, and bad messages with and without one.
    let (result, ()) = tokio::join!(reset(&a), async {
        let (id, _) = peer.receive_call().await;
        peer.send(format!(r#"[4,"{id}","NotSupported","",{{}}]"#)).await;
    });
    result.expect_err("rejected");
    assert_eq!(info().await.errors, 1);
    for (errors, message) in [(2, r#"[2,"1","Unknown",{}]"#), (3, r#"[2,"2","Unknown"]"#)] {
        assert!(peer.ask(message).await.starts_with("[4,"), "{message}");
        assert_eq!(info().await.errors, errors, "{message}");
    }
    peer.send("garbage").await;
    assert_eq!(counts(&info().await), (0, 0, 4));
    drop(b);
}

/// Returns the keys and nodes of a list in order, and the missing nodes.
async fn list(mut stations: Stations) -> (Vec<(String, String)>, Vec<String>) {
    let mut listed = Vec::new();
    while let Some(page) = stations.next().await {
        listed.extend(page.into_iter().map(|info| (info.key, info.node.unwrap_or_default())));
    }
    listed.sort();
    (listed, stations.missing_nodes().iter().map(|name| name.to_string()).collect())
}

#[tokio::test(start_paused = true)]
async fn b90_station_is_awaited_on_all_nodes() {
    let cluster = Local::new();
    let [a, b] = ["a", "b"].map(|name| node(&cluster, name));
    let observer = Observer::join(cluster.node("api")).expect("joined");
    for station in [a.station("CP-1"), observer.station("CP-1"), b.station("CP-1")] {
        assert!(matches!(station.connected(SECOND).await, Err(Error::NotConnected)));
        let waiting = station.connected(None);
        let connecting = async {
            sleep(SECOND / 2).await;
            Station::connect(&b, "CP-1", "ocpp1.6").await
        };
        let start = Instant::now();
        let (info, mut peer) = tokio::join!(waiting, connecting);
        assert_eq!(info.expect("connected").node.as_deref(), Some("b"));
        assert!(start.elapsed() < SECOND / 2 + SETTLED, "announced, not asked for: {:?}", start.elapsed());
        peer.close(1000, "").await;
        sleep(SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn b91_events_of_all_nodes_reach_a_reader() {
    let cluster = Local::new();
    let [a, b] = ["a", "b"].map(|name| node(&cluster, name));
    let mut opened = a.events_everywhere(EventFilter::all().kinds(["opened", "closed"])).expect("a cluster");
    let mut of_one = a.events_everywhere(EventFilter::all().key("CP-1")).expect("a cluster");
    sleep(SETTLED).await;
    let mut peer = Station::connect(&b, "CP-1", "ocpp1.6").await;
    let mut other = Station::connect(&a, "CP-2", "ocpp1.6").await;
    peer.ask(r#"[2,"1","Heartbeat",{}]"#).await;
    other.ask(r#"[2,"1","Heartbeat",{}]"#).await;
    // Longer than a lease: the reader asks again.
    sleep(30 * SECOND).await;
    peer.ask(r#"[2,"2","Heartbeat",{}]"#).await;
    drop(peer);
    sleep(SETTLED).await;
    let read = |events: &mut ocpp_rpc::cluster::ClusterEvents| {
        std::iter::from_fn(|| events.next().now_or_never().flatten()).collect::<Vec<NodeEvent>>()
    };
    let names = |events: &[NodeEvent]| -> Vec<String> {
        events
            .iter()
            .map(|event| format!("{} {} {}", event.node, event.key.as_deref().unwrap_or("-"), event.kind))
            .collect()
    };
    let opened = names(&read(&mut opened));
    assert_eq!(opened, ["b CP-1 opened", "a CP-2 opened", "b CP-1 closed"]);
    let of_one = read(&mut of_one);
    assert!(of_one.iter().all(|event| &*event.node == "b" && event.key.as_deref() == Some("CP-1")));
    let calls: Vec<_> = of_one.iter().filter(|event| &*event.kind == "call").collect();
    assert_eq!(calls.len(), 2, "{:?}", names(&of_one));
    let json = serde_json::to_value(calls[0]).expect("JSON");
    assert_eq!((&json["node"], &json["action"], &json["type"]), (&json!("b"), &json!("Heartbeat"), &json!("call")));
}

#[tokio::test(start_paused = true)]
async fn b91_node_publishes_messages_only_while_they_are_read() {
    let (cluster, events) = (Local::new(), Arc::<AtomicUsize>::default());
    let a = node(&cluster, "a");
    let counted = {
        let events = events.clone();
        Tapped::new(cluster.node("b")).on_send(move |_, to, _| {
            events.fetch_add(usize::from(matches!(to, Destination::Event { .. })), Ordering::Relaxed);
            Fate::Sent
        })
    };
    let b = RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).cluster(counted).build().expect("valid");
    let mut peer = Station::connect(&b, "CP-1", "ocpp1.6").await;
    let reader = a.events_everywhere(EventFilter::all()).expect("a cluster");
    sleep(SETTLED).await;
    // A node that joins while events are read publishes them as well.
    let c = node(&cluster, "c");
    sleep(SETTLED).await;
    let mut late = Station::connect(&c, "CP-3", "ocpp1.6").await;
    late.ask(r#"[2,"1","Heartbeat",{}]"#).await;
    sleep(SETTLED).await;
    let mut reader = reader;
    let mut kinds = Vec::new();
    while let Some(Some(event)) = reader.next().now_or_never() {
        kinds.push(format!("{} {}", event.node, event.kind));
    }
    assert!(kinds.contains(&"c call".to_owned()), "{kinds:?}");
    // The readers are gone: the node publishes until the lease ends.
    drop(reader);
    let published = async |peer: &mut Station| {
        let before = events.load(Ordering::Relaxed);
        peer.ask(r#"[2,"1","Heartbeat",{}]"#).await;
        sleep(SETTLED).await;
        events.load(Ordering::Relaxed) - before
    };
    assert!(published(&mut peer).await > 0);
    sleep(11 * SECOND).await;
    assert_eq!(published(&mut peer).await, 0);
    // Nor does it publish for a reader of other kinds.
    let other = a.events_everywhere(EventFilter::all().kinds(["closed"])).expect("a cluster");
    sleep(SETTLED).await;
    assert_eq!(published(&mut peer).await, 0);
    drop(other);
    drop(peer);
    sleep(SETTLED).await;
    let count = events.load(Ordering::Relaxed);
    let peer = Station::connect(&b, "CP-1", "ocpp1.6").await;
    sleep(SETTLED).await;
    assert_eq!(events.load(Ordering::Relaxed), count + 1, "opened");
    drop((peer, a));
}

#[tokio::test(start_paused = true)]
async fn b91_slow_reader_learns_how_many_events_it_lost() {
    let (_cluster, a, _b, mut peer) = two_nodes("ocpp1.6").await;
    let mut events = a.events_everywhere(EventFilter::all().kinds(["received"])).expect("a cluster");
    sleep(SETTLED).await;
    for number in 0..4200 {
        peer.ask(format!(r#"[2,"{number}","Heartbeat",{{}}]"#)).await;
        tokio::task::yield_now().await;
    }
    sleep(SECOND).await;
    let mut read = 0;
    while let Ok(Some(_)) = timeout(SETTLED, events.next()).await {
        read += 1;
    }
    peer.ask(r#"[2,"last","Heartbeat",{}]"#).await;
    sleep(SETTLED).await;
    let lagged = events.next().await.expect("an event");
    assert_eq!(
        (&*lagged.kind, lagged.event.as_str()),
        ("lagged", &*format!(r#"{{"type":"lagged","events":{}}}"#, 4200 - read))
    );
    assert_eq!(&*events.next().await.expect("an event").kind, "received");
}

#[tokio::test(start_paused = true)]
async fn b92_node_that_closes_ends_its_calls_and_leaves() {
    let (_cluster, a, b, mut peer) = two_nodes("ocpp1.6").await;
    let mut in_flight = reset(&a).timeout(None);
    assert!((&mut in_flight).now_or_never().is_none());
    let (id, _) = peer.receive_call().await;
    let closing = b.close(Close::restart().drain(10 * SECOND));
    let (report, result, ()) = tokio::join!(closing, in_flight, async {
        sleep(SECOND).await;
        let refused = reset(&a).await.expect_err("closing");
        assert!(refused.is_retryable(), "{refused:?}");
        peer.send(format!(r#"[3,"{id}",{{}}]"#)).await;
        assert_eq!(peer.closed().await.0, 1012);
    });
    result.expect("the call in flight has its result");
    assert_eq!((report.clean, report.forced), (1, 0));
    assert!(matches!(reset(&a).await, Err(Error::NotConnected)));
    let (listed, missing) = list(a.stations()).await;
    assert_eq!((listed, missing), (vec![], vec![]), "a node that has left is not missing");
}

#[tokio::test(start_paused = true)]
async fn b92_calls_and_readers_end_when_their_node_has_left() {
    let (cluster, a, b, mut peer) = two_nodes("ocpp1.6").await;
    let mut events = a.events_everywhere(EventFilter::all()).expect("a cluster");
    sleep(SETTLED).await;
    let mut call = reset(&a).timeout(None);
    assert!(timeout(SECOND, &mut call).await.is_err(), "in flight");
    peer.receive_call().await;
    let start = Instant::now();
    a.close(Close::normal()).await;
    assert!(start.elapsed() < SECOND, "a reader does not delay it: {:?}", start.elapsed());
    assert!(matches!(call.await, Err(Error::Disconnected { maybe_delivered: true })));
    assert!(matches!(reset(&a).await, Err(Error::Unreachable)));
    while events.next().await.is_some() {}

    // A call keeps its observer in the cluster.
    let observer = Observer::join(cluster.node("api")).expect("joined");
    let call = observer.station("CP-1").call::<Value>("Reset", &());
    drop(observer);
    let (result, ()) = tokio::join!(call, async {
        let (id, _) = peer.receive_call().await;
        sleep(SECOND).await;
        peer.send(format!(r#"[3,"{id}",{{}}]"#)).await;
    });
    result.expect("a result");
    drop(b);
}

#[tokio::test(start_paused = true)]
async fn b92_cluster_needs_a_runtime_and_a_name_joins_once() {
    let cluster = Local::new();
    let _a = node(&cluster, "a");
    let again = RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).cluster(cluster.node("a")).build();
    assert_eq!(
        again.expect_err("joined").to_string(),
        "cannot join the cluster: another node has joined the cluster through this value"
    );
    let outside = std::thread::spawn(move || {
        RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).cluster(cluster.node("b")).build().map(drop)
    });
    let error = outside.join().expect("no panic").expect_err("no runtime");
    assert_eq!(error.to_string(), "a server of a cluster must be built within a tokio runtime");
}

#[tokio::test(start_paused = true)]
async fn b93_lost_announcement_is_made_up_for() {
    let cluster = Local::new();
    let (a, b) = (node(&cluster, "a"), node(&cluster, "b"));
    let mut old = Station::connect(&b, "CP-1", "ocpp1.6").await;
    sleep(SETTLED).await;
    cluster.set_loss(1.0);
    let _new = Station::connect(&a, "CP-1", "ocpp1.6").await;
    sleep(SECOND).await;
    cluster.set_loss(0.0);
    assert!(is_idle(&mut old), "the announcement is lost");
    assert_eq!(timeout(6 * SECOND, old.closed()).await.expect("replaced").0, 1008);
    drop((a, b));
}

#[tokio::test(start_paused = true)]
async fn b93_announcement_before_another_one_is_asked_for_at_once() {
    let cluster = Local::new();
    let (a, b) = (node(&cluster, "a"), node(&cluster, "b"));
    let mut old = Station::connect(&b, "CP-1", "ocpp1.6").await;
    // The signs of life come every 5 s.
    sleep(6 * SECOND).await;
    cluster.set_loss(1.0);
    let _new = Station::connect(&a, "CP-1", "ocpp1.6").await;
    sleep(SETTLED).await;
    cluster.set_loss(0.0);
    let _next = Station::connect(&a, "CP-2", "ocpp1.6").await;
    assert_eq!(timeout(SECOND, old.closed()).await.expect("replaced").0, 1008);
    drop(b);
}

#[tokio::test(start_paused = true)]
async fn b93_announcement_is_asked_for_until_it_arrives() {
    let cluster = Local::new();
    let (a, b) = (node(&cluster, "a"), node(&cluster, "b"));
    let mut old = Station::connect(&b, "CP-1", "ocpp1.6").await;
    sleep(SETTLED).await;
    cluster.set_loss(1.0);
    let mut new = Station::connect(&a, "CP-1", "ocpp1.6").await;
    tokio::spawn(async move { new.closed().await });
    sleep(SECOND).await;
    // Half of the requests, and of the replies to them, are lost.
    cluster.set_loss(0.5);
    assert_eq!(timeout(600 * SECOND, old.closed()).await.expect("replaced").0, 1008);
    drop((a, b));
}

#[tokio::test(start_paused = true)]
async fn b88_clocks_that_differ_do_no_harm() {
    let cluster = Local::new();
    let ahead = [0, 5, 13].map(|seconds| seconds * SECOND);
    let nodes = [0, 1, 2].map(|number| {
        let node = cluster.node(["a", "b", "c"][number]).clock_ahead(ahead[number]);
        RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).cluster(node).build().expect("valid")
    });
    sleep(SECOND).await;
    let mut last: Option<Station> = None;
    // From the node whose clock is ahead to those whose clocks are behind, and back.
    for place in [2, 0, 1, 2, 1, 0, 2] {
        let mut new = Station::connect(&nodes[place], "CP-1", "ocpp1.6").await;
        sleep(SETTLED).await;
        if let Some(old) = &mut last {
            assert_eq!(timeout(SECOND, old.closed()).await.expect("replaced").0, 1008);
        }
        assert!(is_idle(&mut new), "the newest session stays");
        for server in &nodes {
            let (result, ()) = tokio::join!(reset(server), async {
                let (id, _) = new.receive_call().await;
                new.send(format!(r#"[3,"{id}",{{}}]"#)).await;
            });
            result.expect("no request counts as expired");
        }
        last = Some(new);
    }
}

#[tokio::test(start_paused = true)]
async fn b88_session_whose_newer_one_fails_to_open_takes_part_in_the_cluster() {
    let cluster = Local::new();
    let (a, b) = (node(&cluster, "a"), node(&cluster, "b"));
    // The newer request is accepted, but its response is never read: its session does not open.
    let stuck = crate::support::dial_with_buffer(&b, 1);
    let mut older = Station::connect(&b, "CP-1", "ocpp1.6").await;
    sleep(SETTLED).await;
    let (result, ()) = tokio::join!(reset(&a), async {
        let (id, _) = older.receive_call().await;
        older.send(format!(r#"[3,"{id}",{{}}]"#)).await;
    });
    result.expect("a result");
    drop(stuck);
}

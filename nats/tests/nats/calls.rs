//! Calls from one node to the stations of another.

use std::time::Duration;

use futures_util::{FutureExt, future::join_all};
use ocpp_rpc::{Close, Error, ErrorCode, Payload, client::Reconnect, close::CloseCause};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    broker::{Broker, packaged, pinned},
    node::{Station, connect, start, start_all},
};

#[tokio::test]
async fn station_of_another_node_is_called_over_each_version_of_nats() {
    for program in [Some(pinned()), packaged()].into_iter().flatten() {
        let broker = Broker::start_with(program, "").await;
        let [a, b, c] = start_all(&broker, ["a", "b", "c"]).await;
        let station = Station::connect(&c.endpoint(), "CP-1").await;
        for node in [&a, &b, &c] {
            node.finds("CP-1").await;
            let echo = node.server.station("CP-1").call::<Value>("Echo", &json!({"text": "ü\n"})).await;
            assert_eq!(echo.expect("a result"), json!({"text": "ü\n"}));
            assert!(matches!(node.call("CP-2", "Echo").await, Err(Error::NotConnected)));
        }
        let observer = connect(&broker.url(), "api").await;
        observer.station("CP-1").call::<Value>("Echo", &()).await.expect("a result");
        let info = observer.station("CP-1").info().await.expect("reachable").expect("connected");
        assert_eq!(info.node.as_deref(), Some("c"));
        assert_eq!(station.received(), 4);
    }
}

#[tokio::test]
async fn every_outcome_is_that_of_the_node_of_the_station() {
    let broker = Broker::start().await;
    let [a, b] = start_all(&broker, ["a", "b"]).await;
    let peer = Station::connect(&b.endpoint(), "CP-1").await;
    a.finds("CP-1").await;
    let station = a.server.station("CP-1");

    let Err(Error::Rejected(error)) = a.call("CP-1", "Reject").await else { panic!("accepted") };
    assert_eq!((error.code(), error.description()), (&ErrorCode::NOT_SUPPORTED, "no relay"));
    assert_eq!(error.details().map(Payload::as_str), Some(r#"{"relay":1}"#));
    let Err(Error::Rejected(error)) = a.call("CP-1", "Unknown").await else { panic!("accepted") };
    assert_eq!(error.code(), &ErrorCode::NOT_IMPLEMENTED);

    let wait = || station.call::<Value>("Wait", &json!({}));
    let timed_out = wait().timeout(Duration::from_millis(150)).await;
    assert!(matches!(timed_out, Err(Error::Timeout)), "{timed_out:?}");
    peer.release(1);
    let decoded = station.call::<u8>("Echo", &json!({})).await;
    assert!(matches!(decoded, Err(Error::Decode(_))), "{decoded:?}");
    assert!(matches!(station.call::<u8>("Echo", &[1]).await, Err(Error::Encode(_))));
    assert!(matches!(station.send("Notify", &()).await, Err(Error::SendNotSupported)));
    station.call::<Value>("Echo", &()).fire_and_forget().await.expect("written");

    let mut in_flight = wait().id("own");
    assert!((&mut in_flight).now_or_never().is_none());
    peer.receives(5).await;
    let duplicate = station.call::<Value>("Echo", &()).id("own").bypass_queue().await;
    assert!(matches!(duplicate, Err(Error::InvalidMessageId { .. })), "{duplicate:?}");
    let never_sent = wait().total_timeout(Duration::from_millis(200)).await;
    assert!(matches!(never_sent, Err(Error::NeverSent)), "{never_sent:?}");
    peer.release(1);
    assert_eq!(in_flight.await.expect("a result"), json!({"waited": true}));

    let mut in_flight = wait();
    assert!((&mut in_flight).now_or_never().is_none());
    let mut queued = station.call::<Value>("Echo", &json!({}));
    assert!((&mut queued).now_or_never().is_none());
    peer.receives(6).await;
    let (closed, in_flight, queued) = tokio::join!(station.close(Close::new(4001).reason("moved")), in_flight, queued);
    assert_eq!(closed.map(|info| (info.code, info.cause)).expect("connected"), (4001, CloseCause::Local));
    assert!(matches!(in_flight, Err(Error::Disconnected { maybe_delivered: true })), "{in_flight:?}");
    assert!(matches!(queued, Err(Error::Disconnected { maybe_delivered: false } | Error::Closing)), "{queued:?}");
    assert!(matches!(a.call("CP-1", "Echo").await, Err(Error::NotConnected | Error::Closed | Error::Closing)));
}

#[tokio::test]
async fn station_on_no_node_is_not_connected_within_a_millisecond() {
    let broker = Broker::start().await;
    let [a, _b] = start_all(&broker, ["a", "b"]).await;
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        for _ in 0..100 {
            assert!(matches!(a.call("CP-1", "Echo").await, Err(Error::NotConnected)));
        }
        best = best.min(start.elapsed() / 100);
    }
    assert!(best < Duration::from_millis(1), "{best:?}");
}

#[tokio::test]
async fn call_that_is_dropped_is_not_written_later() {
    let broker = Broker::start().await;
    let [a, b] = start_all(&broker, ["a", "b"]).await;
    let peer = Station::connect(&b.endpoint(), "CP-1").await;
    a.finds("CP-1").await;
    let station = a.server.station("CP-1");
    let mut in_flight = station.call::<Value>("Wait", &json!({}));
    assert!((&mut in_flight).now_or_never().is_none());
    peer.receives(1).await;

    drop(station.call::<Value>("Echo", &json!({"n": 1})));
    // On its way to the other node, queued there, and reported as taken.
    for (number, stage) in [(2, Duration::ZERO), (3, Duration::from_millis(20)), (4, Duration::from_millis(300))] {
        let mut call = station.call::<Value>("Echo", &json!({"n": number}));
        assert!((&mut call).now_or_never().is_none());
        sleep(stage).await;
        drop(call);
    }
    sleep(Duration::from_millis(100)).await;
    peer.release(1);
    in_flight.await.expect("a result");
    station.call::<Value>("Echo", &json!({"n": 5})).await.expect("a result");
    assert_eq!([1, 2, 3, 4, 5].map(|number| peer.echoed(number)), [0, 0, 0, 0, 1]);
}

#[tokio::test]
async fn call_or_response_larger_than_nats_carries_is_an_error() {
    let broker = Broker::start().await;
    let [a, b] = start_all(&broker, ["a", "b"]).await;
    let peer = Station::connect(&b.endpoint(), "CP-1").await;
    a.finds("CP-1").await;
    let station = a.server.station("CP-1");
    let call = station.call::<Value>("Echo", &json!({"text": "x".repeat(1 << 20)})).await;
    assert!(matches!(call, Err(Error::TooLarge { maybe_delivered: false })), "{call:?}");
    assert_eq!(peer.received(), 0);
    let response = station.call::<Value>("Large", &json!({"bytes": 1 << 20})).await;
    assert!(matches!(response, Err(Error::TooLarge { maybe_delivered: true })), "{response:?}");
    assert_eq!(peer.received(), 1);
    let response = station.call::<Value>("Large", &json!({"bytes": (1 << 20) - 4096})).await.expect("a result");
    assert_eq!(response["text"].as_str().map(str::len), Some((1 << 20) - 4096));

    // The connection to NATS has not suffered, nor does it from a key that no subject can hold.
    let long = a.call(&"*".repeat(5000), "Echo").await;
    assert!(matches!(long, Err(Error::TooLarge { maybe_delivered: false })), "{long:?}");
    a.call("CP-1", "Echo").await.expect("a result");
}

#[tokio::test]
async fn identities_reach_their_stations_whatever_their_characters() {
    let broker = Broker::start().await;
    let [a, b] = start_all(&broker, ["a", "b"]).await;
    let longest = "*".repeat(255);
    let identities = [
        "CP-1",
        "*",
        ">",
        "a.b",
        "a.*",
        "a b",
        "=",
        "==",
        "=2A",
        "s",
        "all",
        "Süd-東京",
        "a~b",
        "~a",
        "a~",
        "a~~b",
        "~",
        "a",
        "b",
        "PUB x 0",
        "\"a\"",
        &longest,
    ];
    let mut peers = Vec::new();
    for identity in identities {
        peers.push((identity, Station::connect(&b.endpoint(), identity).await));
    }
    for (identity, _) in &peers {
        let key = identity.replace('~', "/");
        a.finds(&key).await;
        a.call(&key, "Echo").await.unwrap_or_else(|error| panic!("{key}: {error}"));
    }
    for (identity, peer) in &peers {
        assert_eq!(peer.received(), 1, "{identity}");
    }
    for key in ["a\tb", "a\r\nPUB ocpp.v1.all 0\r\n\r\n", "a.b.c", "CP-1 ", "cp-1", ""] {
        assert!(matches!(a.call(key, "Echo").await, Err(Error::NotConnected)), "{key:?}");
    }
}

#[tokio::test]
async fn messages_of_others_on_the_subjects_do_no_harm() {
    let broker = Broker::start().await;
    let [a, b] = start_all(&broker, ["a", "b"]).await;
    let peers = [Station::connect(&b.endpoint(), "CP-1").await, Station::connect(&b.endpoint(), "CP-2").await];
    a.finds("CP-1").await;
    a.finds("CP-2").await;

    let client = ocpp_rpc_nats::async_nats::connect(broker.url()).await.expect("NATS is there");
    let mut all = client.subscribe("ocpp.v1.all").await.expect("subscribed");
    let message = futures_util::StreamExt::next(&mut all).await.expect("a sign of life");
    let text: Value = serde_json::from_slice(&message.payload).expect("JSON");
    let node = text.as_object().and_then(|kinds| kinds.values().next()).and_then(|body| body["from"].as_str());
    let node = node.unwrap_or_else(|| panic!("no sender: {text}"));
    let subjects = [
        "ocpp.v1.all".to_owned(),
        "ocpp.v1.all.CP-1".to_owned(),
        "ocpp.v1.all.=41".to_owned(),
        "ocpp.v1.s.CP-1".to_owned(),
        "ocpp.v2.s.CP-1".to_owned(),
        format!("ocpp.v1.n.{node}.do"),
        format!("ocpp.v1.n.{node}.do.CP-1"),
        format!("ocpp.v1.n.{node}.s.CP-1"),
        format!("ocpp.v1.n.{node}.re.1.CP-1"),
        format!("ocpp.v1.n.{node}.re.x"),
        format!("ocpp.v1.n.{node}"),
        format!("ocpp.v1.n.{node}.other"),
    ];
    let far = u64::MAX >> 1;
    let bodies = [
        "",
        "garbage",
        "{}",
        "[]",
        "null",
        r#"{"open":{"from":"0123456789abcdef"}}"#,
        r#"{"from_the_future":{"from":"0123456789abcdef"}}"#,
        &format!(
            r#"{{"open":{{"from":"0123456789abcdef","after":0,"until":1,"sessions":[{{"key":"CP-2","epoch":"{}"}}]}}}}"#,
            "f".repeat(32)
        ),
        // Addressed to another station than its subject says.
        &format!(r#"{{"key":"CP-2","mode":"call","expires":{far},"action":"Echo","params":{{}}}}"#),
    ];
    for subject in subjects.iter().filter(|subject| !subject.ends_with(".do")) {
        // Any node may announce a session to all nodes.
        let is_harmful = |body: &&str| subject == "ocpp.v1.all" && body.contains("epoch");
        for body in bodies.into_iter().filter(|body| !is_harmful(body)) {
            let replies = ["_INBOX.x".to_owned(), "ocpp.v1.n.0123456789abcdef.re.1".to_owned()];
            client.publish(subject.clone(), body.to_owned().into()).await.expect("published");
            for reply in replies {
                client.publish_with_reply(subject.clone(), reply, body.to_owned().into()).await.expect("published");
            }
        }
    }
    client.flush().await.expect("flushed");
    sleep(Duration::from_millis(200)).await;
    for key in ["CP-1", "CP-2"] {
        a.call(key, "Echo").await.expect("a result");
    }
    assert_eq!(peers.each_ref().map(Station::received), [1, 1], "only real calls");
}

#[tokio::test]
async fn namespaces_are_clusters_of_their_own() {
    let broker = Broker::start().await;
    let start_in = async |namespace: &str| start(connect(&broker.url(), "a").await.namespace(namespace)).await;
    let (first, second, also_first) = (start_in("ocpp.v1").await, start_in("ocpp.v2").await, start_in("ocpp.v1").await);
    let _peer = Station::connect(&first.endpoint(), "CP-1").await;
    also_first.finds("CP-1").await;
    assert!(matches!(second.call("CP-1", "Echo").await, Err(Error::NotConnected)));
    let _other = Station::connect(&second.endpoint(), "CP-1").await;
    second.call("CP-1", "Echo").await.expect("a result");
    also_first.call("CP-1", "Echo").await.expect("the session has not been replaced");
}

#[tokio::test]
async fn client_of_the_application_carries_nodes_as_well() {
    let broker = Broker::start().await;
    let client = ocpp_rpc_nats::async_nats::connect(broker.url()).await.expect("NATS is there");
    // Two servers and an observer over one connection.
    let nats = ocpp_rpc_nats::Nats::with_client(client.clone());
    let (a, b) = (start(nats.clone().node_name("a")).await, start(nats.clone().node_name("b")).await);
    let peer = Station::connect_with(&b.endpoint(), "CP-1", "ocpp2.1", Reconnect::never()).await;
    a.finds("CP-1").await;
    let calls = (0..100).map(|_| a.call("CP-1", "Echo"));
    assert!(join_all(calls).await.iter().all(Result::is_ok));
    nats.station("CP-1").call::<Value>("Echo", &()).await.expect("a result");
    assert_eq!(peer.received(), 101);
    a.close(Close::going_away()).await;
    b.close(Close::going_away()).await;
    assert!(matches!(nats.station("CP-1").call::<Value>("Echo", &()).await, Err(Error::NotConnected)));
    client.flush().await.expect("the connection belongs to the application");
}

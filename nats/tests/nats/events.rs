//! Events and lists of all nodes.

use std::time::Duration;

use futures_util::StreamExt;
use ocpp_rpc::{
    Close,
    cluster::{ClusterEvents, EventFilter, NodeEvent},
};
use ocpp_rpc_nats::async_nats;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    broker::{Broker, TIMEOUT},
    node::{Station, connect, start, start_all},
};

/// Waits for the event of this kind and station.
async fn event(events: &mut ClusterEvents, kind: &str, key: &str) -> NodeEvent {
    let found = async {
        loop {
            let event = events.next().await.expect("more events");
            if *event.kind == *kind && event.key.as_deref() == Some(key) {
                return event;
            }
        }
    };
    timeout(TIMEOUT, found).await.unwrap_or_else(|_| panic!("no event {kind} of {key}"))
}

#[tokio::test]
async fn watcher_sees_all_nodes_and_those_that_join_later() {
    let broker = Broker::start().await;
    let [a] = start_all(&broker, ["a"]).await;
    let observer = connect(&broker.url(), "api").await;
    let mut all = observer.events(EventFilter::all());
    let mut one = observer.events(EventFilter::all().key("x/CP.*").kinds(["opened", "call"]));
    sleep(Duration::from_millis(100)).await;
    let _first = Station::connect(&a.endpoint(), "CP-1").await;
    assert_eq!(&*event(&mut all, "opened", "CP-1").await.node, "a");
    a.call("CP-1", "Echo").await.expect("a result");

    let [b] = start_all(&broker, ["b"]).await;
    let second = Station::connect(&b.endpoint(), "x~CP.*").await;
    assert_eq!(&*event(&mut all, "opened", "x/CP.*").await.node, "b");
    b.finds("x/CP.*").await;
    // The new node learns of the watcher when that one has heard of it, and not when it next asks, after 4 s.
    let deadline = Instant::now() + Duration::from_secs(2);
    while timeout(Duration::from_millis(200), event(&mut one, "call", "x/CP.*")).await.is_err() {
        assert!(Instant::now() < deadline, "the new node publishes nothing");
        b.call("x/CP.*", "Echo").await.expect("a result");
    }
    second.client.close(Close::normal()).await;
    assert_eq!(&*event(&mut all, "closed", "x/CP.*").await.node, "b");
}

#[tokio::test]
async fn lease_of_a_watcher_that_dies_ends() {
    let broker = Broker::start().await;
    let [a] = start_all(&broker, ["a"]).await;
    let _peer = Station::connect(&a.endpoint(), "CP-1").await;
    a.finds("CP-1").await;
    let client = async_nats::connect(broker.url()).await.expect("NATS is there");
    let mut published = client.subscribe("ocpp.v1.ev.CP-1.call").await.expect("subscribed");
    client.flush().await.expect("flushed");
    let mut is_published = async || {
        a.call("CP-1", "Echo").await.expect("a result");
        timeout(Duration::from_millis(100), published.next()).await.is_ok()
    };
    assert!(!is_published().await, "an unwatched cluster publishes no messages");

    // A process that is killed does not end its lease.
    let watch = r#"{"watch":{"from":"0123456789abcdef","watch":1,"filter":{},"lease":10000}}"#;
    client.publish("ocpp.v1.all", watch.into()).await.expect("published");
    client.flush().await.expect("flushed");
    let start = Instant::now();
    sleep(Duration::from_millis(100)).await;
    assert!(is_published().await);
    while is_published().await {
        assert!(start.elapsed() < Duration::from_secs(15), "the lease does not end");
        sleep(Duration::from_millis(100)).await;
    }
    assert!(start.elapsed() > Duration::from_secs(9), "{:?}", start.elapsed());
}

#[tokio::test]
async fn list_has_the_stations_of_all_nodes_in_pages() {
    let broker = Broker::start().await;
    let [a, b] = start_all(&broker, ["a", "b"]).await;
    let observer = connect(&broker.url(), "api").await;
    let mut peers = Vec::new();
    for number in 0..1200 {
        let node = if number % 12 == 0 { &a } else { &b };
        peers.push(Station::connect(&node.endpoint(), &format!("CP-{number:04}")).await);
    }
    let mut stations = observer.stations();
    let (mut keys, mut pages) = (Vec::new(), 0);
    while let Some(page) = stations.next().await {
        pages += 1;
        keys.extend(page.into_iter().map(|station| station.key));
    }
    keys.sort();
    assert_eq!((keys.len(), stations.missing_nodes().len()), (1200, 0));
    assert!(pages >= 4, "{pages}");
    assert!(keys.iter().enumerate().all(|(number, key)| **key == *format!("CP-{number:04}")));
}

#[tokio::test]
async fn node_that_leaves_is_gone_at_once() {
    let broker = Broker::start().await;
    let nats = connect(&broker.url(), "b").await;
    let [a] = start_all(&broker, ["a"]).await;
    let b = start(nats).await;
    let peer = Station::connect(&b.endpoint(), "CP-1").await;
    a.finds("CP-1").await;
    b.close(Close::going_away()).await;
    assert_eq!(peer.client.closed().await.map(|closed| closed.code), Some(1001));
    let mut stations = a.server.stations();
    let start = Instant::now();
    assert!(stations.next().await.is_none());
    assert!(stations.missing_nodes().is_empty(), "{:?}", stations.missing_nodes());
    assert!(start.elapsed() < Duration::from_millis(700), "{:?}", start.elapsed());
    assert!(matches!(a.call("CP-1", "Echo").await, Err(ocpp_rpc::Error::NotConnected)));
}

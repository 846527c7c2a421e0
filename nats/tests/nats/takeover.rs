//! Stations that connect to several nodes.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use crate::{
    broker::{Broker, TIMEOUT},
    node::{Station, connect, start},
    tapped::Tapped,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storm_of_takeovers_leaves_each_station_one_session() {
    const STATIONS: usize = 300;
    let broker = Broker::start().await;
    let mut nodes = Vec::new();
    for (name, seconds) in [("a", 0), ("b", 5), ("c", 10)] {
        let nats = connect(&broker.url(), name).await;
        nodes.push(start(Tapped::new(nats).clock(move |now| now + Duration::from_secs(seconds))).await);
    }
    let endpoints: Vec<_> = nodes.iter().map(|node| node.endpoint()).collect();
    let mut peers: Vec<Vec<Station>> = (0..STATIONS).map(|_| Vec::new()).collect();
    for _ in 0..3 {
        // Each station connects to all nodes at the same time, as far as this machine can.
        let connecting = peers.iter_mut().enumerate().map(|(number, peers)| {
            let endpoints = &endpoints;
            async move {
                let identity = format!("CP-{number}");
                let new = endpoints.iter().map(|endpoint| Station::connect(endpoint, &identity));
                peers.extend(join_all(new).await);
            }
        });
        join_all(connecting).await;
    }
    let open = |peers: &Vec<Station>| peers.iter().filter(|peer| peer.client.session().is_open()).count();
    let settled = async {
        while peers.iter().any(|peers| open(peers) != 1) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    if timeout(TIMEOUT, settled).await.is_err() {
        let wrong: Vec<_> = peers.iter().map(open).filter(|open| *open != 1).collect();
        panic!("stations without exactly one session: {wrong:?}");
    }
    // Nothing changes any more, and each node calls the one session that the station has.
    sleep(Duration::from_millis(500)).await;
    for (number, peers) in peers.iter().enumerate() {
        assert_eq!(open(peers), 1);
        for node in &nodes {
            node.call(&format!("CP-{number}"), "Echo").await.expect("a result");
        }
        let received: Vec<_> =
            peers.iter().filter(|peer| peer.client.session().is_open()).map(Station::received).collect();
        assert_eq!(received, [3]);
    }
}

#[tokio::test]
async fn same_identity_twice_on_one_node_at_once_has_one_session() {
    let broker = Broker::start().await;
    let nats = connect(&broker.url(), "a").await;
    let node = start(nats.clone()).await;
    for _ in 0..20 {
        let endpoint = node.endpoint();
        let peers = join_all((0..4).map(|_| Station::connect(&endpoint, "CP-1"))).await;
        let settled = async {
            while peers.iter().filter(|peer| peer.client.session().is_open()).count() != 1 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(TIMEOUT, settled).await.expect("one session");
        nats.station("CP-1").call::<serde_json::Value>("Echo", &()).await.expect("reachable");
    }
}

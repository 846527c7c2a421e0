//! The list with as many stations as one process has files.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use ocpp_rpc::RpcClient;
use serde_json::{Value, json};

use crate::{console_of, run, support::Backend};

const STATIONS: usize = 19_000;

/// The number of stations that connect at the same time.
const CONNECTING: usize = 100;

/// The latency of a Heartbeat that one in a hundred may exceed.
const LATENCY: Duration = Duration::from_millis(250);

#[tokio::test(flavor = "multi_thread")]
async fn list_of_19000_stations_scrolls_while_the_server_responds() {
    let backend = Backend::start(&[]);
    let url = format!("ws://{}/ocpp", backend.address());
    let connect = async |number: usize| {
        let client = RpcClient::builder(&url, format!("CP-{number:05}")).protocols(["ocpp1.6"]).build();
        let client = client.expect("settings");
        client.connect().await.expect("a connection (a process needs 20,000 files: see `ulimit -n`)");
        client
    };
    let stations: Vec<_> = stream::iter(1..=STATIONS).map(connect).buffer_unordered(CONNECTING).collect().await;

    let mut latencies = Vec::new();
    let heartbeats = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        loop {
            ticks.tick().await;
            let start = Instant::now();
            stations[0].call::<Value>("Heartbeat", &json!({})).await.expect("a response");
            latencies.push(start.elapsed());
        }
    };
    tokio::select! {
        () = run("many.mjs", vec![console_of(&backend), STATIONS.to_string()]) => {}
        () = heartbeats => unreachable!("the loop has no end"),
    }
    latencies.sort_unstable();
    let p99 = latencies[latencies.len() * 99 / 100];
    println!("{} heartbeats meanwhile: p99 {p99:?}, longest {:?}", latencies.len(), latencies.last());
    assert!(p99 < LATENCY, "the server responds too late: {p99:?}");
}

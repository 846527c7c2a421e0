//! The metrics that a recorder receives.

use std::collections::{BTreeMap, BTreeSet};

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use ocpp_rpc::{
    Error, Options, Payload, RpcRouter, RpcServer,
    cluster::Local,
    outgoing::{self, CallResponse, Next, OutgoingCall},
};
use serde_json::Value;
use tokio::time::sleep;

use crate::{
    compression,
    dashboard::documented,
    support::{SECOND, Station, connected, echo, server_with},
    tcp::{Site, head},
};

/// Returns the recorded values by name and labels; for a histogram, the number of its samples.
///
/// Fails if a metric is not described, or has other labels than the guide says.
fn counted(recorder: &DebuggingRecorder) -> BTreeMap<String, u64> {
    let metrics = recorder.snapshotter().snapshot().into_vec();
    let documented = documented();
    metrics
        .into_iter()
        .map(|(key, _, description, value)| {
            let key = key.key();
            let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
            let names: BTreeSet<_> = key.labels().map(|label| label.key().to_owned()).collect();
            assert_eq!(documented.get(key.name()).map(|documented| &documented.labels), Some(&names), "{key}");
            assert!(description.is_some(), "{key}");
            let value = match value {
                DebugValue::Counter(count) => count,
                DebugValue::Gauge(level) => level.into_inner() as u64,
                DebugValue::Histogram(times) => times.len() as u64,
            };
            (format!("{} {}", key.name(), labels.join(",")).trim().to_owned(), value)
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn b61_connections_calls_and_deviations_are_counted() {
    let recorder = DebuggingRecorder::new();
    let _installed = metrics::set_default_local_recorder(&recorder);
    let options = Options::server().ping_interval(SECOND).call_timeout(SECOND);
    let server = server_with(RpcRouter::new().on("Echo", echo), options);
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let other = Station::connect(&server, "CP-2", "ocpp1.6").await;

    station.ask(r#"[2,"1","Echo",{}]"#).await;
    station.ask(r#"[2,"2","Nothing",{}]"#).await;
    station.send("garbage").await;
    station.send("").await;
    let call = tokio::spawn(session.call::<Value>("Do", &()));
    let (id, _) = station.receive_call().await;
    station.send(format!(r#"[3,"{id}",{{}}]"#)).await;
    call.await.expect("no panic").expect("a result");
    let late = session.call::<Value>("Slow", &()).await;
    assert!(late.expect_err("no response").is_timeout());
    let (id, _) = station.receive_call().await;
    station.send(format!(r#"[3,"{id}",{{}}]"#)).await;
    station.ask(r#"[2,"3","Echo",{}]"#).await;
    station.close(1000, "").await;
    session.closed().await;

    let counted = counted(&recorder);
    for (name, value) in [
        ("ocpp_rpc_connections", 1),
        ("ocpp_rpc_connections_opened_total", 2),
        ("ocpp_rpc_connections_closed_total cause=remote", 1),
        ("ocpp_rpc_messages_total direction=in", 7),
        ("ocpp_rpc_messages_total direction=out", 5),
        ("ocpp_rpc_calls_total direction=in,outcome=result", 2),
        ("ocpp_rpc_calls_total direction=in,outcome=rejected", 1),
        ("ocpp_rpc_calls_total direction=out,outcome=result", 1),
        ("ocpp_rpc_calls_total direction=out,outcome=timeout", 1),
        ("ocpp_rpc_call_seconds direction=in", 3),
        ("ocpp_rpc_call_seconds direction=out", 2),
        ("ocpp_rpc_bad_messages_total", 1),
        ("ocpp_rpc_deviations_total deviation=empty_message", 1),
        ("ocpp_rpc_late_responses_total", 1),
    ] {
        assert_eq!(counted.get(name), Some(&value), "{name} of {counted:#?}");
    }
    assert!(counted["ocpp_rpc_message_bytes_total direction=in"] > 100, "{counted:#?}");
    assert!(counted.contains_key("ocpp_rpc_ping_seconds"), "{counted:#?}");
    drop(other);
}

#[tokio::test(start_paused = true)]
async fn b61_calls_that_no_handler_took_are_counted_as_rejected() {
    let recorder = DebuggingRecorder::new();
    let _installed = metrics::set_default_local_recorder(&recorder);
    let options = Options::server().call_rate(1, 10 * SECOND);
    let server = server_with(RpcRouter::new().on("Echo", echo), options);
    let (mut station, _session) = connected(&server, "ocpp1.6").await;
    for id in 1..=3 {
        station.ask(format!(r#"[2,"{id}","Echo",{{}}]"#)).await;
    }
    let counted = counted(&recorder);
    for (name, value) in [
        ("ocpp_rpc_calls_total direction=in,outcome=result", 1),
        ("ocpp_rpc_calls_total direction=in,outcome=rejected", 2),
        ("ocpp_rpc_call_seconds direction=in", 1),
    ] {
        assert_eq!(counted.get(name), Some(&value), "{name} of {counted:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn b101_each_attempt_of_a_layer_is_counted_and_the_call_is_not() {
    async fn twice(call: OutgoingCall, next: Next) -> Result<CallResponse, Error> {
        if call.action() == "Local" {
            return Ok(Payload::default().into());
        }
        next.clone().run(call.clone()).await.expect_err("no response");
        next.run(call).await
    }
    let recorder = DebuggingRecorder::new();
    let _installed = metrics::set_default_local_recorder(&recorder);
    let router = RpcRouter::new();
    let server = RpcServer::builder(router).protocols(["ocpp1.6"]).call_layer(outgoing::from_fn(twice));
    let server = server.build().expect("valid settings");
    let (_station, session) = connected(&server, "ocpp1.6").await;
    session.call::<Value>("Local", &()).await.expect("a result");
    session.call::<Value>("Slow", &()).timeout(SECOND).await.expect_err("no response");
    let counted = counted(&recorder);
    assert_eq!(counted["ocpp_rpc_calls_total direction=out,outcome=timeout"], 2);
    assert_eq!(counted["ocpp_rpc_calls_total direction=out,outcome=result"], 0);
    assert_eq!(counted["ocpp_rpc_call_seconds direction=out"], 2);
}

#[tokio::test]
async fn b61_refused_handshakes_are_counted_by_status() {
    let recorder = DebuggingRecorder::new();
    let _installed = metrics::set_default_local_recorder(&recorder);
    let site = Site::of(RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"])).await;
    assert_eq!(site.ask(&head("/%ff")).await.status, 404);
    let counted = counted(&recorder);
    assert_eq!(counted.get("ocpp_rpc_handshakes_refused_total status=404"), Some(&1), "{counted:#?}");
}

#[tokio::test]
async fn b80_bytes_are_counted_before_and_after_compression() {
    let recorder = DebuggingRecorder::new();
    let _installed = metrics::set_default_local_recorder(&recorder);
    let site = Site::of(RpcServer::builder(RpcRouter::new().on("Echo", echo)).protocols(["ocpp1.6"])).await;
    let (_, mut station) = compression::enter(&site, "/CP-1", compression::OFFER).await;
    let (call, result) = (r#"[2,"1","Echo",{"text":"aaaaaaaaaaaaaaaa"}]"#, r#"[3,"1",{"text":"aaaaaaaaaaaaaaaa"}]"#);
    assert_eq!(station.ask(call).await, result);
    let counted = counted(&recorder);
    assert_eq!(counted["ocpp_rpc_uncompressed_bytes_total direction=in"], call.len() as u64);
    assert_eq!(counted["ocpp_rpc_uncompressed_bytes_total direction=out"], result.len() as u64);
    for direction in ["in", "out"] {
        let compressed = counted[&format!("ocpp_rpc_compressed_bytes_total direction={direction}")];
        assert!(compressed > 0 && compressed < result.len() as u64, "{compressed} bytes {direction}");
    }
}

#[tokio::test(start_paused = true)]
async fn b74_identity_conflicts_are_counted() {
    let recorder = DebuggingRecorder::new();
    let _installed = metrics::set_default_local_recorder(&recorder);
    let server = server_with(RpcRouter::new().on("Echo", echo), Options::server().ping_interval(None));
    let mut stations = Vec::new();
    for _ in 0..7 {
        let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
        station.ask(r#"[2,"1","Echo",{}]"#).await;
        stations.push(station);
    }
    assert_eq!(counted(&recorder)["ocpp_rpc_identity_conflicts_total"], 1);
}

#[tokio::test(start_paused = true)]
async fn b61_calls_between_nodes_and_replaced_sessions_are_counted() {
    let recorder = DebuggingRecorder::new();
    let _installed = metrics::set_default_local_recorder(&recorder);
    let cluster = Local::new();
    let [a, b] = ["a", "b"].map(|name| {
        let server = RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).cluster(cluster.node(name));
        server.build().expect("a valid configuration")
    });
    let mut old = Station::connect(&b, "CP-1", "ocpp1.6").await;
    sleep(SECOND).await;
    let call = |action: &str| a.station("CP-1").call::<Value>(action, &());
    let (result, ()) = tokio::join!(call("Reset"), async {
        let (id, _) = old.receive_call().await;
        old.send(format!(r#"[3,"{id}",{{}}]"#)).await;
    });
    result.expect("a result");
    call("Slow").timeout(SECOND).await.expect_err("no response");
    let _new = Station::connect(&a, "CP-1", "ocpp1.6").await;
    assert_eq!(old.closed().await.0, 1008);
    cluster.disconnect("b");
    cluster.reconnect("b");

    let counted = counted(&recorder);
    let expected = [
        ("ocpp_rpc_cluster_connected", 1),
        ("ocpp_rpc_cluster_calls_total direction=in,outcome=result", 1),
        ("ocpp_rpc_cluster_calls_total direction=in,outcome=timeout", 1),
        ("ocpp_rpc_cluster_calls_total direction=out,outcome=result", 1),
        ("ocpp_rpc_cluster_calls_total direction=out,outcome=timeout", 1),
        ("ocpp_rpc_cluster_call_seconds direction=out", 2),
        ("ocpp_rpc_cluster_replaced_total", 1),
        ("ocpp_rpc_cluster_reconnects_total", 1),
        ("ocpp_rpc_cluster_clock_skew_seconds", 0),
        // At the node of the station alone.
        ("ocpp_rpc_calls_total direction=out,outcome=result", 1),
    ];
    for (name, count) in expected {
        assert_eq!(counted.get(name), Some(&count), "{name}: {counted:#?}");
    }
}

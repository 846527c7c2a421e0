//! A broker that permits a process to send messages about some stations only.

use std::sync::{Arc, OnceLock};

use ocpp_rpc::{
    Error, RpcRouter, RpcServer,
    cluster::{Destination, Local, Node, NodeId, Received},
};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use crate::{
    support::{NextNow, SECOND, Station},
    tapped::{Fate, Tapped},
};

/// Starts a node whose broker does not permit requests to `CP-9`, and that the test can give messages to.
fn start(cluster: &Local) -> (RpcServer, Arc<OnceLock<Node>>) {
    let limited = Tapped::new(cluster.node("a")).on_send(|node, to, _| {
        if to != Destination::Station("CP-9") {
            return Fate::Sent;
        }
        let node = node.clone();
        tokio::spawn(async move { node.not_permitted("CP-9") });
        Fate::Lost
    });
    let node = limited.node();
    let server = RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).cluster(limited);
    (server.build().expect("a valid configuration"), node)
}

#[tokio::test(start_paused = true)]
async fn b85_call_that_the_broker_does_not_permit_is_unreachable_at_once() {
    let (server, _) = start(&Local::new());
    let start = Instant::now();
    let call = server.station("CP-9").call::<Value>("Reset", &()).await;
    assert!(matches!(call, Err(Error::Unreachable)), "{call:?}");
    assert_eq!(start.elapsed().as_millis(), 0);
    assert!(matches!(server.station("CP-8").call::<Value>("Reset", &()).await, Err(Error::NotConnected)));
}

#[tokio::test(start_paused = true)]
async fn request_that_only_a_later_release_knows_fails_at_once() {
    let (responses, mut received) = mpsc::unbounded_channel();
    let tapped = Tapped::new(Local::new().node("a")).on_send(move |_, to, message| {
        if let Destination::Response { request: 7, key: Some("CP-1"), .. } = to {
            responses.send(serde_json::from_slice::<Value>(message).expect("JSON")).expect("a receiver");
        }
        Fate::Sent
    });
    let node = tapped.node();
    let server = RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).cluster(tapped);
    let server = server.build().expect("a valid configuration");
    let _peer = Station::connect(&server, "CP-1", "ocpp1.6").await;
    let request = json!({"key": "CP-1", "mode": "later", "expires": u64::MAX >> 1, "more": []});
    let from: NodeId = "0123456789abcdef".parse().expect("an id");
    let node = node.get().expect("joined");
    node.received(Received::Request { node: from, request: 7, key: "CP-1" }, request.to_string().into());
    let response = timeout(SECOND, received.recv()).await.expect("a response");
    assert_eq!(response, Some(json!({"error": {"kind": "disconnected", "maybe_delivered": false}})));
}

#[tokio::test(start_paused = true)]
async fn b93_message_about_one_station_has_no_effect_on_another() {
    let (server, node) = start(&Local::new());
    let node = node.get().expect("joined");
    let mut peers =
        [Station::connect(&server, "CP-1", "ocpp1.6").await, Station::connect(&server, "CP-2", "ocpp1.6").await];
    let from: NodeId = "0123456789abcdef".parse().expect("an id");
    let call = |key| json!({"key": key, "mode": "call", "expires": u64::MAX >> 1, "action": "Reset", "params": {}});
    let sessions = json!([{"key": "CP-1", "epoch": "f".repeat(32)}, {"key": "CP-2", "epoch": "f".repeat(32)}]);
    let give = |received: Received<'_>, message: Value| node.received(received, message.to_string().into());

    give(Received::Request { node: from, request: 1, key: "CP-1" }, call("CP-2"));
    let open = json!({"open": {"from": from, "after": 0, "until": 2, "sessions": sessions}});
    give(Received::Broadcast(Some("CP-1")), open.clone());
    give(Received::Control(Some("CP-1")), open.clone());
    sleep(SECOND).await;
    for peer in &mut peers {
        let received =
            std::iter::from_fn(|| peer.ws.next_now()).find(|message| message.is_text() || message.is_close());
        assert!(received.is_none(), "{received:?}");
    }
    give(Received::Request { node: from, request: 2, key: "CP-2" }, call("CP-2"));
    assert_eq!(peers[1].receive_call().await.1, json!(["Reset", {}]));
    // Without the name of a station, any node may announce sessions.
    give(Received::Control(None), open);
    for peer in &mut peers {
        assert_eq!(peer.closed().await.0, 1008);
    }
}

#[tokio::test(start_paused = true)]
async fn b93_cancellation_about_one_station_does_not_cancel_a_call_to_another() {
    let (server, node) = start(&Local::new());
    let node = node.get().expect("joined");
    let mut peer = Station::connect(&server, "CP-2", "ocpp1.6").await;
    let from: NodeId = "0123456789abcdef".parse().expect("an id");
    let call =
        |action| json!({"key": "CP-2", "mode": "call", "expires": u64::MAX >> 1, "action": action, "params": {}});
    let give = |received: Received<'_>, message: Value| node.received(received, message.to_string().into());
    for (number, action) in [(1, "InFlight"), (2, "Queued"), (3, "Cancelled"), (4, "AlsoCancelled")] {
        give(Received::Request { node: from, request: number, key: "CP-2" }, call(action));
    }
    let cancel = |request| json!({"cancel": {"from": from, "request": request}});
    give(Received::Control(Some("CP-1")), cancel(2));
    give(Received::Broadcast(Some("CP-1")), cancel(2));
    give(Received::Control(Some("CP-2")), cancel(3));
    give(Received::Broadcast(Some("CP-2")), cancel(4));
    for action in ["InFlight", "Queued"] {
        let (id, request) = peer.receive_call().await;
        assert_eq!(request[0], action);
        peer.send(format!(r#"[3,"{id}",{{}}]"#)).await;
    }
    sleep(SECOND).await;
    let written = std::iter::from_fn(|| peer.ws.next_now()).find(|message| message.is_text());
    assert!(written.is_none(), "{written:?}");
}

#[tokio::test(start_paused = true)]
async fn b86_sign_of_life_in_the_name_of_a_node_does_not_keep_its_calls_alive() {
    let cluster = Local::new();
    let (a, node) = start(&cluster);
    let tapped = Tapped::new(cluster.node("b"));
    let owner = tapped.node();
    let b = RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).cluster(tapped).build().expect("valid");
    let mut peer = Station::connect(&b, "CP-1", "ocpp1.6").await;
    sleep(SECOND).await;
    let mut call = a.station("CP-1").call::<Value>("Reset", &()).timeout(None);
    assert!(timeout(SECOND, &mut call).await.is_err(), "in flight");
    peer.receive_call().await;
    cluster.set_loss(1.0);
    let (node, from) = (node.get().expect("joined").clone(), owner.get().expect("joined").id());
    let forging = tokio::spawn(async move {
        let alive = json!({"alive": {"from": from, "probe": 1, "unknown": []}});
        loop {
            node.received(Received::Control(Some("CP-1")), alive.to_string().into());
            sleep(SECOND / 10).await;
        }
    });
    let ended = timeout(3 * SECOND, call).await.expect("the call ends");
    assert!(matches!(ended, Err(Error::Disconnected { maybe_delivered: true })), "{ended:?}");
    forging.abort();
}

/// A broker may deliver messages to different destinations in another order than they were sent.
#[tokio::test(start_paused = true)]
async fn b86_response_that_the_answer_to_a_probe_overtakes_is_the_result() {
    let cluster = Local::new();
    let (a, node) = start(&cluster);
    let held = Arc::<std::sync::Mutex<Option<(u64, bytes::Bytes)>>>::default();
    let tapped = {
        let held = held.clone();
        Tapped::new(cluster.node("b")).on_send(move |_, to, message| match to {
            Destination::Response { request: number, .. } if message.starts_with(b"{\"result\"") => {
                *held.lock().expect("no panic") = Some((number, message.clone()));
                Fate::Lost
            }
            _ => Fate::Sent,
        })
    };
    let b = RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).cluster(tapped).build().expect("valid");
    let mut peer = Station::connect(&b, "CP-1", "ocpp1.6").await;
    sleep(SECOND).await;
    let mut call = a.station("CP-1").call::<Value>("Reset", &()).timeout(None);
    assert!(timeout(SECOND, &mut call).await.is_err(), "in flight, and probed for");
    let (id, _) = peer.receive_call().await;
    peer.send(format!(r#"[3,"{id}",{{}}]"#)).await;
    // Until the next probe is answered.
    assert!(timeout(SECOND / 4, &mut call).await.is_err(), "the response is on its way");
    let (number, response) = held.lock().expect("no panic").take().expect("sent");
    node.get().expect("joined").received(Received::Response(number), response);
    assert_eq!(call.await.expect("a result"), json!({}));
}

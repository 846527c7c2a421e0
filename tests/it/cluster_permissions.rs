//! A broker that permits a process to send messages about some stations only.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use ocpp_rpc::{
    Error, RpcRouter, RpcServer,
    cluster::{
        Cluster, ClusterFuture, Destination, JoinError, Local, LocalNode, Node, NodeId, Received, SendError, Topic,
    },
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::{NextNow, SECOND, Station};

/// A node whose broker does not permit requests to `CP-9`, and that the test can give messages to.
struct Limited {
    local: LocalNode,
    node: Arc<OnceLock<Node>>,
}

impl Cluster for Limited {
    fn join(&self, node: Node) -> Result<(), JoinError> {
        self.node.set(node.clone()).map_err(|_| JoinError)?;
        self.local.join(node)
    }

    fn is_connected(&self) -> bool {
        self.local.is_connected()
    }

    fn max_message_size(&self) -> usize {
        self.local.max_message_size()
    }

    fn subscribe<'a>(&'a self, topic: Topic<'a>) -> ClusterFuture<'a, Result<(), SendError>> {
        self.local.subscribe(topic)
    }

    fn unsubscribe<'a>(&'a self, topic: Topic<'a>) -> ClusterFuture<'a, Result<(), SendError>> {
        self.local.unsubscribe(topic)
    }

    fn send<'a>(
        &'a self,
        to: Destination<'a>,
        request: Option<u64>,
        message: Bytes,
    ) -> ClusterFuture<'a, Result<(), SendError>> {
        if to != Destination::Station("CP-9") {
            return self.local.send(to, request, message);
        }
        let node = self.node.get().cloned();
        tokio::spawn(async move { node.expect("joined").not_permitted("CP-9") });
        Box::pin(async { Ok(()) })
    }

    fn leave(&self) -> ClusterFuture<'_, ()> {
        self.local.leave()
    }
}

fn start(cluster: &Local) -> (RpcServer, Arc<OnceLock<Node>>) {
    let node = Arc::<OnceLock<Node>>::default();
    let limited = Limited { local: cluster.node("a"), node: node.clone() };
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
async fn b93_message_about_one_station_has_no_effect_on_another() {
    let (server, node) = start(&Local::new());
    let node = node.get().expect("joined");
    let mut peers =
        [Station::connect(&server, "CP-1", "ocpp1.6").await, Station::connect(&server, "CP-2", "ocpp1.6").await];
    let from: NodeId = "0123456789abcdef".parse().expect("an id");
    let call = |key| json!({"key": key, "mode": "call", "expires": u64::MAX >> 1, "action": "Reset", "params": {}});
    let sessions = json!([{"key": "CP-1", "epoch": "f".repeat(32)}, {"key": "CP-2", "epoch": "f".repeat(32)}]);
    let give = |received: Received<'_>, message: Value| node.received(received, message.to_string().into());

    give(Received::Request(from, 1, "CP-1"), call("CP-2"));
    give(Received::Broadcast(Some("CP-1")), json!({"open": {"from": from, "opens": 1, "sessions": sessions}}));
    give(Received::Control(Some("CP-1")), json!({"claim": {"from": from, "sessions": sessions}}));
    sleep(SECOND).await;
    for peer in &mut peers {
        let received =
            std::iter::from_fn(|| peer.ws.next_now()).find(|message| message.is_text() || message.is_close());
        assert!(received.is_none(), "{received:?}");
    }
    give(Received::Request(from, 2, "CP-2"), call("CP-2"));
    assert_eq!(peers[1].receive_call().await.1, json!(["Reset", {}]));
    // Without the name of a station, any node may claim sessions.
    give(Received::Control(None), json!({"claim": {"from": from, "sessions": sessions}}));
    for peer in &mut peers {
        assert_eq!(peer.closed().await.0, 1008);
    }
}

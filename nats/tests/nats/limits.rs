//! Slow consumers.

use std::time::Duration;

use futures_util::StreamExt;
use ocpp_rpc_nats::{Nats, async_nats};
use tokio::time::timeout;

use crate::{
    broker::{Broker, TIMEOUT},
    node::{Station, start, start_all},
};

#[tokio::test]
async fn node_that_lost_messages_asks_the_others_for_them() {
    let broker = Broker::start().await;
    let options = Nats::options().subscription_capacity(8);
    let slow = Nats::connect_with(options, broker.url()).await.expect("NATS is there");
    let slow = start(slow.node_name("slow")).await;
    let [other] = start_all(&broker, ["other"]).await;
    let _peer = Station::connect(&slow.endpoint(), "CP-1").await;
    other.finds("CP-1").await;
    let client = async_nats::connect(broker.url()).await.expect("NATS is there");
    let mut all = client.subscribe("ocpp.v1.all").await.expect("subscribed");
    client.flush().await.expect("flushed");
    // The nodes have asked each other when they joined.
    while timeout(Duration::from_millis(500), all.next()).await.is_ok() {}
    let asks = async {
        loop {
            // More than the node has place for, and in one piece.
            for _ in 0..500 {
                client.publish("ocpp.v1.all.x", "{}".into()).await.expect("published");
            }
            client.flush().await.expect("flushed");
            while let Ok(Some(message)) = timeout(Duration::from_millis(100), all.next()).await {
                if message.payload.starts_with(br#"{"introduce":"#) {
                    return;
                }
            }
        }
    };
    timeout(TIMEOUT, asks).await.expect("the node asks");
    other.call("CP-1", "Echo").await.expect("a result");
}

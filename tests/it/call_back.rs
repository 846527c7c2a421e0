//! Handlers that call their own peer.

use ocpp_rpc::{
    CallError, RpcRouter,
    extract::{Params, Peer},
};
use serde_json::{Value, json};

use crate::support::{Station, server};

#[tokio::test]
async fn b30_a_handler_may_call_back_and_await_the_answer() {
    async fn back(peer: Peer, Params(params): Params<Value>) -> Result<Value, CallError> {
        let depth = params["depth"].as_u64().unwrap_or_default();
        Ok(peer.call("Back", &json!({"depth": depth + 1})).await?)
    }
    let server = server(RpcRouter::new().on("Back", back));
    let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    station.send(r#"[2,"0","Back",{"depth":0}]"#).await;
    let mut ids = Vec::new();
    for depth in 1..10 {
        let (id, call) = station.receive_call().await;
        assert_eq!(call, json!(["Back", {"depth": depth}]));
        // At a concurrency of 1 the server calls again only once this call is answered.
        station.send(format!(r#"[3,"{id}",{{"depth":{depth}}}]"#)).await;
        assert_eq!(station.receive().await, format!(r#"[3,"{}",{{"depth":{depth}}}]"#, depth - 1));
        station.send(format!(r#"[2,"{depth}","Back",{{"depth":{depth}}}]"#)).await;
        ids.push(id);
    }
    ids.dedup();
    assert_eq!(ids.len(), 9, "no id is used twice");
}

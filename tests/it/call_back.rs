//! Handlers that call their peer.

use futures_util::FutureExt;
use ocpp_rpc::{CallError, Options, RpcClient, RpcRouter, RpcServer, Session, extract::Params};
use serde_json::{Value, json};
use tokio::time::{Instant, advance, sleep};

use crate::{
    csms,
    support::{SECOND, Station, connected, serve, server, server_with},
};

#[tokio::test]
async fn b30_handler_may_call_back_and_await_the_response() {
    async fn call_back(peer: Session, Params(params): Params<Value>) -> Result<Value, CallError> {
        let depth = params["depth"].as_u64().unwrap_or_default();
        Ok(peer.call("Back", &json!({"depth": depth + 1})).await?)
    }
    let server = server(RpcRouter::new().on("Back", call_back));
    let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    station.send(r#"[2,"0","Back",{"depth":0}]"#).await;
    let mut ids = Vec::new();
    for depth in 1..10 {
        let (id, call) = station.receive_call().await;
        assert_eq!(call, json!(["Back", {"depth": depth}]));
        // At a concurrency of 1, the server calls again only when this call has its response.
        station.send(format!(r#"[3,"{id}",{{"depth":{depth}}}]"#)).await;
        assert_eq!(station.receive().await, format!(r#"[3,"{}",{{"depth":{depth}}}]"#, depth - 1));
        station.send(format!(r#"[2,"{depth}","Back",{{"depth":{depth}}}]"#)).await;
        ids.push(id);
    }
    ids.dedup();
    assert_eq!(ids.len(), 9, "no id is used twice");
}

#[tokio::test(start_paused = true)]
async fn b30_call_back_timeout_starts_when_the_call_is_written() {
    async fn slow(peer: Session) -> Result<Value, CallError> {
        // Simulates a handler that keeps the processor busy.
        advance(SECOND).now_or_never();
        Ok(peer.call("Do", &()).timeout(SECOND / 2).await?)
    }
    let server = server(RpcRouter::new().on("Slow", slow));
    let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    station.send(r#"[2,"1","Slow",{}]"#).await;
    let (id, _) = station.receive_call().await;
    sleep(SECOND / 10).await;
    station.send(format!(r#"[3,"{id}",{{"a":1}}]"#)).await;
    assert_eq!(station.receive().await, r#"[3,"1",{"a":1}]"#);
}

/// Calls the peer, and the handler of the peer calls back, down to the depth in the request.
async fn call_nested(peer: Session, Params(params): Params<Value>) -> Result<Value, CallError> {
    match params["left"].as_u64().unwrap_or_default() {
        0 => Ok(json!({"depth": 0})),
        left => {
            let response: Value = peer.call("Down", &json!({"left": left - 1})).await?;
            Ok(json!({"depth": response["depth"].as_u64().unwrap_or_default() + 1}))
        }
    }
}

/// Like [`call_nested`], but the calls bypass the queue.
async fn call_nested_bypassing_queue(peer: Session, Params(params): Params<Value>) -> Result<Value, CallError> {
    match params["left"].as_u64().unwrap_or_default() {
        0 => Ok(json!({"depth": 0})),
        left => {
            let response: Value = peer.call("Down", &json!({"left": left - 1})).bypass_queue().await?;
            Ok(json!({"depth": response["depth"].as_u64().unwrap_or_default() + 1}))
        }
    }
}

/// Connects a client to a server in memory and returns both ends.
async fn both_ends<S: Clone + Send + Sync + 'static>(
    router: RpcRouter<S>,
    calls: usize,
) -> (RpcServer, RpcClient, Session) {
    let server = server_with(router.clone(), Options::server().call_concurrency(calls));
    let (builder, mut dials) = csms::client();
    let options = Options::client().call_concurrency(calls);
    let (client, attempt) = csms::connecting(builder.router(router).options(options));
    serve(&server, dials.next().await);
    attempt.await.expect("no panic").expect("connected");
    let session = server.session("CP-1").expect("registered");
    (server, client, session)
}

#[tokio::test(start_paused = true)]
async fn b30_nested_calls_from_both_ends_reach_a_depth_of_ten() {
    // Each end has six calls of its own chain in flight, and five of the peer's chain.
    let (_server, client, session) = both_ends(RpcRouter::new().on("Down", call_nested), 11).await;
    let start = Instant::now();
    let params = json!({"left": 10});
    let (ours, theirs) = tokio::join!(client.call::<Value>("Down", &params), session.call::<Value>("Down", &params));
    for response in [ours, theirs] {
        assert_eq!(response.expect("a response"), json!({"depth": 10}));
    }
    assert!(start.elapsed().is_zero(), "no call waited for a timeout");
}

#[tokio::test(start_paused = true)]
async fn b30_nested_calls_bypassing_the_queue_work_one_at_a_time() {
    let (_server, client, session) = both_ends(RpcRouter::new().on("Down", call_nested_bypassing_queue), 1).await;
    let start = Instant::now();
    let params = json!({"left": 10});
    for _ in 0..3 {
        let both = tokio::join!(client.call::<Value>("Down", &params), session.call::<Value>("Down", &params));
        for response in [both.0, both.1] {
            assert_eq!(response.expect("a response"), json!({"depth": 10}));
        }
    }
    assert!(start.elapsed().is_zero(), "no call waited for a timeout");
}

#[tokio::test(start_paused = true)]
async fn b30_call_backs_of_both_ends_work_at_a_concurrency_of_one() {
    let (_server, client, session) = both_ends(RpcRouter::new().on("Down", call_nested), 1).await;
    let start = Instant::now();
    for _ in 0..10 {
        for call in [client.call::<Value>("Down", &json!({"left": 1})), session.call("Down", &json!({"left": 1}))] {
            assert_eq!(call.await.expect("a response"), json!({"depth": 1}));
        }
    }
    assert!(start.elapsed().is_zero(), "no call waited for a timeout");
}

#[tokio::test(start_paused = true)]
async fn b30_simultaneous_call_backs_need_to_bypass_the_queue() {
    let (_server, client, session) = both_ends(RpcRouter::new().on("Down", call_nested), 1).await;
    let (start, params) = (Instant::now(), json!({"left": 1}));
    let (ours, theirs) = tokio::join!(client.call::<Value>("Down", &params), session.call::<Value>("Down", &params));
    // The server's call times out first. Then the server's queue moves on, and the handler of the client's call ends.
    assert!(theirs.expect_err("a deadlock").is_timeout());
    assert_eq!((ours.expect("a response"), start.elapsed()), (json!({"depth": 1}), 30 * SECOND));

    let (_server, client, session) = both_ends(RpcRouter::new().on("Down", call_nested_bypassing_queue), 1).await;
    let start = Instant::now();
    let (ours, theirs) = tokio::join!(client.call::<Value>("Down", &params), session.call::<Value>("Down", &params));
    for response in [ours, theirs] {
        assert_eq!(response.expect("a response"), json!({"depth": 1}));
    }
    assert!(start.elapsed().is_zero(), "no call waited for a timeout");
}

#[tokio::test(start_paused = true)]
async fn b30_call_backs_of_ten_handlers_leave_one_at_a_time() {
    let server = server(RpcRouter::new().on("Down", call_nested).on("Echo", crate::support::echo));
    let (mut station, _session) = connected(&server, "ocpp1.6").await;
    for id in 0..10 {
        station.send(format!(r#"[2,"{id}","Down",{{"left":{}}}]"#, id + 1)).await;
    }
    for id in 0..10 {
        let (call_back_id, call) = station.receive_call().await;
        assert_eq!(call, json!(["Down", {"left": id}]));
        // The server serves the station's calls in the meantime.
        assert_eq!(station.ask(r#"[2,"x","Echo",{}]"#).await, r#"[3,"x",{}]"#);
        station.send(format!(r#"[3,"{call_back_id}",{{"depth":{id}}}]"#)).await;
        assert_eq!(station.receive().await, format!(r#"[3,"{id}",{{"depth":{}}}]"#, id + 1));
    }
}

#[tokio::test(start_paused = true)]
async fn b30_deadlocked_call_backs_end_with_their_timeout() {
    // With one call at a time, the second call of a chain is queued behind the first, which waits for the second.
    let (_server, client, session) = both_ends(RpcRouter::new().on("Down", call_nested), 1).await;
    let start = Instant::now();
    let params = json!({"left": 10});
    let (ours, theirs) = tokio::join!(client.call::<Value>("Down", &params), session.call::<Value>("Down", &params));
    assert!(ours.is_err() && theirs.is_err());
    assert!(start.elapsed() <= 60 * SECOND, "{:?}", start.elapsed());
    // Calls that the handlers still have in the queue time out as well.
    while client.call::<Value>("Down", &json!({"left": 1})).await.is_err() {
        assert!(start.elapsed() <= 600 * SECOND, "{:?}", start.elapsed());
    }
}

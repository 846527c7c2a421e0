//! Handlers that call their own peer.

use futures_util::FutureExt;
use ocpp_rpc::{CallError, Options, RpcClient, RpcRouter, RpcServer, Session, extract::Params};
use serde_json::{Value, json};
use tokio::time::{Instant, advance, sleep};

use crate::{
    csms,
    support::{SECOND, Station, connected, serve, server, server_with},
};

#[tokio::test]
async fn b30_a_handler_may_call_back_and_await_the_answer() {
    async fn back(peer: Session, Params(params): Params<Value>) -> Result<Value, CallError> {
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

#[tokio::test(start_paused = true)]
async fn b30_the_timeout_of_a_call_back_begins_when_it_is_written_however_long_its_handler_took() {
    async fn slow(peer: Session) -> Result<Value, CallError> {
        // As if it had kept the processor busy.
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

/// Calls its peer, whose handler calls back, and so on, as deep as it is told to.
async fn down(peer: Session, Params(params): Params<Value>) -> Result<Value, CallError> {
    match params["left"].as_u64().unwrap_or_default() {
        0 => Ok(json!({"depth": 0})),
        left => {
            let answer: Value = peer.call("Down", &json!({"left": left - 1})).await?;
            Ok(json!({"depth": answer["depth"].as_u64().unwrap_or_default() + 1}))
        }
    }
}

/// The same, by calls that wait for nobody's turn.
async fn straight_down(peer: Session, Params(params): Params<Value>) -> Result<Value, CallError> {
    match params["left"].as_u64().unwrap_or_default() {
        0 => Ok(json!({"depth": 0})),
        left => {
            let answer: Value = peer.call("Down", &json!({"left": left - 1})).bypass_queue().await?;
            Ok(json!({"depth": answer["depth"].as_u64().unwrap_or_default() + 1}))
        }
    }
}

/// Both ends of a connection in memory.
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
async fn b30_handlers_call_each_other_ten_deep_from_both_ends_at_once() {
    // Each end has six calls of its own chain out, and five of the other's.
    let (_server, client, session) = both_ends(RpcRouter::new().on("Down", down), 11).await;
    let start = Instant::now();
    let params = json!({"left": 10});
    let (ours, theirs) = tokio::join!(client.call::<Value>("Down", &params), session.call::<Value>("Down", &params));
    for answer in [ours, theirs] {
        assert_eq!(answer.expect("an answer"), json!({"depth": 10}));
    }
    assert!(start.elapsed().is_zero(), "nothing waited for anybody's time to run out");
}

#[tokio::test(start_paused = true)]
async fn b30_handlers_that_wait_for_nobodys_turn_call_each_other_ten_deep_at_a_concurrency_of_one() {
    let (_server, client, session) = both_ends(RpcRouter::new().on("Down", straight_down), 1).await;
    let start = Instant::now();
    let params = json!({"left": 10});
    for _ in 0..3 {
        let both = tokio::join!(client.call::<Value>("Down", &params), session.call::<Value>("Down", &params));
        for answer in [both.0, both.1] {
            assert_eq!(answer.expect("an answer"), json!({"depth": 10}));
        }
    }
    assert!(start.elapsed().is_zero(), "nothing waited for anybody's time to run out");
}

#[tokio::test(start_paused = true)]
async fn b30_handlers_of_both_ends_call_back_one_call_at_a_time() {
    let (_server, client, session) = both_ends(RpcRouter::new().on("Down", down), 1).await;
    let start = Instant::now();
    for _ in 0..10 {
        for call in [client.call::<Value>("Down", &json!({"left": 1})), session.call("Down", &json!({"left": 1}))] {
            assert_eq!(call.await.expect("an answer"), json!({"depth": 1}));
        }
    }
    assert!(start.elapsed().is_zero(), "nothing waited for anybody's time to run out");
}

#[tokio::test(start_paused = true)]
async fn b30_ten_handlers_at_once_call_back_one_call_at_a_time() {
    let server = server(RpcRouter::new().on("Down", down).on("Echo", crate::support::echo));
    let (mut station, _session) = connected(&server, "ocpp1.6").await;
    for id in 0..10 {
        station.send(format!(r#"[2,"{id}","Down",{{"left":{}}}]"#, id + 1)).await;
    }
    for id in 0..10 {
        let (back, call) = station.receive_call().await;
        assert_eq!(call, json!(["Down", {"left": id}]));
        // The station's own calls are served all the while.
        assert_eq!(station.ask(r#"[2,"x","Echo",{}]"#).await, r#"[3,"x",{}]"#);
        station.send(format!(r#"[3,"{back}",{{"depth":{id}}}]"#)).await;
        assert_eq!(station.receive().await, format!(r#"[3,"{id}",{{"depth":{}}}]"#, id + 1));
    }
}

#[tokio::test(start_paused = true)]
async fn b30_call_backs_that_wait_for_each_other_in_line_end_with_their_time_and_leave_nothing_behind() {
    // One call at a time: the second call of each chain at one end waits behind the first, which waits for it.
    let (_server, client, session) = both_ends(RpcRouter::new().on("Down", down), 1).await;
    let start = Instant::now();
    let params = json!({"left": 10});
    let (ours, theirs) = tokio::join!(client.call::<Value>("Down", &params), session.call::<Value>("Down", &params));
    assert!(ours.is_err() && theirs.is_err());
    assert!(start.elapsed() <= 60 * SECOND, "{:?}", start.elapsed());
    // What the handlers still have in line runs out as well.
    while client.call::<Value>("Down", &json!({"left": 1})).await.is_err() {
        assert!(start.elapsed() <= 600 * SECOND, "{:?}", start.elapsed());
    }
}

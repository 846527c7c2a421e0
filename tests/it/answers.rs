//! Answers that a handler gives before it ends, and what it does afterwards.

use std::{convert::Infallible, sync::Arc, time::Duration};

use ocpp_rpc::{
    CallError, Close, Error, ErrorCode, RpcRouter, RpcServer, Session,
    event::EventKind,
    extract::{CancellationToken, Responder, State},
    handler::NoResponse,
};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};

use crate::support::{Station, echo};

async fn connected<S: Send + Sync + 'static>(router: RpcRouter<S>, protocol: &str) -> (RpcServer, Station, Session) {
    let server = RpcServer::builder(router).protocols(["ocpp2.1", "ocpp1.6"]).build().expect("sound");
    let mut events = server.events();
    let station = Station::connect(&server, "CP-1", protocol).await;
    while !matches!(events.next().await.expect("more").kind, EventKind::Opened { .. }) {}
    let session = server.session("CP-1").expect("registered");
    (server, station, session)
}

#[tokio::test]
async fn b33_a_handler_answers_early_and_goes_on_working() {
    async fn work(answer: Responder, State(gate): State<Arc<Semaphore>>) -> Result<Value, CallError> {
        drop(answer.send(json!({"early": true})));
        gate.acquire().await.map_err(CallError::internal)?.forget();
        // Too late: the call has its answer.
        Ok(json!({"early": false}))
    }
    let gate = Arc::new(Semaphore::new(0));
    let router = RpcRouter::with_state(gate.clone()).on("Work", work).on("Echo", echo);
    let (_server, mut station, _) = connected(router, "ocpp1.6").await;
    assert_eq!(station.ask(r#"[2,"1","Work",{}]"#).await, r#"[3,"1",{"early":true}]"#);
    // The id is free while the handler works on, and stays taken by the next call when the first handler ends.
    assert_eq!(station.ask(r#"[2,"1","Work",{}]"#).await, r#"[3,"1",{"early":true}]"#);
    gate.add_permits(2);
    assert_eq!(station.ask(r#"[2,"1","Echo",{}]"#).await, r#"[3,"1",{}]"#);
}

#[tokio::test]
async fn b35_a_handler_that_ends_frees_no_id_that_was_taken_anew() {
    async fn work(answer: Responder, State(gate): State<Arc<Semaphore>>) -> Result<NoResponse, CallError> {
        drop(answer.send(()));
        gate.acquire().await.map_err(CallError::internal)?.forget();
        Ok(NoResponse)
    }
    async fn wait(gone: CancellationToken) -> Result<(), Infallible> {
        gone.cancelled().await;
        Ok(())
    }
    let gate = Arc::new(Semaphore::new(0));
    let router = RpcRouter::with_state(gate.clone()).on("Work", work).on("Wait", wait).on("Echo", echo);
    let (_server, mut station, _) = connected(router, "ocpp1.6").await;
    assert_eq!(station.ask(r#"[2,"1","Work",{}]"#).await, r#"[3,"1",{}]"#);
    station.send(r#"[2,"1","Wait",{}]"#).await;
    assert_eq!(station.ask(r#"[2,"2","Echo",{}]"#).await, r#"[3,"2",{}]"#);
    gate.add_permits(1);
    assert_eq!(station.ask(r#"[2,"3","Echo",{}]"#).await, r#"[3,"3",{}]"#);
    assert!(station.ask(r#"[2,"1","Echo",{}]"#).await.starts_with(r#"[4,"1","GenericError""#));
}

#[tokio::test]
async fn b33_what_comes_after_the_answer_is_done_when_the_answer_was_written() {
    async fn boot(answer: Responder, session: Session) -> Result<NoResponse, CallError> {
        answer.send(json!({"status": "Accepted"})).await?;
        let _: Value = session.call("GetConfiguration", &()).await?;
        Ok(NoResponse)
    }
    let (_server, mut station, _) = connected(RpcRouter::new().on("BootNotification", boot), "ocpp1.6").await;
    assert_eq!(station.ask(r#"[2,"1","BootNotification",{}]"#).await, r#"[3,"1",{"status":"Accepted"}]"#);
    assert_eq!(station.receive_call().await.1[0], "GetConfiguration");
}

#[tokio::test]
async fn b33_a_handler_refuses_early() {
    async fn refuse(answer: Responder) -> Result<(), Error> {
        answer.reject(ErrorCode::SECURITY_ERROR).await
    }
    let (_server, mut station, _) = connected(RpcRouter::new().on("Any", refuse), "ocpp1.6").await;
    assert_eq!(station.ask(r#"[2,"1","Any",{}]"#).await, r#"[4,"1","SecurityError","",{}]"#);
}

#[tokio::test]
async fn b37_an_answer_that_can_no_longer_be_written_says_so() {
    async fn late(
        answer: Responder,
        gone: CancellationToken,
        State(tell): State<mpsc::UnboundedSender<Result<(), Error>>>,
    ) -> Result<NoResponse, CallError> {
        gone.cancelled().await;
        let _ = tell.send(answer.send(()).await);
        Ok(NoResponse)
    }
    let (tell, mut told) = mpsc::unbounded_channel();
    let router = RpcRouter::with_state(tell).on("Late", late).on("Echo", echo);
    let (_server, mut station, _) = connected(router, "ocpp1.6").await;
    station.send(r#"[2,"1","Late",{}]"#).await;
    station.ask(r#"[2,"2","Echo",{}]"#).await;
    drop(station);
    let outcome = told.recv().await.expect("the handler finishes");
    assert!(matches!(outcome, Err(Error::Disconnected { maybe_delivered: false })), "{outcome:?}");
}

#[tokio::test]
async fn a_send_has_no_answer_to_give() {
    async fn early(answer: Responder) -> Result<(), Error> {
        answer.send(()).await
    }
    let (_server, mut station, _) = connected(RpcRouter::new().on("Any", early).on("Echo", echo), "ocpp2.1").await;
    station.send(r#"[6,"1","Any",{}]"#).await;
    assert_eq!(station.ask(r#"[2,"2","Echo",{}]"#).await, r#"[3,"2",{}]"#);
}

#[tokio::test(start_paused = true)]
async fn b47_a_waiting_close_lets_an_early_answer_out() {
    async fn work(answer: Responder, State(gate): State<Arc<Semaphore>>) -> Result<NoResponse, CallError> {
        gate.acquire().await.map_err(CallError::internal)?.forget();
        drop(answer.send(()));
        Ok(NoResponse)
    }
    let gate = Arc::new(Semaphore::new(0));
    let router = RpcRouter::with_state(gate.clone()).on("Work", work).on("Echo", echo);
    let (_server, mut station, session) = connected(router, "ocpp1.6").await;
    station.send(r#"[2,"1","Work",{}]"#).await;
    station.ask(r#"[2,"2","Echo",{}]"#).await;
    let closing = tokio::spawn(async move { session.close(Close::normal().drain(Duration::from_secs(30))).await });
    tokio::task::yield_now().await;
    gate.add_permits(1);
    assert_eq!(station.receive().await, r#"[3,"1",{}]"#);
    assert_eq!(station.closed().await.0, 1000);
    drop(station);
    closing.await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn b33_the_first_answer_to_a_call_is_the_only_one() {
    async fn patient(answer: Responder) -> Result<NoResponse, CallError> {
        answer.send(json!({"early": true})).await?;
        std::future::pending().await
    }
    async fn panics(answer: Responder) -> Result<NoResponse, CallError> {
        drop(answer.send(json!({"early": true})));
        panic!("after the answer")
    }
    async fn twice(first: Responder, second: Responder) -> Result<Value, CallError> {
        let first = first.send(json!({"early": true}));
        assert!(matches!(second.send(json!({"late": true})).await, Err(Error::Disconnected { .. })));
        first.await?;
        Ok(json!({"later": true}))
    }
    let router = RpcRouter::new().on("Patient", patient).on("Panics", panics).on("Twice", twice);
    let router = router.layer(tower::timeout::TimeoutLayer::new(Duration::from_secs(20))).on("Echo", echo);
    let (_server, mut station, _session) = connected(router, "ocpp1.6").await;
    for action in ["Patient", "Panics", "Twice"] {
        let first = station.ask(format!(r#"[2,"1","{action}",{{}}]"#)).await;
        let is_early = first == r#"[3,"1",{"early":true}]"#;
        assert!(is_early || action == "Panics" && first.starts_with(r#"[4,"1","InternalError""#), "{action}: {first}");
        station.silent().await;
        assert_eq!(station.ask(r#"[2,"1","Echo",{}]"#).await, r#"[3,"1",{}]"#, "{action}: the id is free");
    }
}

#[tokio::test(start_paused = true)]
async fn b47_a_waiting_close_lets_an_answer_out_that_a_handler_gave_at_once() {
    async fn at_once(answer: Responder) -> Result<NoResponse, Infallible> {
        drop(answer.send(json!({"early": true})));
        Ok(NoResponse)
    }
    let (router, gate) = crate::support::gated();
    let (_server, mut station, session) = connected(router.on("AtOnce", at_once), "ocpp1.6").await;
    station.send(r#"[2,"1","Wait",{}]"#).await;
    let closing = tokio::spawn(async move { session.close(Close::normal().drain(Duration::from_secs(30))).await });
    tokio::task::yield_now().await;
    // Both in one turn: the last call under way ends, and another has its answer on the way.
    gate.add_permits(1);
    station.send(r#"[2,"2","AtOnce",{}]"#).await;
    let mut answers = [station.receive().await, station.receive().await];
    answers.sort();
    assert_eq!(answers, [r#"[3,"1",{}]"#, r#"[3,"2",{"early":true}]"#]);
    assert_eq!(station.closed().await.0, 1000);
    drop(station);
    closing.await.expect("no panic");
}

#[tokio::test]
async fn b33_no_reply_may_be_given_early_too() {
    async fn none(answer: Responder) -> Result<NoResponse, CallError> {
        Ok(answer.send(NoResponse).await.map(|()| NoResponse)?)
    }
    let (_server, mut station, _session) =
        connected(RpcRouter::new().on("None", none).on("Echo", echo), "ocpp1.6").await;
    station.send(r#"[2,"1","None",{}]"#).await;
    for id in ["2", "1"] {
        let answer = station.ask(format!(r#"[2,"{id}","Echo",{{}}]"#)).await;
        assert_eq!(answer, format!(r#"[3,"{id}",{{}}]"#), "nothing comes in between, and the id is free");
    }
}

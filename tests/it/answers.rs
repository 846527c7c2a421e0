//! Responses that a handler sends before it ends, and its work afterwards.

use std::{convert::Infallible, sync::Arc, time::Duration};

use ocpp_rpc::{
    CallError, Close, Error, ErrorCode, Payload, RpcRouter, RpcServer, Session,
    extract::{CancellationToken, Responder, State},
    handler::{IncomingCall, NoResponse, Response},
    middleware::{self, Next},
};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};

use crate::support::{self, Station, echo, server};

async fn connected<S: Send + Sync + 'static>(router: RpcRouter<S>, protocol: &str) -> (RpcServer, Station, Session) {
    let server = server(router);
    let (station, session) = support::connected(&server, protocol).await;
    (server, station, session)
}

#[tokio::test]
async fn b33_handler_continues_after_an_early_response() {
    async fn work(responder: Responder, State(gate): State<Arc<Semaphore>>) -> Result<Value, CallError> {
        drop(responder.send(json!({"early": true})));
        gate.acquire().await.map_err(CallError::internal)?.forget();
        // Too late: the call already has its response.
        Ok(json!({"early": false}))
    }
    let gate = Arc::new(Semaphore::new(0));
    let router = RpcRouter::with_state(gate.clone()).on("Work", work).on("Echo", echo);
    let (_server, mut station, _) = connected(router, "ocpp1.6").await;
    assert_eq!(station.ask(r#"[2,"1","Work",{}]"#).await, r#"[3,"1",{"early":true}]"#);
    // The id is free while the handler works on. The end of the first handler does not free the id of the next call.
    assert_eq!(station.ask(r#"[2,"1","Work",{}]"#).await, r#"[3,"1",{"early":true}]"#);
    gate.add_permits(2);
    assert_eq!(station.ask(r#"[2,"1","Echo",{}]"#).await, r#"[3,"1",{}]"#);
}

#[tokio::test]
async fn b35_handler_end_does_not_free_a_reused_id() {
    async fn work(responder: Responder, State(gate): State<Arc<Semaphore>>) -> Result<NoResponse, CallError> {
        drop(responder.send(()));
        gate.acquire().await.map_err(CallError::internal)?.forget();
        Ok(NoResponse)
    }
    async fn wait(disconnected: CancellationToken) -> Result<(), Infallible> {
        disconnected.cancelled().await;
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
async fn b33_early_response_is_written_before_the_handler_continues() {
    async fn boot(responder: Responder, session: Session) -> Result<NoResponse, CallError> {
        responder.send(json!({"status": "Accepted"})).await?;
        let _: Value = session.call("GetConfiguration", &()).await?;
        Ok(NoResponse)
    }
    let (_server, mut station, _) = connected(RpcRouter::new().on("BootNotification", boot), "ocpp1.6").await;
    assert_eq!(station.ask(r#"[2,"1","BootNotification",{}]"#).await, r#"[3,"1",{"status":"Accepted"}]"#);
    assert_eq!(station.receive_call().await.1[0], "GetConfiguration");
}

#[tokio::test]
async fn b33_handler_rejects_a_call_early() {
    async fn reject(responder: Responder) -> Result<(), Error> {
        responder.reject(ErrorCode::SECURITY_ERROR).await
    }
    let (_server, mut station, _) = connected(RpcRouter::new().on("Any", reject), "ocpp1.6").await;
    assert_eq!(station.ask(r#"[2,"1","Any",{}]"#).await, r#"[4,"1","SecurityError","",{}]"#);
}

#[tokio::test]
async fn b37_response_after_disconnect_is_an_error() {
    async fn late(
        responder: Responder,
        disconnected: CancellationToken,
        State(outcome_tx): State<mpsc::UnboundedSender<Result<(), Error>>>,
    ) -> Result<NoResponse, CallError> {
        disconnected.cancelled().await;
        let _ = outcome_tx.send(responder.send(()).await);
        Ok(NoResponse)
    }
    let (outcome_tx, mut outcome_rx) = mpsc::unbounded_channel();
    let router = RpcRouter::with_state(outcome_tx).on("Late", late).on("Echo", echo);
    let (_server, mut station, _) = connected(router, "ocpp1.6").await;
    station.send(r#"[2,"1","Late",{}]"#).await;
    station.ask(r#"[2,"2","Echo",{}]"#).await;
    drop(station);
    let outcome = outcome_rx.recv().await.expect("the handler finishes");
    assert!(matches!(outcome, Err(Error::Disconnected { maybe_delivered: false })), "{outcome:?}");
}

#[tokio::test]
async fn send_response_from_its_handler_is_not_written() {
    async fn early(responder: Responder) -> Result<(), Error> {
        responder.send(()).await
    }
    let (_server, mut station, _) = connected(RpcRouter::new().on("Any", early).on("Echo", echo), "ocpp2.1").await;
    station.send(r#"[6,"1","Any",{}]"#).await;
    assert_eq!(station.ask(r#"[2,"2","Echo",{}]"#).await, r#"[3,"2",{}]"#);
}

#[tokio::test(start_paused = true)]
async fn b47_draining_close_writes_an_early_response() {
    async fn work(responder: Responder, State(gate): State<Arc<Semaphore>>) -> Result<NoResponse, CallError> {
        gate.acquire().await.map_err(CallError::internal)?.forget();
        drop(responder.send(()));
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
async fn b33_later_responses_to_a_call_are_not_written() {
    async fn stay_pending(responder: Responder) -> Result<NoResponse, CallError> {
        responder.send(json!({"early": true})).await?;
        std::future::pending().await
    }
    async fn panic_late(responder: Responder) -> Result<NoResponse, CallError> {
        drop(responder.send(json!({"early": true})));
        panic!("after the response")
    }
    async fn respond_twice(first: Responder, second: Responder) -> Result<Value, CallError> {
        let first = first.send(json!({"early": true}));
        assert!(matches!(second.send(json!({"late": true})).await, Err(Error::Disconnected { .. })));
        first.await?;
        Ok(json!({"later": true}))
    }
    let router = RpcRouter::new().on("Patient", stay_pending).on("Panics", panic_late).on("Twice", respond_twice);
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
async fn b47_draining_close_writes_an_immediate_response() {
    async fn respond_at_once(responder: Responder) -> Result<NoResponse, Infallible> {
        drop(responder.send(json!({"early": true})));
        Ok(NoResponse)
    }
    let (router, gate) = crate::support::gated();
    let (_server, mut station, session) = connected(router.on("AtOnce", respond_at_once), "ocpp1.6").await;
    station.send(r#"[2,"1","Wait",{}]"#).await;
    let closing = tokio::spawn(async move { session.close(Close::normal().drain(Duration::from_secs(30))).await });
    tokio::task::yield_now().await;
    // Both happen in one turn: the last pending call ends while another response is queued.
    gate.add_permits(1);
    station.send(r#"[2,"2","AtOnce",{}]"#).await;
    let mut responses = [station.receive().await, station.receive().await];
    responses.sort();
    assert_eq!(responses, [r#"[3,"1",{}]"#, r#"[3,"2",{"early":true}]"#]);
    assert_eq!(station.closed().await.0, 1000);
    drop(station);
    closing.await.expect("no panic");
}

#[tokio::test]
async fn b33_no_response_may_be_chosen_early() {
    async fn choose_no_response(responder: Responder) -> Result<NoResponse, CallError> {
        Ok(responder.send(NoResponse).await.map(|()| NoResponse)?)
    }
    let (_server, mut station, _session) =
        connected(RpcRouter::new().on("None", choose_no_response).on("Echo", echo), "ocpp1.6").await;
    station.send(r#"[2,"1","None",{}]"#).await;
    for id in ["2", "1"] {
        let response = station.ask(format!(r#"[2,"{id}","Echo",{{}}]"#)).await;
        assert_eq!(response, format!(r#"[3,"{id}",{{}}]"#), "no other response is sent, and the id is free");
    }
}

#[tokio::test]
async fn b33_first_response_counts_although_a_layer_replaces_the_last() {
    async fn at_once(responder: Responder) -> Result<NoResponse, Infallible> {
        drop(responder.send(json!({"first": true})));
        Ok(NoResponse)
    }
    async fn later(responder: Responder) -> Result<NoResponse, Infallible> {
        tokio::task::yield_now().await;
        at_once(responder).await
    }
    async fn replace(_: Response) -> Response {
        Response::Result(Payload::default())
    }
    async fn respond(responder: Responder, call: IncomingCall, _: Next) -> Response {
        let _ = if call.action() == "Later" { later(responder).await } else { at_once(responder).await };
        Response::Nothing
    }
    for replaces in [false, true] {
        let router = RpcRouter::new().on("AtOnce", at_once).on("Later", later);
        let router = if replaces {
            router.layer(middleware::map_response(replace))
        } else {
            router.layer(middleware::from_fn(respond))
        };
        let (_server, mut station, session) = connected(router.on("Echo", echo), "ocpp1.6").await;
        for action in ["AtOnce", "Later"] {
            let first = station.ask(format!(r#"[2,"1","{action}",{{}}]"#)).await;
            assert_eq!(first, r#"[3,"1",{"first":true}]"#, "{action} {replaces}");
            assert_eq!(
                station.ask(r#"[2,"1","Echo",{}]"#).await,
                r#"[3,"1",{}]"#,
                "no other response, and the id is free"
            );
        }
        assert!(session.is_open());
    }
}

#[tokio::test(start_paused = true)]
async fn response_that_a_layer_only_claims_to_have_given_is_none() {
    async fn later() -> Result<(), Infallible> {
        tokio::task::yield_now().await;
        Ok(())
    }
    async fn claim(_: Response) -> Response {
        Response::Given
    }
    let router = RpcRouter::new().on("AtOnce", echo).on("Later", later).layer(middleware::map_response(claim));
    let (_server, mut station, session) = connected(router.on("Echo", echo), "ocpp1.6").await;
    for action in ["AtOnce", "Later"] {
        station.send(format!(r#"[2,"1","{action}",{{}}]"#)).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(station.ask(r#"[2,"1","Echo",{}]"#).await, r#"[3,"1",{}]"#, "the id is free");
    }
    let start = tokio::time::Instant::now();
    let closing = tokio::spawn(async move { session.close(Close::normal().drain(Duration::from_secs(60))).await });
    station.closed().await;
    drop(station);
    assert_eq!((closing.await.expect("no panic").code, start.elapsed().as_secs()), (1000, 0), "no response is awaited");
}

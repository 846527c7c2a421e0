//! Incoming calls: their handlers, their order, and the limit on concurrent handlers.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    sync::{Arc, Mutex},
};

use futures_util::{FutureExt, SinkExt};
use ocpp_rpc::{
    CallError, MessageId, Options, RpcRouter, RpcServer,
    event::EventKind,
    extract::{Action, State},
    message::Deviation,
};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Station, connected, dial_with_buffer, echo, gated, server, server_with};

#[tokio::test]
async fn b31_call_is_served_by_the_handler_of_its_action() {
    let server = server(RpcRouter::new().on("Echo", echo));
    let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    assert_eq!(station.ask(r#"[2,"a\"1","Echo",{"x":[1,2]}]"#).await, r#"[3,"a\"1",{"x":[1,2]}]"#);
    assert_eq!(station.ask(r#"[2,"2","Echo"]"#).await, r#"[3,"2",{}]"#);
}

#[tokio::test]
async fn b35_call_with_an_id_in_use_is_rejected() {
    for (protocol, code) in [("ocpp1.6", "GenericError"), ("ocpp2.0.1", "RpcFrameworkError")] {
        let (router, gate) = gated();
        let server = server(router);
        let mut station = Station::connect(&server, "CP-1", protocol).await;
        station.send(r#"[2,"1","Wait",{}]"#).await;
        assert!(station.ask(r#"[2,"1","Echo",{}]"#).await.starts_with(&format!(r#"[4,"1","{code}""#)));
        gate.add_permits(1);
        assert_eq!(station.receive().await, r#"[3,"1",{}]"#);
        assert_eq!(station.ask(r#"[2,"1","Echo",{}]"#).await, r#"[3,"1",{}]"#, "the id is free again");
    }
}

#[tokio::test(start_paused = true)]
async fn b35_call_repeated_while_it_is_handled_gets_one_response() {
    for options in [Options::server(), Options::server().handler_concurrency(1), Options::server().max_bad_messages(0)]
    {
        let (router, gate) = gated();
        let server = server_with(router, options);
        let (mut station, session) = connected(&server, "ocpp1.6").await;
        let mut events = server.events();
        // The second call waits for a handler if only one may run.
        let calls = [r#"[2,"1","Wait",{"a":1}]"#, r#"[2,"2","Wait",{"a":2}]"#];
        for call in calls.iter().chain(&calls).chain(&calls) {
            station.send(*call).await;
        }
        station.silent().await;
        gate.add_permits(2);
        let mut responses = [station.receive().await, station.receive().await];
        responses.sort();
        assert_eq!(responses, [r#"[3,"1",{}]"#, r#"[3,"2",{}]"#]);
        station.silent().await;
        assert!(session.is_open());
        drop(server);
        let mut repeated = 0;
        while let Some(Some(event)) = events.next().now_or_never() {
            repeated +=
                u32::from(matches!(event.kind, EventKind::Deviation { deviation: Deviation::RepeatedCall, .. }));
        }
        assert_eq!(repeated, 4);
    }
}

#[tokio::test]
async fn b31_calls_beyond_the_limit_are_queued_then_rejected() {
    let (router, gate) = gated();
    let server = server_with(router, Options::server().handler_concurrency(1).handler_queue(1));
    let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    for id in 1..=3 {
        station.send(format!(r#"[2,"{id}","Wait",{{}}]"#)).await;
    }
    assert!(station.receive().await.starts_with(r#"[4,"3","GenericError","too many calls"#));
    gate.add_permits(2);
    assert_eq!(station.receive().await, r#"[3,"1",{}]"#);
    assert_eq!(station.receive().await, r#"[3,"2",{}]"#);
}

// A turn that takes too long ends early, so the clock is paused.
#[tokio::test(start_paused = true)]
async fn responses_to_calls_of_one_read_share_a_write() {
    let server = server(RpcRouter::new().on("Echo", echo));
    let (near, far) = tokio::io::duplex(64 << 10);
    let (mut station, mut write_sizes) = connect_with_write_sizes(&server, near, far).await;
    for id in 0..8 {
        station.ws.feed(Message::text(format!(r#"[2,"{id}","Echo",{{}}]"#))).await.expect("open");
    }
    station.ws.flush().await.expect("open");
    let size = write_sizes.recv().await.expect("a write");
    assert_eq!(size, 8 * (2 + r#"[3,"0",{}]"#.len()), "one write has all eight responses");
}

/// Connects a station and reports the size of each write of the server.
async fn connect_with_write_sizes(
    server: &RpcServer,
    near: tokio::io::DuplexStream,
    mut far: tokio::io::DuplexStream,
) -> (Station, tokio::sync::mpsc::UnboundedReceiver<usize>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (sizes_tx, mut sizes) = tokio::sync::mpsc::unbounded_channel();
    let mut inner = dial_with_buffer(server, 64 << 10);
    tokio::spawn(async move {
        let (mut up, mut down) = ([0; 4096], [0; 4096]);
        loop {
            tokio::select! {
                read = far.read(&mut up) => match read {
                    Ok(read @ 1..) => inner.write_all(&up[..read]).await.expect("open"),
                    _ => break,
                },
                read = inner.read(&mut down) => match read {
                    Ok(read @ 1..) => {
                        far.write_all(&down[..read]).await.expect("open");
                        let _ = sizes_tx.send(read);
                    }
                    _ => break,
                },
            }
        }
    });
    let station = Station::open(near, "CP-1", "ocpp1.6").await;
    // The first write is the head of the handshake response.
    sizes.recv().await;
    (station, sizes)
}

#[tokio::test]
async fn send_is_handled_without_a_response() {
    let server = server(RpcRouter::new().on("Echo", echo));
    let mut events = server.events();
    let mut station = Station::connect(&server, "CP-1", "ocpp2.1").await;
    station.send(r#"[6,"1","Echo",{}]"#).await;
    station.send(r#"[6,"2","Unknown",{}]"#).await;
    assert_eq!(station.ask(r#"[2,"3","Echo",{}]"#).await, r#"[3,"3",{}]"#);
    let unhandled = events.expect(|event| match event.kind {
        EventKind::UnhandledSend { action, .. } => Some(action),
        _ => None,
    });
    assert_eq!(unhandled.await.as_str(), "Unknown");
}

#[tokio::test]
async fn b31_unknown_action_goes_to_fallback_or_is_not_implemented() {
    async fn fallback(action: Action) -> Result<Value, Infallible> {
        Ok(json!({"fallback": action.as_str()}))
    }
    let bare = server(RpcRouter::new().on("Echo", echo));
    let with_fallback = server(RpcRouter::new().on("Echo", echo).fallback(fallback));
    for (server, response) in [
        (bare, r#"[4,"1","NotImplemented","no handler for Other",{}]"#),
        (with_fallback, r#"[3,"1",{"fallback":"Other"}]"#),
    ] {
        let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
        assert_eq!(station.ask(r#"[2,"1","Other",{}]"#).await, response);
        assert_eq!(station.ask(r#"[2,"2","Echo",{}]"#).await, r#"[3,"2",{}]"#);
    }
}

#[tokio::test]
async fn b31_merged_routers_keep_their_states_layers_and_protocols() {
    async fn name(State(name): State<&'static str>) -> Result<Value, Infallible> {
        Ok(json!({"state": name}))
    }
    async fn fallback(action: Action) -> Result<Value, Infallible> {
        Ok(json!({"fallback": action.as_str()}))
    }
    let of_protocol = |protocol: &str| {
        let only = RpcRouter::with_state("of a protocol").on("Version", name);
        RpcRouter::with_state("other").on("First", name).protocol(protocol, only)
    };
    let router = RpcRouter::new()
        .merge(of_protocol("ocpp1.6"))
        .merge(
            RpcRouter::with_state("second").on("Second", name).protocol("ocpp1.6", RpcRouter::new().on("Echo", echo)),
        )
        .merge(RpcRouter::new().fallback(fallback));
    let server = server(router);
    let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    for (action, response) in [
        ("First", r#"{"state":"other"}"#),
        ("Second", r#"{"state":"second"}"#),
        ("Version", r#"{"state":"of a protocol"}"#),
        ("Echo", "{}"),
        ("Third", r#"{"fallback":"Third"}"#),
    ] {
        assert_eq!(
            station.ask(&format!(r#"[2,"{action}","{action}",{{}}]"#)).await,
            format!(r#"[3,"{action}",{response}]"#)
        );
    }
}

#[test]
fn b31_merging_two_handlers_of_one_action_panics() {
    let echo_of = |protocol: &str| RpcRouter::new().protocol(protocol, RpcRouter::new().on("Echo", echo));
    let merge = |first: RpcRouter, second: RpcRouter| {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| first.merge(second))).is_ok()
    };
    assert!(!merge(RpcRouter::new().on("Echo", echo), RpcRouter::new().on("Echo", echo)));
    assert!(!merge(RpcRouter::new().fallback(echo), RpcRouter::new().fallback(echo)));
    assert!(!merge(echo_of("ocpp1.6"), echo_of("ocpp1.6")));
    assert!(merge(echo_of("ocpp1.6"), echo_of("ocpp2.1")));
    assert!(merge(echo_of("ocpp1.6"), RpcRouter::new().on("Echo", echo)));
}

/// Records the order in which its handlers start, and ends each handler on a signal of the test.
#[derive(Clone, Default)]
struct Stage {
    started: Arc<Mutex<Vec<String>>>,
    exits: Arc<Mutex<HashMap<String, oneshot::Receiver<()>>>>,
}

impl Stage {
    fn router(&self) -> RpcRouter<Self> {
        async fn act(id: MessageId, State(stage): State<Stage>) -> Result<(), CallError> {
            stage.started.lock().expect("no panic").push(id.to_string());
            let exit = stage.exits.lock().expect("no panic").remove(id.as_str());
            exit.ok_or("no such act").map_err(CallError::internal)?.await.map_err(CallError::internal)
        }
        RpcRouter::with_state(self.clone()).on("Act", act).on("Echo", echo)
    }

    fn exit(&self, id: u32) -> oneshot::Sender<()> {
        let (exit, exited) = oneshot::channel();
        self.exits.lock().expect("no panic").insert(id.to_string(), exited);
        exit
    }

    fn started(&self) -> Vec<String> {
        self.started.lock().expect("no panic").clone()
    }
}

#[tokio::test]
async fn b31_sixty_four_handlers_start_in_the_order_of_their_calls() {
    let stage = Stage::default();
    let server = server(stage.router());
    let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    let mut exits: Vec<_> = (0..70).map(|id| stage.exit(id)).collect();
    for id in 0..70 {
        station.send(format!(r#"[2,"{id}","Act",{{}}]"#)).await;
    }
    while stage.started().len() < 64 {
        tokio::task::yield_now().await;
    }
    let names = |range: std::ops::Range<u32>| range.map(|id| id.to_string()).collect::<Vec<_>>();
    assert_eq!(stage.started(), names(0..64));
    // The last handler ends first; the first queued call takes its slot.
    exits.swap_remove(63).send(()).expect("the handler runs");
    assert_eq!(station.receive().await, r#"[3,"63",{}]"#);
    assert_eq!(stage.started(), names(0..65));
    for exit in exits {
        let _ = exit.send(());
        station.receive().await;
    }
    assert_eq!(stage.started(), names(0..70));
}

#[tokio::test]
async fn b31_calls_beyond_a_queue_of_256_are_rejected() {
    let (router, gate) = gated();
    let server = server(router);
    let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    for id in 0..=64 + 256 {
        station.send(format!(r#"[2,"{id}","Wait",{{}}]"#)).await;
    }
    let rejected = r#"[4,"320","GenericError","too many calls are waiting to be handled",{}]"#;
    assert_eq!(station.receive().await, rejected);
    gate.add_permits(320);
    let mut pending: HashSet<_> = (0..320).map(|id| format!(r#"[3,"{id}",{{}}]"#)).collect();
    while !pending.is_empty() {
        let response = station.receive().await;
        assert!(pending.remove(&response), "{response}");
    }
}

#[tokio::test]
async fn b31_single_handler_at_a_time_keeps_strict_order() {
    let stage = Stage::default();
    let server = server_with(stage.router(), Options::server().handler_concurrency(1));
    let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    let exits: Vec<_> = (0..5).map(|id| stage.exit(id)).collect();
    for id in 0..5 {
        station.send(format!(r#"[2,"{id}","Act",{{}}]"#)).await;
    }
    station.send(r#"[2,"last","Echo",{}]"#).await;
    for (id, exit) in exits.into_iter().enumerate() {
        while stage.started().len() <= id {
            tokio::task::yield_now().await;
        }
        assert_eq!(stage.started().len(), id + 1, "the next call is queued");
        exit.send(()).expect("the handler runs");
        assert_eq!(station.receive().await, format!(r#"[3,"{id}",{{}}]"#));
    }
    assert_eq!(station.receive().await, r#"[3,"last",{}]"#);
}

#[tokio::test]
async fn b31_responses_are_read_while_the_handler_queue_is_full() {
    let (router, _gate) = gated();
    let server = server_with(router, Options::server().handler_concurrency(1).handler_queue(1));
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    for id in 0..2 {
        station.send(format!(r#"[2,"{id}","Wait",{{}}]"#)).await;
    }
    assert!(station.ask(r#"[2,"2","Echo",{}]"#).await.starts_with(r#"[4,"2","GenericError""#));
    let call = tokio::spawn(session.call::<Value>("Reset", &()));
    let (id, _) = station.receive_call().await;
    station.send(format!(r#"[3,"{id}",{{"status":"Accepted"}}]"#)).await;
    assert_eq!(call.await.expect("no panic").expect("a response"), json!({"status": "Accepted"}));
}

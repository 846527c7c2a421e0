//! Two nodes of a cluster get each other's messages changed, in any order and number. Nothing panics, each call ends, and
//! nothing is left.
#![no_main]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use ocpp_rpc::{
    Close, RpcRouter, RpcServer,
    cluster::{Cluster, ClusterFuture, Destination, JoinError, Node, Received, SendError, Topic},
};
use ocpp_rpc_fuzz::{Connection, in_runtime};
use serde_json::{Value, json};

const MODES: &[&str] = &["call", "bypass_queue", "fire_and_forget", "send", "info", "look", "close", "recorded"];

/// The nodes, and all messages that they have sent.
#[derive(Clone, Default)]
struct Pool(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    nodes: Vec<Node>,
    messages: Vec<Sent>,
}

#[derive(Clone)]
struct Sent {
    from: Node,
    way: Way,
    key: Option<String>,
    request: Option<u64>,
    message: Bytes,
}

#[derive(Clone, Copy)]
enum Way {
    Request,
    Control,
    Response(u64),
    Broadcast,
    Event,
}

/// A transport that delivers nothing by itself.
struct Transport(Pool, Mutex<Option<Node>>);

impl Cluster for Transport {
    fn join(&self, node: Node) -> std::result::Result<(), JoinError> {
        *self.1.lock().expect("no panic") = Some(node.clone());
        self.0.0.lock().expect("no panic").nodes.push(node);
        Ok(())
    }

    fn is_connected(&self) -> bool {
        true
    }

    fn max_message_size(&self) -> usize {
        10_000
    }

    fn subscribe<'a>(&'a self, _: Topic<'a>) -> ClusterFuture<'a, std::result::Result<(), SendError>> {
        Box::pin(async { Ok(()) })
    }

    fn unsubscribe<'a>(&'a self, _: Topic<'a>) -> ClusterFuture<'a, std::result::Result<(), SendError>> {
        Box::pin(async { Ok(()) })
    }

    fn send<'a>(
        &'a self,
        to: Destination<'a>,
        request: Option<u64>,
        message: Bytes,
    ) -> ClusterFuture<'a, std::result::Result<(), SendError>> {
        let (way, key) = match to {
            Destination::Station(key) | Destination::StationAt { key, .. } => (Way::Request, Some(key)),
            Destination::Node { key, .. } => (Way::Control, key),
            Destination::Response { request, key, .. } => (Way::Response(request), key),
            Destination::All(key) => (Way::Broadcast, key),
            _ => (Way::Event, None),
        };
        let from = self.1.lock().expect("no panic").clone().expect("joined");
        let mut state = self.0.0.lock().expect("no panic");
        // The oldest are the introductions, which always matter.
        state.messages.truncate(200);
        state.messages.push(Sent { from, way, key: key.map(str::to_owned), request, message });
        Box::pin(async { Ok(()) })
    }

    fn leave(&self) -> ClusterFuture<'_, ()> {
        Box::pin(async {})
    }
}

fuzz_target!(|input: &[u8]| {
    let tasks = in_runtime(async {
        // An error means that the input is used up.
        _ = run(&mut Unstructured::new(input)).await;
        // The last tasks end when they notice that the nodes have left.
        tokio::time::sleep(Duration::from_secs(3600)).await;
        tokio::runtime::Handle::current().metrics().num_alive_tasks()
    });
    assert_eq!(tasks, 0, "tasks are left");
});

async fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let pool = Pool::default();
    let servers = [(); 2].map(|()| {
        let transport = Transport(pool.clone(), Mutex::default());
        RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).cluster(transport).build().expect("valid settings")
    });
    let _station = Connection::upgraded(&servers[0], "ocpp1.6").await;
    let mut calls = Vec::new();
    let outcome = act(input, &pool, &servers, &mut calls).await;
    for call in calls {
        let ended = tokio::time::timeout(Duration::from_secs(600), call).await;
        assert!(ended.is_ok(), "a call does not end");
    }
    for server in servers {
        server.close(Close::forced()).await;
    }
    outcome
}

async fn act(
    input: &mut Unstructured<'_>,
    pool: &Pool,
    servers: &[RpcServer; 2],
    calls: &mut Vec<tokio::task::JoinHandle<()>>,
) -> Result<()> {
    while !input.is_empty() {
        match input.int_in_range(0..=9)? {
            0 => {
                let station = servers[input.choose_index(2)?].station("CP");
                calls.push(tokio::spawn(async move { _ = station.call::<Value>("Reset", &()).await }));
                tokio::task::yield_now().await;
            }
            1 => tokio::time::sleep(Duration::from_millis(input.int_in_range(1..=10_000)?)).await,
            2 => {
                let node = input.choose(&nodes(pool))?.clone();
                match input.int_in_range(0..=3)? {
                    0 => node.disconnected(),
                    1 => node.reconnected(),
                    2 => node.messages_lost(),
                    _ => node.not_delivered(input.int_in_range(0..=20)?),
                }
            }
            _ => deliver(input, pool)?,
        }
    }
    Ok(())
}

fn nodes(pool: &Pool) -> Vec<Node> {
    pool.0.lock().expect("no panic").nodes.clone()
}

/// Delivers a message to a node, as it is or changed.
fn deliver(input: &mut Unstructured<'_>, pool: &Pool) -> Result<()> {
    let messages = pool.0.lock().expect("no panic").messages.clone();
    let to = input.choose(&nodes(pool))?.clone();
    // Late messages are near the end, and a small number finds them.
    let Sent { from, way, key, request, message } = match messages.len() {
        0 => return Ok(()),
        len => messages[len - 1 - usize::from(input.arbitrary::<u8>()?) % len].clone(),
    };
    let message = match input.int_in_range(0..=7)? {
        0 => input.arbitrary::<&[u8]>()?.to_vec().into(),
        1..=4 => change(input, &message)?,
        _ => message,
    };
    let key = key.as_deref();
    let received = match way {
        Way::Request => Received::Request { node: from.id(), request: request.unwrap_or(1), key: key.unwrap_or("CP") },
        Way::Control => Received::Control(key),
        Way::Response(request) => Received::Response(request),
        Way::Broadcast => Received::Broadcast(key),
        Way::Event => Received::Event,
    };
    to.received(received, message);
    Ok(())
}

/// Replaces values of a message by others.
fn change(input: &mut Unstructured<'_>, message: &[u8]) -> Result<Bytes> {
    let Ok(mut value) = serde_json::from_slice::<Value>(message) else { return Ok(message.to_vec().into()) };
    for _ in 0..input.int_in_range(1..=3)? {
        replace(input, &mut value)?;
    }
    if let (Some(members), true) = (value.as_object_mut(), input.ratio(1, 3)?) {
        let name =
            *input.choose(&["timeout", "total_timeout", "close", "request", "id", "params", "action", "taken"])?;
        members.insert(name.to_owned(), input.choose(&[json!(u64::MAX), json!(0), Value::Null, json!("x")])?.clone());
    }
    Ok(value.to_string().into())
}

/// Replaces a value, or one inside it.
fn replace(input: &mut Unstructured<'_>, value: &mut Value) -> Result<()> {
    if input.ratio(2, 3)? {
        match value {
            Value::Object(members) if !members.is_empty() => {
                let at = input.choose_index(members.len())?;
                return replace(input, members.values_mut().nth(at).expect("within"));
            }
            Value::Array(elements) if !elements.is_empty() => {
                let at = input.choose_index(elements.len())?;
                return replace(input, &mut elements[at]);
            }
            _ => {}
        }
    }
    *value = match input.int_in_range(0..=8)? {
        0 => json!(u64::MAX),
        1 => json!(input.arbitrary::<u64>()?),
        2 => json!(input.int_in_range(0..=20)?),
        3 => Value::Null,
        4 => json!(*input.choose(MODES)?),
        5 => json!([value.clone(), value.clone()]),
        6 => json!({"code": input.arbitrary::<u16>()?, "reason": "text", "drain": u64::MAX}),
        7 => json!({}),
        _ => json!("CP"),
    };
    Ok(())
}

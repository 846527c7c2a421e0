//! A whole session of a server: frames and messages of a station, calls of the server, and time that passes. Each call
//! ends, there are no more responses than messages, and nothing is left.
#![no_main]

use std::{convert::Infallible, time::Duration};

use arbitrary::{Result, Unstructured};
use futures_util::{StreamExt, stream::FuturesUnordered};
use libfuzzer_sys::fuzz_target;
use ocpp_rpc::{CallError, Close, Options, RpcRouter, RpcServer, Session, Tolerance, extract::Params};
use ocpp_rpc_fuzz::{Connection, Frame, TEXT, in_runtime, messages};
use serde_json::Value;

/// Elements of messages. Few ids, so that some belong to calls.
const TYPES: &[&str] = &["2", "2", "2", "3", "3", "4", "5", "6", "7", "\"2\"", "2.0"];
const IDS: &[&str] =
    &["\"1\"", "\"1\"", "\"2\"", "\"-1\"", "1", "\"\"", "null", "\"0123456789012345678901234567890123456789\""];
const ACTIONS: &[&str] =
    &["\"Echo\"", "\"Echo\"", "\"Slow\"", "\"Back\"", "\"Panic\"", "\"None\"", "\"InternalError\"", "3"];
const PAYLOADS: &[&str] = &["{}", "{}", "{\"a\":1}", "null", "[]", "\"text\"", "{\"a\":", "\u{1}", "NaN"];

async fn echo(Params(params): Params<Value>) -> Result<Value, Infallible> {
    Ok(params)
}

async fn slow() -> Result<(), Infallible> {
    tokio::time::sleep(Duration::from_secs(20)).await;
    Ok(())
}

/// Calls the station back.
async fn back(session: Session) -> Result<Value, CallError> {
    session.call("Reset", &()).bypass_queue().await.map_err(CallError::internal)
}

fuzz_target!(|input: &[u8]| {
    // An error means that the input is used up.
    let tasks = in_runtime(async {
        _ = run(&mut Unstructured::new(input)).await;
        // The last tasks end when they notice that the connection has.
        tokio::time::sleep(Duration::from_secs(3600)).await;
        tokio::runtime::Handle::current().metrics().num_alive_tasks()
    });
    assert_eq!(tasks, 0, "tasks are left");
});

async fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let tolerance = *input.choose(&[Tolerance::Strict, Tolerance::Lenient, Tolerance::Permissive])?;
    let protocol = *input.choose(&["ocpp1.6", "ocpp2.0.1", "ocpp2.1"])?;
    let router = RpcRouter::new().on("Echo", echo).on("Slow", slow).on("Back", back);
    let options = Options::server().tolerance(tolerance).call_timeout(Duration::from_secs(30)).max_message_size(2000);
    let server = RpcServer::builder(router).protocols([protocol]).options(options).build().expect("valid settings");
    let mut connection = Connection::upgraded(&server, protocol).await;
    let mut calls = FuturesUnordered::new();
    let mut sent = 0;
    let outcome = async {
        while !input.is_empty() {
            match input.int_in_range(0..=9)? {
                0..=4 => {
                    sent += 1;
                    let text = text(input)?.into_bytes();
                    connection.send_frame(&Frame::new(TEXT, true, text)).await;
                }
                5 => {
                    sent += 1;
                    connection.send_frame(&Frame::arbitrary(input, true, 300)?).await;
                }
                6 | 7 => {
                    let Some(session) = server.session("CP") else { continue };
                    let id = input.ratio(1, 4)?.then_some("1");
                    let call = session.call::<Value>("Reset", &());
                    calls.push(if let Some(id) = id { call.id(id) } else { call });
                }
                8 => {
                    let time = Duration::from_millis(input.int_in_range(0..=120_000)?);
                    let _ = tokio::time::timeout(time, async { while calls.next().await.is_some() {} }).await;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                _ if input.ratio(1, 4)? => {
                    if let Some(session) = server.session("CP") {
                        let close = Close::normal().drain(Duration::from_secs(input.int_in_range(0..=30)?));
                        tokio::spawn(async move { session.close(close).await });
                    }
                }
                _ => tokio::task::yield_now().await,
            }
        }
        Ok(())
    }
    .await;
    let received = connection.end().await;
    while calls.next().await.is_some() {}
    let responses = messages(&received).into_iter().filter(|message| {
        let kind = message.get(0).and_then(Value::as_u64);
        assert!(matches!(kind, Some(2..=6)), "{message} of the server");
        matches!(kind, Some(3 | 4))
    });
    let responses = responses.count();
    assert!(responses <= sent, "{responses} responses to {sent} messages");
    outcome
}

/// Returns a text that is a message more often than not.
fn text(input: &mut Unstructured<'_>) -> Result<String> {
    if input.ratio(1, 8)? {
        return Ok(input.arbitrary::<&str>()?.to_owned());
    }
    let kind = *input.choose(TYPES)?;
    let mut elements = vec![kind, *input.choose(IDS)?];
    if kind != "3" {
        elements.push(*input.choose(ACTIONS)?);
    }
    if matches!(kind, "4" | "5") {
        elements.push("\"text\"");
    }
    elements.push(*input.choose(PAYLOADS)?);
    match input.int_in_range(0..=15)? {
        0 => _ = elements.pop(),
        1 => elements.push("{}"),
        _ => {}
    }
    Ok(format!("[{}]", elements.join(",")))
}

//! The parts that the compared servers share: their handlers, their allocator and their port.

use std::{env, io, process, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::net::{TcpListener, TcpStream};

/// The subprotocol that each server selects.
pub const PROTOCOL: &str = "ocpp1.6";

/// The allocator of every server, because it changes figures as much as a library does.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Returns the port to listen on, which is the only argument of the program.
pub fn port() -> u16 {
    env::args().nth(1).and_then(|port| port.parse().ok()).unwrap_or_else(|| {
        eprintln!("the argument must be a port");
        process::exit(2)
    })
}

/// Serves each connection in a task of its own.
pub fn serve<F: Future<Output = ()> + Send + 'static>(
    connection: impl Fn(TcpStream) -> F + Send + Sync + 'static,
) -> io::Result<()> {
    let connection = Arc::new(connection);
    tokio::runtime::Builder::new_multi_thread().enable_all().event_interval(1024).build()?.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", port())).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(connection(stream));
        }
    })
}

/// Returns the response to the text of a CALL, from typed handlers for the actions that stations under load call.
///
/// # Errors
///
/// Fails if the text is not a CALL of these actions, which ends the connection.
pub fn respond(call: &str) -> Result<String, serde_json::Error> {
    let (_, id, action, payload): (u8, &str, &str, &RawValue) = serde_json::from_str(call)?;
    let payload = payload.get();
    match action {
        "Heartbeat" => result(id, &Heartbeat { current_time: now() }),
        "BootNotification" => {
            let boot: Boot<'_> = serde_json::from_str(payload)?;
            let is_valid = !boot.charge_point_vendor.is_empty() && !boot.charge_point_model.is_empty();
            let status = if is_valid { "Accepted" } else { "Rejected" };
            result(id, &Booted { current_time: now(), interval: 300, status })
        }
        "MeterValues" => {
            let values: MeterValues = serde_json::from_str(payload)?;
            let is_valid = values.meter_value.iter().all(|value| !value.sampled_value.is_empty());
            result(id, &Empty { status: (!is_valid).then_some("Rejected") })
        }
        _ => Err(serde::de::Error::custom(format!("unknown action {action}"))),
    }
}

fn result(id: &str, payload: &impl Serialize) -> Result<String, serde_json::Error> {
    serde_json::to_string(&(3, id, payload))
}

/// Returns the time with milliseconds.
fn now() -> String {
    format!("{:.3}", Timestamp::now())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Heartbeat {
    current_time: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Boot<'a> {
    charge_point_vendor: &'a str,
    charge_point_model: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Booted {
    current_time: String,
    interval: u32,
    status: &'static str,
}

#[derive(Serialize)]
struct Empty {
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "decoded in full, as in a real backend")]
struct MeterValues {
    connector_id: u32,
    transaction_id: Option<i64>,
    meter_value: Vec<MeterValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "decoded in full, as in a real backend")]
struct MeterValue {
    timestamp: String,
    sampled_value: Vec<SampledValue>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "decoded in full, as in a real backend")]
struct SampledValue {
    value: String,
    context: Option<String>,
    format: Option<String>,
    measurand: Option<String>,
    phase: Option<String>,
    location: Option<String>,
    unit: Option<String>,
}

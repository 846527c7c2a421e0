//! The registration of a station at its server: BootNotification until it is accepted, then heartbeats. Copy this module
//! into a station of your own; it needs `ocpp-rpc`, `serde_json` and `tokio`.

use std::{convert::Infallible, time::Duration};

use ocpp_rpc::{Error, RpcClient};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

/// The wait if the server gives none: before the next BootNotification, or between heartbeats.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(30);

/// A message that the server asks for by TriggerMessage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// BootNotification, which may come too early only if it is triggered.
    Boot,
    /// Heartbeat.
    Heartbeat,
}

/// Registers the station, and keeps it registered.
///
/// `registered` is the interval of heartbeats if the server has accepted the station, and `None` otherwise: the station must
/// not send other messages then (OCPP 1.6 §4.2, 2.0.1 part 2 B01 to B03). The `interval` of the response is the wait before
/// the next BootNotification if the station is not accepted. If it is, `heartbeat` replaces it. Calls `report` after each
/// call.
pub async fn register(
    client: &RpcClient,
    boot: &Value,
    heartbeat: Option<Duration>,
    registered: &watch::Sender<Option<Duration>>,
    triggers: &mut mpsc::Receiver<Trigger>,
    report: impl Fn(&str, &Result<Value, Error>),
) -> Infallible {
    let call = |action: &'static str, params| {
        let (call, report) = (client.call(action, params), &report);
        async move {
            let outcome = call.await;
            report(action, &outcome);
            outcome.unwrap_or_default()
        }
    };
    let nothing = json!({});
    loop {
        let response = call("BootNotification", boot).await;
        // An integer of OCPP has 32 bits. More seconds could not be added to a moment.
        let seconds = response["interval"].as_u64().and_then(|seconds| u32::try_from(seconds).ok());
        let seconds = seconds.filter(|seconds| *seconds > 0);
        let is_accepted = response["status"] == "Accepted";
        let interval = seconds.map_or(DEFAULT_INTERVAL, |seconds| Duration::from_secs(seconds.into()));
        let interval = heartbeat.filter(|_| is_accepted).unwrap_or(interval);
        registered.send_replace(is_accepted.then_some(interval));
        let mut next = Instant::now() + interval;
        loop {
            tokio::select! {
                // Triggers do not postpone it.
                () = sleep_until(next) => {
                    if !is_accepted {
                        break;
                    }
                    _ = call("Heartbeat", &nothing).await;
                    next = Instant::now() + interval;
                }
                Some(trigger) = triggers.recv() => match trigger {
                    Trigger::Boot => break,
                    Trigger::Heartbeat => _ = call("Heartbeat", &nothing).await,
                },
            }
        }
    }
}

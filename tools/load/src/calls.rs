//! The calls that the stations make.

use std::{
    error::Error as StdError,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ocpp_rpc::{Error, RpcClient, client::ClientState};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// The longest time that a call takes, the wait for a connection included.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// The result of the load.
#[derive(Default)]
pub(crate) struct Calls {
    /// The time from the first call to the last response.
    pub(crate) took: Duration,
    /// The latency of each call that succeeded, in µs.
    pub(crate) latencies: Vec<u32>,
    pub(crate) failed: usize,
    pub(crate) first_error: Option<Error>,
}

impl Calls {
    fn add(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.failed += other.failed;
        self.first_error = self.first_error.take().or(other.first_error);
    }
}

/// Lets these stations call until the time is over: as fast as they get responses, or at a rate. Counts the calls that
/// succeeded in `counter`.
pub(crate) async fn call(
    stations: &[RpcClient],
    rate: Option<u32>,
    time: Duration,
    counter: &Arc<AtomicU64>,
) -> Result<Calls, Box<dyn StdError>> {
    let begin = Instant::now();
    let mut callers = JoinSet::new();
    for (number, station) in (0..).zip(stations) {
        let pace = rate.map(|rate| {
            // The stations share the rate and take turns.
            let turn = Duration::from_secs(1) / rate;
            Pace { next: begin + turn * number, interval: turn * stations.len() as u32 }
        });
        let caller = Caller { client: station.clone(), counter: counter.clone() };
        callers.spawn(caller.run(pace, begin + time));
    }
    let mut calls = Calls::default();
    while let Some(ended) = callers.join_next().await {
        calls.add(ended?);
    }
    calls.took = begin.elapsed();
    Ok(calls)
}

/// The times at which the calls of a station are due.
struct Pace {
    next: Instant,
    interval: Duration,
}

struct Caller {
    client: RpcClient,
    counter: Arc<AtomicU64>,
}

impl Caller {
    /// Sends heartbeats and meter values in turn, until the time is over or the station is disconnected for good.
    async fn run(self, mut pace: Option<Pace>, end: Instant) -> Calls {
        let mut calls = Calls::default();
        for call in 0_u64.. {
            let mut begin = Instant::now();
            if let Some(pace) = &mut pace {
                if pace.next >= end {
                    break;
                }
                if begin < pace.next {
                    sleep_until(pace.next).await;
                    begin = Instant::now();
                } else {
                    // The last call took longer than its interval. The delay counts as latency of this call.
                    begin = pace.next;
                }
                pace.next += pace.interval;
            }
            if Instant::now() >= end {
                break;
            }
            let response = if call % 2 == 0 {
                self.client.call::<IgnoredAny>("Heartbeat", &())
            } else {
                self.client.call("MeterValues", &meter_values(call))
            };
            if let Err(error) = response.total_timeout(CALL_TIMEOUT).await {
                calls.failed += 1;
                calls.first_error.get_or_insert(error);
                if self.client.state() == ClientState::Closed {
                    break;
                }
                continue;
            }
            calls.latencies.push(begin.elapsed().as_micros().try_into().unwrap_or(u32::MAX));
            self.counter.fetch_add(1, Ordering::Relaxed);
        }
        calls
    }
}

/// Returns a payload of about 600 bytes, as a station sends it every minute while it charges on three phases. Each has
/// another time and other values.
fn meter_values(call: u64) -> Value {
    let minute = call / 2;
    let sample = |measurand: &str, unit: &str, value: String| json!({"value": value, "context": "Sample.Periodic", "measurand": measurand, "unit": unit});
    let current = |phase: u64| {
        let deciampere = 155 + (minute * (7 + phase)) % 11;
        let value = format!("{}.{}", deciampere / 10, deciampere % 10);
        json!({"value": value, "context": "Sample.Periodic", "measurand": "Current.Import", "phase": format!("L{phase}"), "unit": "A"})
    };
    json!({"connectorId": 1, "transactionId": 4711, "meterValue": [{
        "timestamp": format!("2026-01-{:02}T{:02}:{:02}:00.000Z", 1 + minute / 1440 % 28, minute / 60 % 24, minute % 60),
        "sampledValue": [
            sample("Energy.Active.Import.Register", "Wh", (1_234_567 + minute * 183).to_string()),
            sample("Power.Active.Import", "W", (10_900 + minute * 37 % 200).to_string()),
            current(1),
            current(2),
            current(3),
        ],
    }]})
}

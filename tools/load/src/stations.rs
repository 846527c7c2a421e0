//! The stations: all of them boot, then the busy ones make calls.

use std::{
    error::Error as StdError,
    iter,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use ocpp_rpc::{
    Error, Options, RpcClient,
    client::Reconnect,
    compression::{CompressedMessages, Compression},
};
use serde::{Serialize, de::IgnoredAny};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// The number of stations that connect at the same time.
const CONNECT_CONCURRENCY: usize = 64;

/// Counters for the progress.
#[derive(Default)]
pub(crate) struct Tally {
    connected: AtomicU64,
    calls: AtomicU64,
}

impl Tally {
    /// Returns the number of stations that have booted.
    pub(crate) fn connected(&self) -> u64 {
        self.connected.load(Ordering::Relaxed)
    }

    /// Returns the number of calls that succeeded.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}

/// The result of the load.
pub(crate) struct Calls {
    /// The time from the first call to the last response.
    pub(crate) took: Duration,
    /// The latency of each call, in µs.
    pub(crate) latencies: Vec<u32>,
    /// The errors, one for each station that stopped.
    pub(crate) failed: Vec<Error>,
}

/// Compressed lengths over plain ones.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Ratios {
    /// From the stations to the server.
    pub(crate) up: f64,
    /// From the server to the stations.
    pub(crate) down: f64,
}

/// The connected stations.
pub(crate) struct Stations(Vec<RpcClient>);

impl Stations {
    /// Connects `count` stations and waits until the server has accepted each boot.
    pub(crate) async fn connect(
        url: &str,
        count: u32,
        deflate: bool,
        tally: &Tally,
    ) -> Result<Self, Box<dyn StdError>> {
        let compression = deflate.then(Compression::new);
        let options = Options::client().compression(compression);
        let options = &options;
        let stations = stream::iter(1..=count).map(|number| async move {
            let station = connect(url, number, options.clone())
                .await
                .map_err(|error| format!("station {number}: {}", with_causes(&*error)))?;
            tally.connected.fetch_add(1, Ordering::Relaxed);
            Ok::<_, String>(station)
        });
        Ok(Self(stations.buffer_unordered(CONNECT_CONCURRENCY).try_collect().await?))
    }

    /// Returns the length of the compressed payloads over that of their texts, of all stations: up and down. `None` if
    /// a station has no compression.
    pub(crate) fn compression(&self) -> Option<Ratios> {
        let mut totals = [(0, 0); 2];
        for station in &self.0 {
            let info = *station.session().info().compression()?;
            for (total, messages) in totals.iter_mut().zip([info.sent, info.received]) {
                let CompressedMessages { text_bytes, payload_bytes, .. } = messages;
                *total = (total.0 + text_bytes, total.1 + payload_bytes);
            }
        }
        let [up, down] = totals.map(|(text, payload)| payload as f64 / text as f64);
        Some(Ratios { up, down })
    }

    /// Lets the first `busy` stations call until the time is over: as fast as they get responses, or at a rate.
    pub(crate) async fn call(
        &self,
        busy: u32,
        rate: Option<u32>,
        time: Duration,
        tally: &Arc<Tally>,
    ) -> Result<Calls, Box<dyn StdError>> {
        let begin = Instant::now();
        let mut stations = JoinSet::new();
        for (number, station) in (0..busy).zip(&self.0) {
            let pace = rate.map(|rate| {
                // The stations share the rate and take turns.
                let turn = Duration::from_secs(1) / rate;
                Pace { next: begin + turn * number, interval: turn * busy }
            });
            let caller = Caller { client: station.clone(), tally: tally.clone() };
            stations.spawn(caller.run(pace, begin + time));
        }
        let mut calls = Calls { took: Duration::ZERO, latencies: Vec::new(), failed: Vec::new() };
        while let Some(ended) = stations.join_next().await {
            let (latencies, failed) = ended?;
            calls.latencies.extend(latencies);
            calls.failed.extend(failed);
        }
        calls.took = begin.elapsed();
        Ok(calls)
    }
}

async fn connect(url: &str, number: u32, options: Options) -> Result<RpcClient, Box<dyn StdError>> {
    let client = RpcClient::builder(url, format!("LOAD-{number}")).protocols(["ocpp1.6"]).options(options);
    let client = client.reconnect(Reconnect::never()).connect().await?;
    let boot = json!({"chargePointVendor": "Example", "chargePointModel": "Wallbox"});
    let response: Value = client.call("BootNotification", &boot).await?;
    if response["status"] == "Accepted" { Ok(client) } else { Err(format!("boot not accepted: {response}").into()) }
}

/// Returns the text of an error and all of its causes.
fn with_causes(error: &dyn StdError) -> String {
    let causes = iter::successors(error.source(), |cause| (**cause).source());
    causes.fold(error.to_string(), |text, cause| match cause.to_string() {
        // Some errors already end with the text of their cause.
        cause if text.ends_with(&cause) => text,
        cause => format!("{text}: {cause}"),
    })
}

/// The times at which the calls of a station are due.
struct Pace {
    next: Instant,
    interval: Duration,
}

struct Caller {
    client: RpcClient,
    tally: Arc<Tally>,
}

impl Caller {
    /// Sends heartbeats and meter values in turn, until the time is over or a call fails.
    async fn run(self, mut pace: Option<Pace>, end: Instant) -> (Vec<u32>, Option<Error>) {
        let mut latencies = Vec::new();
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
            if let Err(error) = response.await {
                return (latencies, Some(error));
            }
            latencies.push(begin.elapsed().as_micros().try_into().unwrap_or(u32::MAX));
            self.tally.calls.fetch_add(1, Ordering::Relaxed);
        }
        (latencies, None)
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

//! The report of a run, as text and as JSON.

use std::{fmt, time::Duration};

use load::Latency;
use ocpp_rpc::{RpcClient, compression::CompressedMessages};
use serde::Serialize;

use crate::calls::Calls;

#[derive(Serialize)]
pub(crate) struct Report {
    stations: u32,
    busy: u32,
    seconds: f64,
    calls: usize,
    failed: usize,
    calls_per_second: f64,
    /// `None` without busy stations.
    latency_us: Option<Latency>,
    /// `None` if the platform does not support the measurement, as the fields below.
    server_memory_kib: Option<Memory>,
    kib_per_connection: Option<f64>,
    kib_per_connection_after_load: Option<f64>,
    server_cpu_us_per_call: Option<f64>,
    /// `None` without `--deflate`.
    compressed_over_plain: Option<Ratios>,
}

/// Resident memory of the server, in KiB.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Memory {
    /// Before any station connected.
    pub(crate) before: u64,
    /// With all stations connected and booted.
    pub(crate) connected: u64,
    /// After the load.
    pub(crate) after: u64,
}

/// Compressed lengths over plain ones.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Ratios {
    /// From the stations to the server.
    up: f64,
    /// From the server to the stations.
    down: f64,
}

impl Ratios {
    /// Returns the length of the compressed payloads over that of their texts, of all stations. `None` if a station has
    /// no compression.
    pub(crate) fn of(stations: &[RpcClient]) -> Option<Self> {
        let mut totals = [(0, 0); 2];
        for station in stations {
            let info = *station.session().info().compression()?;
            for (total, messages) in totals.iter_mut().zip([info.sent, info.received]) {
                let CompressedMessages { text_bytes, payload_bytes, .. } = messages;
                *total = (total.0 + text_bytes, total.1 + payload_bytes);
            }
        }
        let [up, down] = totals.map(|(text, payload)| payload as f64 / text as f64);
        Some(Self { up, down })
    }
}

impl Report {
    pub(crate) fn new(
        stations: u32,
        busy: u32,
        calls: Calls,
        memory: Option<Memory>,
        cpu_time: Option<Duration>,
        compression: Option<Ratios>,
    ) -> Result<Self, String> {
        let Calls { took, latencies, failed, first_error } = calls;
        let count = latencies.len();
        let latency_us = Latency::of(latencies);
        if latency_us.is_none() && busy > 0 {
            return Err(match first_error {
                Some(error) => format!("no call succeeded: {error}"),
                None => "no call was made: use more --secs or a higher --rate".to_owned(),
            });
        }
        let per_station = |now: u64, before: u64| (now as f64 - before as f64) / f64::from(stations);
        Ok(Self {
            stations,
            busy,
            seconds: took.as_secs_f64(),
            calls: count,
            failed,
            calls_per_second: count as f64 / took.as_secs_f64(),
            latency_us,
            server_memory_kib: memory,
            kib_per_connection: memory.map(|memory| per_station(memory.connected, memory.before)),
            kib_per_connection_after_load: memory.map(|memory| per_station(memory.after, memory.before)),
            server_cpu_us_per_call: cpu_time.filter(|_| count > 0).map(|time| time.as_secs_f64() * 1e6 / count as f64),
            compressed_over_plain: compression,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stations, busy, seconds, calls, .. } = self;
        writeln!(f, "{stations} stations, {busy} of them busy: {calls} calls in {seconds:.1} s")?;
        let mut row = |name: &str, value: Option<f64>, digits: usize, unit: &str| match value {
            Some(value) => writeln!(f, "{name:<34}{value:>12.digits$} {unit}"),
            None => writeln!(f, "{name:<34}{:>12}", "not measured"),
        };
        row("throughput", Some(self.calls_per_second), 0, "calls/s")?;
        if let Some(Latency { p50, p90, p99, p99_9, max }) = self.latency_us {
            for (name, latency) in [("p50", p50), ("p90", p90), ("p99", p99), ("p99.9", p99_9), ("max", max)] {
                row(&format!("latency {name}"), Some(f64::from(latency) / 1000.0), 3, "ms")?;
            }
        }
        row("server: CPU per call", self.server_cpu_us_per_call, 1, "µs")?;
        row("server: memory without stations", self.server_memory_kib.map(|memory| memory.before as f64), 0, "KiB")?;
        row("server: memory per connection", self.kib_per_connection, 1, "KiB")?;
        row("server: per connection after load", self.kib_per_connection_after_load, 1, "KiB")?;
        if let Some(Ratios { up, down }) = self.compressed_over_plain {
            row("compressed over plain: up", Some(up), 2, "")?;
            row("compressed over plain: down", Some(down), 2, "")?;
        }
        Ok(())
    }
}

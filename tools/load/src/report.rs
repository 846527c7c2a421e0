//! The report of a run, as text and as JSON.

use std::{fmt, time::Duration};

use serde::Serialize;

use crate::stations::{Calls, Ratios};

#[derive(Serialize)]
pub(crate) struct Report {
    stations: u32,
    busy: u32,
    seconds: f64,
    calls: usize,
    failed: usize,
    calls_per_second: f64,
    latency_us: Latency,
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

/// Percentiles of the latency.
#[derive(Serialize)]
struct Latency {
    p50: u32,
    p90: u32,
    p99: u32,
    #[serde(rename = "p99.9")]
    p99_9: u32,
    max: u32,
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
        let Calls { took, latencies, failed } = calls;
        let count = latencies.len();
        let Some(latency_us) = Latency::of(latencies) else {
            return Err(match failed.first() {
                Some(error) => format!("no call succeeded: {error}"),
                None => "no call was made: use more --secs or a higher --rate".to_owned(),
            });
        };
        let per_station = |now: u64, before: u64| (now as f64 - before as f64) / f64::from(stations);
        Ok(Self {
            stations,
            busy,
            seconds: took.as_secs_f64(),
            calls: count,
            failed: failed.len(),
            calls_per_second: count as f64 / took.as_secs_f64(),
            latency_us,
            server_memory_kib: memory,
            kib_per_connection: memory.map(|memory| per_station(memory.connected, memory.before)),
            kib_per_connection_after_load: memory.map(|memory| per_station(memory.after, memory.before)),
            server_cpu_us_per_call: cpu_time.map(|time| time.as_secs_f64() * 1e6 / count as f64),
            compressed_over_plain: compression,
        })
    }
}

impl Latency {
    fn of(mut latencies: Vec<u32>) -> Option<Self> {
        latencies.sort_unstable();
        let max = *latencies.last()?;
        // The smallest latency that this share of the calls does not exceed.
        let percentile = |permille: usize| latencies[(latencies.len() * permille).div_ceil(1000) - 1];
        Some(Self { p50: percentile(500), p90: percentile(900), p99: percentile(990), p99_9: percentile(999), max })
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
        let Latency { p50, p90, p99, p99_9, max } = self.latency_us;
        for (name, latency) in [("p50", p50), ("p90", p90), ("p99", p99), ("p99.9", p99_9), ("max", max)] {
            row(&format!("latency {name}"), Some(f64::from(latency) / 1000.0), 3, "ms")?;
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

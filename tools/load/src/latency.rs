//! Percentiles.

use serde::Serialize;

/// Percentiles of latencies, in µs.
#[derive(Debug, Clone, Copy, Serialize)]
#[expect(missing_docs, reason = "percentiles")]
pub struct Latency {
    pub p50: u32,
    pub p90: u32,
    pub p99: u32,
    #[serde(rename = "p99.9")]
    pub p99_9: u32,
    pub max: u32,
}

impl Latency {
    /// Returns the percentiles of these latencies in µs. `None` if there are none.
    pub fn of(mut latencies: Vec<u32>) -> Option<Self> {
        latencies.sort_unstable();
        let max = *latencies.last()?;
        // The smallest latency that this share of the calls does not exceed.
        let percentile = |permille: usize| latencies[(latencies.len() * permille).div_ceil(1000) - 1];
        Some(Self { p50: percentile(500), p90: percentile(900), p99: percentile(990), p99_9: percentile(999), max })
    }
}

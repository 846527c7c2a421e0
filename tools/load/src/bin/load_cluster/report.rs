//! The report of a measurement, as text and as JSON.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use load::Latency;
use serde::Serialize;

use crate::backend::{Outcome, Place};

#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) stations: u32,
    pub(crate) nodes: u32,
    pub(crate) rate: u32,
    /// From the start of the stations' processes until the last station has booted.
    pub(crate) boot_seconds: f64,
    pub(crate) memory: Memory,
    #[serde(rename = "processors")]
    pub(crate) cpu_times: CpuTimes,
    pub(crate) recovery: Recovery,
    #[serde(rename = "calls")]
    pub(crate) phases: Phases,
}

/// Memory in KiB. That of the nodes is resident, and the sum of all nodes. `None` if the platform does not support a
/// measurement.
#[derive(Default, Serialize)]
pub(crate) struct Memory {
    pub(crate) without_stations: Option<u64>,
    pub(crate) connected: Option<u64>,
    /// With the share of each node in the pages that several processes use.
    pub(crate) connected_proportional: Option<u64>,
    /// Of the nodes that are left, after the last call.
    pub(crate) after: Option<u64>,
    pub(crate) of_nats: Option<u64>,
    pub(crate) of_station_processes: Option<u64>,
    /// All that the processes and the kernel need, for both ends.
    pub(crate) of_machine: Option<u64>,
    /// The number of the machine's TCP sockets, and the memory of their buffers.
    pub(crate) of_tcp_sockets: Option<(u64, u64)>,
}

/// CPU time in seconds, or processors in use.
#[derive(Serialize)]
pub(crate) struct CpuTimes {
    pub(crate) nodes: Option<f64>,
    pub(crate) nats: Option<f64>,
    pub(crate) stations: Option<f64>,
    /// This process.
    pub(crate) callers: Option<f64>,
}

impl CpuTimes {
    /// Returns the processors that were in use since earlier measurements.
    pub(crate) fn since(&self, before: &Self, time: Duration) -> Self {
        let used = |now: Option<f64>, before: Option<f64>| Some((now? - before?) / time.as_secs_f64());
        Self {
            nodes: used(self.nodes, before.nodes),
            nats: used(self.nats, before.nats),
            stations: used(self.stations, before.stations),
            callers: used(self.callers, before.callers),
        }
    }
}

/// The return of the stations of the killed node. The seconds run from the kill, and are `None` after a timeout.
#[derive(Default, Serialize)]
pub(crate) struct Recovery {
    /// The most stations that were away at once.
    pub(crate) lost: u64,
    /// Until a list of the cluster had all stations.
    pub(crate) listed_seconds: Option<f64>,
    /// Until the last station had booted.
    pub(crate) booted_seconds: Option<f64>,
}

impl Recovery {
    pub(crate) fn is_whole(&self) -> bool {
        self.listed_seconds.is_some() && self.booted_seconds.is_some()
    }
}

/// The calls that ended before the kill, those that began when all stations were back, and those in between.
#[derive(Serialize)]
pub(crate) struct Phases {
    before: Phase,
    during: Phase,
    after: Phase,
}

#[derive(Serialize)]
struct Phase {
    calls: usize,
    /// Latencies of the calls that succeeded, from the time at which they were due.
    local_us: Option<Latency>,
    remote_us: Option<Latency>,
    /// The calls that failed, by error.
    failed: BTreeMap<String, Failed>,
}

#[derive(Serialize)]
struct Failed {
    calls: usize,
    /// The median of the times from when a call was due to its failure.
    p50_us: u32,
}

impl Phases {
    pub(crate) fn new(outcomes: &[Outcome], kill: Instant, whole: Instant) -> Self {
        let (before, later): (Vec<_>, Vec<_>) = outcomes.iter().partition(|outcome| outcome.ended < kill);
        let (during, after): (Vec<_>, Vec<_>) = later.into_iter().partition(|outcome| outcome.due < whole);
        let [before, during, after] = [before, during, after].map(|outcomes| Phase::new(&outcomes));
        Self { before, during, after }
    }
}

impl Phase {
    fn new(outcomes: &[&Outcome]) -> Self {
        let (mut local, mut remote, mut failed) = (Vec::new(), Vec::new(), BTreeMap::<_, Vec<_>>::new());
        for Outcome { due, ended, result } in outcomes {
            let times = match result {
                Ok(Place::Local) => &mut local,
                Ok(Place::Remote) => &mut remote,
                Err(error) => failed.entry(error.clone()).or_default(),
            };
            times.push((*ended - *due).as_micros().try_into().unwrap_or(u32::MAX));
        }
        let failed = failed.into_iter().filter_map(|(error, times)| {
            let calls = times.len();
            Some((error, Failed { calls, p50_us: Latency::of(times)?.p50 }))
        });
        let failed = failed.collect();
        Self { calls: outcomes.len(), local_us: Latency::of(local), remote_us: Latency::of(remote), failed }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stations, nodes, rate, memory, cpu_times, recovery, phases, .. } = self;
        writeln!(f, "{stations} stations at {nodes} nodes, {rate} calls per second")?;
        let mut row = |name: &str, value: Option<f64>, digits: usize, unit: &str| match value {
            Some(value) => writeln!(f, "{name:<42}{value:>12.digits$} {unit}"),
            None => writeln!(f, "{name:<42}{:>12}", "not measured"),
        };
        let per_station = |kib: Option<u64>| kib.map(|kib| kib as f64 / f64::from(*stations));
        let mib = |kib: Option<u64>| kib.map(|kib| kib as f64 / 1024.0);
        let idle = memory.without_stations;
        let of_stations = memory.connected.zip(idle).map(|(connected, idle)| connected.saturating_sub(idle));
        row("boot of all stations", Some(self.boot_seconds), 1, "s")?;
        row("nodes: memory without stations", mib(idle), 1, "MiB")?;
        row("nodes: memory with stations", mib(memory.connected), 1, "MiB")?;
        row("nodes: memory per station", per_station(memory.connected), 2, "KiB")?;
        row("nodes: proportional, per station", per_station(memory.connected_proportional), 2, "KiB")?;
        row("nodes: more than without, per station", per_station(of_stations), 2, "KiB")?;
        row("nodes: memory per station at the end", per_station(memory.after), 2, "KiB")?;
        row("NATS: memory", mib(memory.of_nats), 1, "MiB")?;
        row("stations: memory of their processes", mib(memory.of_station_processes), 1, "MiB")?;
        row("machine: memory per station, both ends", per_station(memory.of_machine), 2, "KiB")?;
        row("kernel: TCP sockets", memory.of_tcp_sockets.map(|(sockets, _)| sockets as f64), 0, "")?;
        row("kernel: memory of TCP buffers", mib(memory.of_tcp_sockets.map(|(_, kib)| kib)), 1, "MiB")?;
        let CpuTimes { nodes, nats, stations, callers } = cpu_times;
        for (name, used) in [("nodes", nodes), ("NATS", nats), ("stations", stations), ("callers", callers)] {
            row(&format!("{name}: processors in use"), *used, 2, "")?;
        }
        row("killed node: stations that were away", Some(recovery.lost as f64), 0, "")?;
        row("killed node: all are listed again after", recovery.listed_seconds, 1, "s")?;
        row("killed node: all have booted again after", recovery.booted_seconds, 1, "s")?;

        for (name, phase) in [("before", &phases.before), ("during", &phases.during), ("after", &phases.after)] {
            let failed: usize = phase.failed.values().map(|failed| failed.calls).sum();
            writeln!(f, "calls {name}: {}, of which {failed} failed", phase.calls)?;
            for (place, latency) in [("local", phase.local_us), ("remote", phase.remote_us)] {
                let Some(Latency { p50, p90, p99, p99_9, max }) = latency else { continue };
                let [p50, p90, p99, p99_9, max] = [p50, p90, p99, p99_9, max].map(|us| f64::from(us) / 1000.0);
                writeln!(
                    f,
                    "  {place:<8}p50 {p50:.3} ms, p90 {p90:.3} ms, p99 {p99:.3} ms, p99.9 {p99_9:.3} ms, max {max:.1} ms"
                )?;
            }
            for (error, Failed { calls, p50_us }) in &phase.failed {
                writeln!(f, "  failed: {calls:>6} {error}, p50 {:.3} ms", f64::from(*p50_us) / 1000.0)?;
            }
        }
        Ok(())
    }
}

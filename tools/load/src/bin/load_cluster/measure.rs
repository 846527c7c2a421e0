//! The course of a measurement.

use std::time::{Duration, Instant};

use load::process::{available_memory, cpu_time, memory, proportional_memory, raise_file_limit, tcp_sockets};
use tokio::time::sleep;

use crate::{
    Plan, Result,
    backend::Backend,
    node::{OTHER_CONNECTIONS, loopback},
    process::{Broker, Fleet, Node, Process},
    report::{CpuTimes, Memory, Phases, Recovery, Report},
};

/// The time in which the processes give unused memory back.
const SETTLE_TIME: Duration = Duration::from_secs(3);

/// The time between two looks at the number of booted stations.
const INTERVAL: Duration = Duration::from_millis(20);

/// The time between two lines about the progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// The pause between two lists of the stations while they return.
const LIST_PAUSE: Duration = Duration::from_millis(500);

/// All processes of a cluster.
struct Cluster {
    // In the order in which they end.
    fleets: Vec<Fleet>,
    nodes: Vec<Node>,
    broker: Broker,
    stations: u32,
}

pub(crate) async fn run(plan: &Plan) -> Result<()> {
    // One node is killed, and the others share its stations.
    let of_node = plan.stations.div_ceil(plan.nodes - 1);
    let of_fleet = plan.stations.div_ceil(plan.processes.into());
    raise_file_limit(of_fleet.max(of_node.saturating_add(OTHER_CONNECTIONS)))?;
    let timeout = Duration::from_secs(plan.timeout.into());
    let secs = Duration::from_secs(plan.secs.into());

    // Other systems have one loopback address.
    let addresses = if cfg!(target_os = "linux") { plan.processes } else { 1 };
    let available_before = available_memory();
    let broker = Broker::start(&plan.nats).await?;
    let mut nodes = Vec::new();
    for number in 1..=plan.nodes {
        nodes.push(Node::start(number, &broker.url, addresses).await?);
    }
    let mut cluster = Cluster { fleets: Vec::new(), nodes, broker, stations: plan.stations };
    let mut figures = Memory { without_stations: cluster.memory_of_nodes(memory), ..Memory::default() };

    let begin = Instant::now();
    cluster.start_stations(plan.processes, addresses)?;
    cluster.until_booted(begin + timeout).await?;
    let boot_seconds = begin.elapsed().as_secs_f64();
    sleep(SETTLE_TIME).await;
    cluster.measure(&mut figures);
    figures.of_machine = available_before.zip(available_memory()).map(|(before, now)| before.saturating_sub(now));
    figures.of_tcp_sockets = tcp_sockets();

    let addresses: Vec<_> = cluster.nodes.iter().map(|node| node.address).collect();
    let backend = Backend::new(addresses);
    if listed(&backend, plan.stations, begin + timeout).await.is_none() {
        return Err("the nodes do not list all stations before the timeout".into());
    }
    eprintln!("calling {} times per second for {} s", plan.rate, plan.secs);
    let cpu_before = cluster.cpu_times();
    backend.start(plan.stations, plan.rate)?;
    sleep(secs).await;
    let cpu_times = cluster.cpu_times().since(&cpu_before, secs);
    cluster.check()?;

    let killed = cluster.nodes.pop().ok_or("no node")?;
    eprintln!("killing {}", killed.address);
    backend.remove(killed.address);
    let kill = Instant::now();
    killed.kill().await?;
    let recovery = cluster.recover(&backend, kill, kill + timeout).await?;
    let is_whole = recovery.is_whole();
    let whole = Instant::now();
    if is_whole {
        eprintln!("calling {} times per second for {} s", plan.rate, plan.secs);
        sleep(secs).await;
    }
    let phases = Phases::new(&backend.stop().await, kill, whole);
    sleep(SETTLE_TIME).await;
    figures.after = cluster.memory_of_nodes(memory);
    cluster.check()?;

    let Plan { stations, nodes, rate, .. } = *plan;
    let report = Report { stations, nodes, rate, boot_seconds, memory: figures, cpu_times, recovery, phases };
    if plan.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{report}");
    }
    if is_whole {
        Ok(())
    } else {
        let booted = cluster.booted();
        Err(format!("not all stations are back {} s after the kill: {booted} of {stations} have booted", plan.timeout)
            .into())
    }
}

impl Cluster {
    /// Starts the processes of the stations, which have a share each.
    fn start_stations(&mut self, processes: u8, addresses: u8) -> Result<()> {
        let mut first = 1;
        for number in 0..processes {
            let ip = loopback(number % addresses);
            let urls = self.nodes.iter().map(|node| format!("ws://{ip}:{}/ocpp", node.address.port()));
            let (place, all) = (u32::from(number), u32::from(processes));
            let share = self.stations / all + u32::from(place < self.stations % all);
            if share > 0 {
                self.fleets.push(Fleet::start(number, &urls.collect::<Vec<_>>(), first, share)?);
            }
            first += share;
        }
        Ok(())
    }

    fn booted(&self) -> u64 {
        self.fleets.iter().map(Fleet::booted).sum()
    }

    fn is_booted(&self) -> bool {
        self.booted() == u64::from(self.stations)
    }

    /// Returns an error if a process has ended.
    fn check(&mut self) -> Result<()> {
        let fleets = self.fleets.iter_mut().map(|fleet| &mut fleet.process);
        let nodes = self.nodes.iter_mut().map(|node| &mut node.process);
        fleets.chain(nodes).chain([&mut self.broker.process]).try_for_each(Process::check)
    }

    async fn until_booted(&mut self, deadline: Instant) -> Result<()> {
        let mut progress = Progress::new("booting");
        while !self.is_booted() {
            self.check()?;
            progress.print(self.booted(), self.stations);
            if Instant::now() > deadline {
                let (booted, all) = (self.booted(), self.stations);
                let sockets = tcp_sockets().map_or(0, |(sockets, _)| sockets);
                return Err(format!(
                    "{booted} of {all} stations have booted before the timeout, and the machine has {sockets} TCP \
                     sockets: raise --timeout, or use fewer --stations"
                )
                .into());
            }
            sleep(INTERVAL).await;
        }
        Ok(())
    }

    /// Waits until all stations have booted again, and until all are listed.
    async fn recover(&mut self, backend: &Backend, kill: Instant, deadline: Instant) -> Result<Recovery> {
        let mut recovery = Recovery::default();
        // Until their processes have noticed.
        while self.is_booted() && Instant::now() < deadline {
            sleep(INTERVAL).await;
        }
        recovery.lost = u64::from(self.stations) - self.booted();
        let all = u64::from(self.stations);
        let listing = listed(backend, self.stations, deadline);
        let booting = async {
            let mut progress = Progress::new("returning");
            while !self.is_booted() && Instant::now() < deadline {
                self.check()?;
                recovery.lost = recovery.lost.max(all - self.booted().min(all));
                progress.print(self.booted(), self.stations);
                sleep(INTERVAL).await;
            }
            Ok(self.is_booted().then(|| kill.elapsed().as_secs_f64()))
        };
        let (booted, listed): (Result<_>, _) = tokio::join!(booting, listing);
        recovery.booted_seconds = booted?;
        recovery.listed_seconds = listed.map(|listed| (listed - kill).as_secs_f64());
        Ok(recovery)
    }

    /// Returns the sum of a measurement of all nodes.
    fn memory_of_nodes(&self, measure: impl Fn(u32) -> Option<u64>) -> Option<u64> {
        sum(self.nodes.iter().map(|node| &node.process), measure)
    }

    fn measure(&self, figures: &mut Memory) {
        figures.connected = self.memory_of_nodes(memory);
        figures.connected_proportional = self.memory_of_nodes(proportional_memory);
        figures.of_nats = self.broker.process.id().and_then(memory);
        figures.of_station_processes = sum(self.fleets.iter().map(|fleet| &fleet.process), memory);
    }

    fn cpu_times(&self) -> CpuTimes {
        let time = |process: u32| cpu_time(process).map(|time| time.as_secs_f64());
        CpuTimes {
            nodes: sum(self.nodes.iter().map(|node| &node.process), time),
            nats: self.broker.process.id().and_then(time),
            stations: sum(self.fleets.iter().map(|fleet| &fleet.process), time),
            callers: time(std::process::id()),
        }
    }
}

/// Waits until all nodes answer and list each station once. Returns `None` at the deadline.
async fn listed(backend: &Backend, stations: u32, deadline: Instant) -> Option<Instant> {
    let all = u64::from(stations);
    while Instant::now() < deadline {
        // A node may be too busy to answer in time.
        if backend.list().await == Ok(Some((all, all))) {
            return Some(Instant::now());
        }
        sleep(LIST_PAUSE).await;
    }
    None
}

fn sum<'a, T: std::iter::Sum>(
    mut processes: impl Iterator<Item = &'a Process>,
    measure: impl Fn(u32) -> Option<T>,
) -> Option<T> {
    processes.by_ref().map(|process| process.id().and_then(&measure)).sum()
}

/// Lines about the progress.
struct Progress {
    name: &'static str,
    last: Instant,
}

impl Progress {
    fn new(name: &'static str) -> Self {
        Self { name, last: Instant::now() }
    }

    fn print(&mut self, booted: u64, all: u32) {
        if self.last.elapsed() >= PROGRESS_INTERVAL {
            self.last = Instant::now();
            eprintln!("{}: {booted} of {all} stations", self.name);
        }
    }
}

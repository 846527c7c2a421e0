//! Measures a cluster of two nodes over NATS: the times of calls, and their cost. The argument is a server of NATS.
//!
//!     cargo run --release -p ocpp-rpc-nats --example measure -- nats-server
//!
//! Nodes and stations are processes of their own. The CPU time of a process comes from `/proc`, so that this needs Linux.
//! Opening 10,000 connections needs as many open files.

use std::{
    convert::Infallible,
    env,
    error::Error,
    fs,
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, future::join_all, stream};
use ocpp_rpc::{RpcClient, RpcRouter, RpcServer, Station, client::Reconnect, extract::Params};
use ocpp_rpc_nats::Nats;
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, stdin},
    net::TcpStream,
    process::{Child as Process, Command as StartProcess},
    time::sleep,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const STATIONS: usize = 10_000;
const CALLS: usize = 10_000;

/// The calls that are made at once to measure their cost under load. Each goes to another station.
const CONCURRENT: usize = 64;

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, rustix::process::Rlimit { current: files.maximum, maximum: files.maximum })?;
    let arguments: Vec<_> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["node", url] => run_node(url).await,
        ["stations", endpoint, first, count] => run_stations(endpoint, first.parse()?, count.parse()?).await,
        [program] => measure(program).await,
        _ => Err("the argument must be the path of a server of NATS".into()),
    }
}

/// Runs a node of the cluster, or a server without one, until the input ends.
async fn run_node(url: &str) -> Result<()> {
    let server = RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).max_connections_per_address(STATIONS * 2);
    let server = server.max_connections(STATIONS * 2).max_pending_handshakes_per_address(1000);
    let server = match url {
        "" => server.build()?,
        _ => server.cluster(Nats::connect(url).await?.node_name("owner")).build()?,
    };
    let listener = server.listen("127.0.0.1:0").await?;
    println!("ws://{}", listener.local_addr());
    until_input_ends().await
}

/// Runs stations until the input ends.
async fn run_stations(endpoint: &str, first: usize, count: usize) -> Result<()> {
    async fn echo(Params(params): Params<Value>) -> std::result::Result<Value, Infallible> {
        Ok(params)
    }
    let connecting = (first..first + count).map(|number| {
        RpcClient::builder(endpoint, format!("CP-{number}"))
            .protocols(["ocpp1.6"])
            .router(RpcRouter::new().on("Echo", echo))
            .reconnect(Reconnect::never())
            .connect()
    });
    let stations: Vec<_> = stream::iter(connecting).buffer_unordered(100).collect().await;
    if let Some(error) = stations.iter().find_map(|station| station.as_ref().err()) {
        return Err(error.to_string().into());
    }
    println!("connected");
    until_input_ends().await
}

async fn until_input_ends() -> Result<()> {
    let mut lines = BufReader::new(stdin()).lines();
    while lines.next_line().await?.is_some() {}
    Ok(())
}

/// Starts a role as a process, and returns it with its first line.
async fn start(arguments: &[&str]) -> Result<(Process, String)> {
    let mut command = StartProcess::new(env::current_exe()?);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut process = command.spawn()?;
    let mut output = BufReader::new(process.stdout.take().ok_or("no pipe")?).lines();
    let line = output.next_line().await?.ok_or_else(|| format!("{arguments:?} failed"))?;
    Ok((process, line))
}

/// A server of NATS.
struct Broker {
    process: Child,
    port: u16,
    monitor: u16,
}

impl Broker {
    async fn start(program: &str) -> Result<Self> {
        let [port, monitor] = [free_port()?, free_port()?];
        let broker = Self { process: Self::spawn(program, port, monitor)?, port, monitor };
        broker.listens().await;
        Ok(broker)
    }

    fn spawn(program: &str, port: u16, monitor: u16) -> Result<Child> {
        let mut command = Command::new(program);
        command.args(["--addr", "127.0.0.1", "--port", &port.to_string(), "--http_port", &monitor.to_string()]);
        Ok(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
    }

    async fn listens(&self) {
        while TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], self.port))).await.is_err() {
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Returns the number of subscriptions.
    async fn subscriptions(&self) -> Result<u64> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.monitor)).await?;
        stream.write_all(b"GET /varz HTTP/1.0\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let body = text.split_once("\r\n\r\n").ok_or("no body")?.1;
        Ok(serde_json::from_str::<Value>(body)?["subscriptions"].as_u64().unwrap_or_default())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Returns the CPU time of a process.
fn cpu(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<_> = stat.rsplit_once(')').ok_or("no fields")?.1.split_whitespace().collect();
    let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second())?)
}

/// Returns the resident memory of a process, in bytes.
fn memory(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? * 1024.0)
}

/// Makes calls one after the other, and returns the median and the 99th percentile of their times.
async fn time(station: &Station, calls: usize) -> (Duration, Duration) {
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls {
        let start = Instant::now();
        let _ = station.call::<Value>("Echo", &json!({"type": "Soft"})).await;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    (times[calls / 2], times[calls * 99 / 100])
}

async fn measure(program: &str) -> Result<()> {
    let mut broker = Broker::start(program).await?;
    let url = format!("nats://127.0.0.1:{}", broker.port);
    let (owner, owner_endpoint) = start(&["node", &url]).await?;
    let server = RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]);
    let server = server.cluster(Nats::connect(&*url).await?.node_name("caller")).build()?;
    let listener = server.listen("127.0.0.1:0").await?;
    let station = |number: usize| server.station(format!("CP-{number}"));
    let count = CONCURRENT.to_string();
    let (_local, _) = start(&["stations", &format!("ws://{}", listener.local_addr()), "0", &count]).await?;
    let (_remote, _) = start(&["stations", &owner_endpoint, &count, &count]).await?;
    let all_local: Vec<_> = (0..CONCURRENT).map(station).collect();
    let all_remote: Vec<_> = (CONCURRENT..2 * CONCURRENT).map(station).collect();
    for remote in &all_remote {
        remote.connected(Duration::from_secs(10)).await?;
    }
    let (local, remote, absent) = (&all_local[0], &all_remote[0], station(STATIONS * 9));

    for station in [local, remote, &absent] {
        time(station, CALLS / 10).await;
    }
    for (name, station) in [("local call", local), ("remote call", remote), ("call that is not connected", &absent)] {
        let (median, percentile) = time(station, CALLS).await;
        println!("{name}: p50 {median:.0?}, p99 {percentile:.0?}");
    }

    let owner_pid = owner.id().ok_or("the owner has ended")?;
    let pids = [std::process::id(), owner_pid, broker.process.id()];
    for (name, stations) in [
        ("local call, one at a time", &all_local[..1]),
        ("remote call, one at a time", &all_remote[..1]),
        ("local call, 64 at once", &all_local[..]),
        ("remote call, 64 at once", &all_remote[..]),
    ] {
        let calls = CALLS * 3 / stations.len() * stations.len();
        let (before, start) = (pids.map(cpu), Instant::now());
        join_all(stations.iter().map(|station| time(station, calls / stations.len()))).await;
        let rate = calls as f64 / start.elapsed().as_secs_f64();
        let mut parts = Vec::new();
        for (pid, before) in pids.into_iter().zip(before) {
            parts.push((cpu(pid)? - before?).as_secs_f64() * 1e6 / calls as f64);
        }
        let sum: f64 = parts.iter().sum();
        println!(
            "{name}: {rate:.0} per second, CPU of caller {:.1} µs, owner {:.1} µs, NATS {:.1} µs, in all {sum:.1} µs",
            parts[0], parts[1], parts[2]
        );
    }

    let count = STATIONS.to_string();
    let mut memories = Vec::new();
    for url in ["", &url] {
        let (node, endpoint) = start(&["node", url]).await?;
        let pid = node.id().ok_or("the node has ended")?;
        let before = memory(pid)?;
        let (stations, _) = start(&["stations", &endpoint, "1000", &count]).await?;
        sleep(Duration::from_secs(2)).await;
        memories.push((memory(pid)? - before) / STATIONS as f64);
        if url.is_empty() {
            continue;
        }
        let wanted = broker.subscriptions().await?;
        let _ = broker.process.kill();
        broker.process.wait()?;
        sleep(Duration::from_secs(1)).await;
        broker.process = Broker::spawn(program, broker.port, broker.monitor)?;
        broker.listens().await;
        let start = Instant::now();
        while broker.subscriptions().await.unwrap_or_default() < wanted {
            sleep(Duration::from_millis(2)).await;
        }
        println!("{wanted} subscriptions are back {:.0?} after NATS listens again", start.elapsed());
        drop(stations);
    }
    println!(
        "memory of the node per session: {:.0} bytes without a cluster, {:.0} bytes on top in one",
        memories[0],
        memories[1] - memories[0]
    );
    Ok(())
}

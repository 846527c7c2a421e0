//! Puts load on a server of this crate. Measures the calls per second, their latency, and the memory and CPU time that
//! the server needs.
//!
//!     cargo run --release -p load -- --stations 1000 --secs 10
//!
//! The server runs in a child process, so its memory and CPU time can be measured alone. It has the handlers of
//! `load_target`. The stations run in this process and compete with the server for the processor.
//!
//! With `--url`, the stations connect to servers that run already, and return to them if their connections are lost.

mod calls;
mod report;
mod server;

use std::{
    error::Error,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use clap::{Parser, value_parser};
use load::{
    process::{cpu_time, memory, raise_file_limit},
    stations::{Booted, Settings, Stations},
};
use ocpp_rpc::{Options, client::Reconnect, compression::Compression};
use report::{Memory, Ratios, Report};
use server::Server;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

#[derive(Parser)]
struct Args {
    /// The number of stations that connect.
    #[arg(long, default_value_t = 1000, value_parser = value_parser!(u32).range(1..))]
    stations: u32,
    /// The duration of the load in seconds.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u32).range(1..))]
    secs: u32,
    /// The number of stations that call (default: all). The others are connected and idle.
    #[arg(long)]
    busy: Option<u32>,
    /// The calls per second of all stations together. Without it, each station makes its next call when it has the
    /// response to the last one.
    #[arg(long, value_parser = value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Lets the stations offer compression, which both ends then use with context takeover.
    #[arg(long)]
    deflate: bool,
    /// The endpoint of a server that runs already, such as ws://10.0.0.5:9220/ocpp. Repeat it for several: the stations
    /// spread over them, and try the next one after a failed attempt.
    #[arg(long = "url", value_name = "URL")]
    urls: Vec<String>,
    /// The number of the first station, LOAD-1 by default, so that several processes have stations of their own.
    #[arg(long, default_value_t = 1)]
    first: u32,
    /// The process of the server, whose memory and CPU time to measure.
    #[arg(long, requires = "urls")]
    pid: Option<u32>,
    /// Prints the result as one line of JSON.
    #[arg(long)]
    json: bool,
    /// Runs the server. The program starts itself with this flag.
    #[arg(long, hide = true)]
    serve: bool,
}

/// The pause before the server's memory is measured, in which the server frees its buffers.
const SETTLE_TIME: Duration = Duration::from_millis(300);

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    // Keeps latencies even with thousands of busy stations: see the guide's page `scale`.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().event_interval(1024).build()?;
    if args.serve { runtime.block_on(server::serve()) } else { runtime.block_on(load(args)) }
}

async fn load(args: &Args) -> Result<(), Box<dyn Error>> {
    let busy = args.busy.unwrap_or(args.stations);
    if busy > args.stations {
        return Err(format!("--busy {busy} is more than --stations {}", args.stations).into());
    }
    let end = args.first.checked_add(args.stations).ok_or("--first and --stations together are too large")?;
    raise_file_limit(args.stations)?;
    let server = if args.urls.is_empty() { Some(Server::start()?) } else { None };
    let process = server.as_ref().map(Server::id).or(args.pid);
    let (endpoints, reconnect) = match &server {
        // A server of this program has failed if a connection is lost.
        Some(server) => (vec![server.url.clone()], Reconnect::never()),
        None => (args.urls.clone(), Reconnect::always()),
    };
    let options = Options::client().compression(args.deflate.then(Compression::new));
    let settings = Settings { endpoints, options, reconnect };

    let before = process.and_then(memory);
    let booted = Arc::<Booted>::default();
    let stations = {
        let _progress = print_progress({
            let (booted, all) = (booted.clone(), args.stations);
            move || format!("connecting: {} of {all}", booted.count())
        });
        Stations::connect(args.first..end, &settings, &booted).await?
    };
    sleep(SETTLE_TIME).await;
    let connected = process.and_then(memory);

    let cpu_before = process.and_then(cpu_time);
    let counter = Arc::<AtomicU64>::default();
    let calls = {
        let _progress = print_progress({
            let (secs, all, counter, mut last) = (args.secs, args.stations, counter.clone(), 0);
            move || {
                let calls = counter.load(Ordering::Relaxed);
                let mut line = format!("calling for {secs} s: {calls} calls, {} in the last second", calls - last);
                if booted.count() < all.into() {
                    line.push_str(&format!(", {} of {all} stations connected", booted.count()));
                }
                last = calls;
                line
            }
        });
        let (callers, time) = (&stations.clients()[..busy as usize], Duration::from_secs(args.secs.into()));
        if callers.is_empty() {
            sleep(time).await;
        }
        calls::call(callers, args.rate, time, &counter).await?
    };
    let cpu_time = process.and_then(cpu_time).zip(cpu_before).map(|(after, before)| after.saturating_sub(before));
    sleep(SETTLE_TIME).await;
    let memory = before.zip(connected).zip(process.and_then(memory));
    let memory = memory.map(|((before, connected), after)| Memory { before, connected, after });
    drop(server);

    let failed = calls.failed;
    let first_error = calls.first_error.as_ref().map(ToString::to_string);
    let report = Report::new(args.stations, busy, calls, memory, cpu_time, Ratios::of(stations.clients()))?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{report}");
    }
    match first_error {
        Some(error) => Err(format!("{failed} calls failed; first error: {error}").into()),
        None => Ok(()),
    }
}

/// Prints the progress on stderr every second, until the handle is dropped.
fn print_progress(mut progress: impl FnMut() -> String + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            sleep(Duration::from_secs(1)).await;
            eprintln!("{}", progress());
        }
    }))
}

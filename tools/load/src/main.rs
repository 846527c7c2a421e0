//! Puts load on a server of this crate. Measures the calls per second, their latency, and the memory and CPU time that
//! the server needs.
//!
//!     cargo run --release -p load -- --stations 1000 --secs 10
//!
//! The server runs in a child process, so its memory and CPU time can be measured alone. It has the handlers of
//! `load_target`. The stations run in this process and compete with the server for the processor.

mod report;
mod server;
mod stations;

use std::{error::Error, process::ExitCode, sync::Arc, time::Duration};

use clap::{Parser, value_parser};
use report::{Memory, Report};
use server::Server;
use stations::{Stations, Tally};
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
    #[arg(long, value_parser = value_parser!(u32).range(1..))]
    busy: Option<u32>,
    /// The calls per second of all stations together. Without it, each station makes its next call when it has the
    /// response to the last one.
    #[arg(long, value_parser = value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Lets the stations offer compression, which both ends then use with context takeover.
    #[arg(long)]
    deflate: bool,
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
    server::raise_file_limit(args.stations)?;
    let server = Server::start()?;
    let tally = Arc::<Tally>::default();

    let before = server.memory();
    let stations = {
        let _progress = print_progress(tally.clone(), {
            let stations = args.stations;
            move |tally| format!("connecting: {} of {stations}", tally.connected())
        });
        Stations::connect(&server.url, args.stations, args.deflate, &tally).await?
    };
    sleep(SETTLE_TIME).await;
    let connected = server.memory();

    let cpu_before = server.cpu_time();
    let calls = {
        let _progress = print_progress(tally.clone(), {
            let (secs, mut last) = (args.secs, 0);
            move |tally| {
                let calls = tally.calls();
                let line = format!("calling for {secs} s: {calls} calls, {} in the last second", calls - last);
                last = calls;
                line
            }
        });
        stations.call(busy, args.rate, Duration::from_secs(args.secs.into()), &tally).await?
    };
    let cpu_time = server.cpu_time().zip(cpu_before).map(|(after, before)| after.saturating_sub(before));
    sleep(SETTLE_TIME).await;
    let memory = before.zip(connected).zip(server.memory());
    let memory = memory.map(|((before, connected), after)| Memory { before, connected, after });
    drop(server);

    let failed = calls.failed.len();
    let first_error = calls.failed.first().map(ToString::to_string);
    let compression = stations.compression();
    let report = Report::new(args.stations, busy, calls, memory, cpu_time, compression)?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{report}");
    }
    match first_error {
        Some(error) => Err(format!("{failed} stations stopped because a call failed; first error: {error}").into()),
        None => Ok(()),
    }
}

/// Prints the progress on stderr every second, until the handle is dropped.
fn print_progress(
    tally: Arc<Tally>,
    mut progress: impl FnMut(&Tally) -> String + Send + 'static,
) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            sleep(Duration::from_secs(1)).await;
            eprintln!("{}", progress(&tally));
        }
    }))
}

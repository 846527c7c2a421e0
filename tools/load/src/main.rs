//! Load on a server of this crate: how many calls it answers in a second, how long each takes, and what a connection
//! costs in memory.
//!
//!     cargo run --release -p load -- --stations 1000 --secs 10
//!
//! The server is a process of its own, which this one starts, so that memory and processor time are the server's alone.
//! It has the handlers of `load_target`. The stations are in this process, and take processor time, too:
//! the server gets what they leave.

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
    /// How many stations connect.
    #[arg(long, default_value_t = 1000, value_parser = value_parser!(u32).range(1..))]
    stations: u32,
    /// For how many seconds they call.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u32).range(1..))]
    secs: u32,
    /// How many of them call; all, unless told otherwise. The others are connected and idle.
    #[arg(long, value_parser = value_parser!(u32).range(1..))]
    busy: Option<u32>,
    /// How many calls a second they make, all together; else each makes its next call when its last was answered.
    #[arg(long, value_parser = value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Prints the result as a line of JSON.
    #[arg(long)]
    json: bool,
    /// Is the server, as which this program starts itself.
    #[arg(long, hide = true)]
    serve: bool,
}

/// How long the server has to put away what it needed for the calls, before its memory is looked at.
const REST: Duration = Duration::from_millis(300);

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
    // So that of thousands of busy stations none waits for the others: see "Many stations" in the documentation.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().event_interval(1024).build()?;
    if args.serve { runtime.block_on(server::serve()) } else { runtime.block_on(load(args)) }
}

async fn load(args: &Args) -> Result<(), Box<dyn Error>> {
    let busy = args.busy.unwrap_or(args.stations);
    if busy > args.stations {
        return Err(format!("{busy} of {} stations cannot be busy", args.stations).into());
    }
    server::make_room_for(args.stations)?;
    let server = Server::start()?;
    let tally = Arc::<Tally>::default();

    let before = server.memory();
    let stations = {
        let _progress = every_second(tally.clone(), {
            let stations = args.stations;
            move |tally| format!("connecting: {} of {stations}", tally.connected())
        });
        Stations::connect(&server.url, args.stations, &tally).await?
    };
    sleep(REST).await;
    let connected = server.memory();

    let work = server.processor_time();
    let calls = {
        let _progress = every_second(tally.clone(), {
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
    let work = server.processor_time().zip(work).map(|(after, before)| after.saturating_sub(before));
    sleep(REST).await;
    let memory = before.zip(connected).zip(server.memory());
    let memory = memory.map(|((before, connected), after)| Memory { before, connected, after });
    drop(server);

    let failed = calls.failed.len();
    let why = calls.failed.first().map(ToString::to_string);
    let report = Report::new(args.stations, busy, calls, memory, work)?;
    match args.json {
        true => println!("{}", serde_json::to_string(&report)?),
        false => print!("{report}"),
    }
    match why {
        Some(why) => Err(format!("{failed} stations gave up, since a call of theirs failed; the first: {why}").into()),
        None => Ok(()),
    }
}

/// Says on stderr how far things are, until this is dropped.
fn every_second(
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

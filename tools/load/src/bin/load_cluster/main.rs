//! Measures a cluster of servers over NATS on one machine, and what a killed node costs it.
//!
//!     cargo run --release -p load --features nats --bin load_cluster -- --nats nats-server --stations 10000
//!
//! The program starts the server of NATS, the nodes, and processes with the stations. When all stations have booted, it
//! calls them through a REST API of the nodes, as a backend would: any station through any node. It kills one node, and
//! waits until the stations of that node are back at the others. The report has the memory of the nodes, the latency of
//! local and remote calls before, during and after, and the calls that failed.

mod backend;
mod measure;
mod node;
mod process;
mod report;
mod stations;

use std::{error::Error, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand, value_parser};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Gives memory back within two seconds: see "Many stations" in the documentation, and `.cargo/config.toml`.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    role: Option<Role>,
    #[command(flatten)]
    plan: Plan,
}

/// The roles in which the program starts itself.
#[derive(Subcommand)]
enum Role {
    #[command(hide = true)]
    Node(node::Args),
    #[command(hide = true)]
    Stations(stations::Args),
}

#[derive(clap::Args)]
struct Plan {
    /// The program of the NATS server.
    #[arg(long, default_value = "nats-server")]
    nats: PathBuf,
    /// The number of nodes.
    #[arg(long, default_value_t = 7, value_parser = value_parser!(u32).range(2..))]
    nodes: u32,
    /// The number of stations.
    #[arg(long, default_value_t = 105_000, value_parser = value_parser!(u32).range(1..))]
    stations: u32,
    /// The number of processes that the stations are in.
    #[arg(long, default_value_t = 7, value_parser = value_parser!(u8).range(1..=100))]
    processes: u8,
    /// The calls per second of all nodes together.
    #[arg(long, default_value_t = 1000, value_parser = value_parser!(u32).range(1..))]
    rate: u32,
    /// The duration of the calls in seconds, before the node is killed and again after its stations are back.
    #[arg(long, default_value_t = 30, value_parser = value_parser!(u32).range(1..))]
    secs: u32,
    /// The longest time in seconds until all stations have booted, and until they are back.
    #[arg(long, default_value_t = 180, value_parser = value_parser!(u32).range(1..))]
    timeout: u32,
    /// Prints the result as one line of JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load_cluster: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(Args { role, plan }: Args) -> Result<()> {
    // So that of thousands of busy stations none waits for the others: see "Many stations" in the documentation.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().event_interval(1024).build()?;
    runtime.block_on(async {
        match role {
            Some(Role::Node(args)) => node::run(args).await,
            Some(Role::Stations(args)) => stations::run(args).await,
            None => {
                tokio::select! {
                    measured = measure::run(&plan) => measured,
                    // The processes end with their handles.
                    () = load::shutdown_signal() => Err("interrupted".into()),
                }
            }
        }
    })
}

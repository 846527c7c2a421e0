//! A server to measure: it handles Heartbeat, BootNotification and MeterValues with typed handlers, and prints nothing
//! per message. A call of `Trigger` makes it call Reset a number of times.
//!
//!     cargo run --release -p load --bin load_target -- --port 9221
//!
//! With the feature `ocpp-schemas`, the flag `--strict` validates all payloads.

mod strict;

use clap::Parser;
use ocpp_rpc::{
    CallError, Close, RpcServer, Session,
    extract::{Params, Responder},
    handler::NoResponse,
};
use serde::{Deserialize, Serialize};

/// Returns free memory to the system within two seconds. The guide's page `many_stations` and `.cargo/config.toml`
/// explain the settings.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
struct Args {
    /// The port to listen on, at 127.0.0.1. Any path that ends in an identity is accepted.
    #[arg(long)]
    port: u16,
    #[command(flatten)]
    checks: strict::Checks,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    // Keeps latencies even with thousands of busy stations: see the guide's page `many_stations`.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().event_interval(1024).build()?;
    runtime.block_on(serve(args))
}

async fn serve(Args { port, checks }: Args) -> Result<(), Box<dyn std::error::Error>> {
    let (options, router) = checks.apply()?;
    let server = RpcServer::builder(router.on("Trigger", trigger)).max_connections(100_000).protocols(["ocpp1.6"]);
    let server = server.options(options).build()?;
    let listener = server.listen(("127.0.0.1", port)).await?;
    println!("listening on ws://{}/<identity>", listener.local_addr());
    tokio::signal::ctrl_c().await?;
    listener.close(Close::going_away()).await;
    Ok(())
}

/// Sends its response, then calls Reset `count` times, one after the other.
async fn trigger(
    Params(trigger): Params<Trigger>,
    responder: Responder,
    session: Session,
) -> Result<NoResponse, CallError> {
    responder.send(()).await?;
    for _ in 0..trigger.count {
        let response: ResetResponse = session.call("Reset", &Reset { r#type: "Soft" }).await?;
        if response.status != "Accepted" {
            break;
        }
    }
    Ok(NoResponse)
}

#[derive(Deserialize)]
struct Trigger {
    count: u64,
}

#[derive(Serialize)]
struct Reset {
    r#type: &'static str,
}

#[derive(Deserialize)]
struct ResetResponse {
    status: String,
}

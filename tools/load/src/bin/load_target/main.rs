//! A server to measure: it responds to Heartbeat, BootNotification and MeterValues with typed handlers, and sends Reset as
//! often as `Trigger` requests it. It prints nothing per message.
//!
//!     cargo run --release -p load --bin load_target -- --port 9221
//!
//! With the feature `ocpp-schemas` it takes `--strict`, and validates what it reads and writes.

mod strict;

use clap::Parser;
use ocpp_rpc::{
    CallError, Close, RpcServer, Session,
    extract::{Params, Responder},
    handler::NoResponse,
};
use serde::{Deserialize, Serialize};

/// Gives memory back within two seconds: see "Many stations" in the documentation, and `.cargo/config.toml`.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
struct Args {
    /// The port to listen on, at 127.0.0.1; any path is taken.
    #[arg(long)]
    port: u16,
    #[command(flatten)]
    checks: strict::Checks,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    // So that of thousands of busy stations none waits for the others: see "Many stations" in the documentation.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().event_interval(1024).build()?;
    runtime.block_on(serve(args))
}

async fn serve(Args { port, checks }: Args) -> Result<(), Box<dyn std::error::Error>> {
    let (options, router) = checks.apply()?;
    let server = RpcServer::builder(router.on("Trigger", trigger)).max_connections(100_000).protocols(["ocpp1.6"]);
    let server = server.options(options).build()?;
    let listener = server.listen(("127.0.0.1", port)).await?;
    println!("listening on ws://{}/<identity>", listener.local_addr());
    load::shutdown_signal().await;
    listener.close(Close::going_away()).await;
    Ok(())
}

/// Calls `Reset` as often as the request says, one call after the other.
async fn trigger(
    Params(trigger): Params<Trigger>,
    answer: Responder,
    session: Session,
) -> Result<NoResponse, CallError> {
    answer.send(()).await?;
    for _ in 0..trigger.count {
        let reset: ResetAnswer = session.call("Reset", &Reset { r#type: "Soft" }).await?;
        if reset.status != "Accepted" {
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
struct ResetAnswer {
    status: String,
}

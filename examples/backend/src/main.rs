//! A backend for charging stations: REST and OCPP on one port.
//!
//!     cargo run -p backend -- --demo 5
//!
//! Stations connect to `ws://127.0.0.1:9220/ocpp/<identity>` with OCPP 1.6, 2.0.1 or 2.1. `stations.rs` handles their
//! calls. The REST API is at `http://127.0.0.1:9220/api/stations` and in `api.rs`.
//!
//! With the feature `ocpp-schemas`, the flag `--strict` validates all payloads. With the feature `metrics`, Prometheus
//! can scrape `http://127.0.0.1:9220/metrics`.

mod api;
#[cfg(feature = "metrics")]
mod metrics;
mod passwords;
mod stations;
mod strict;
mod tls;

/// Replaces the metrics if the feature is off.
#[cfg(not(feature = "metrics"))]
mod metrics {
    use std::error::Error;

    use axum::Router;

    pub(crate) struct Metrics;

    impl Metrics {
        pub(crate) fn install() -> Result<Self, Box<dyn Error>> {
            Ok(Self)
        }

        pub(crate) fn add_to(self, app: Router) -> Router {
            app
        }
    }
}

use std::{path::PathBuf, pin::pin, sync::Arc, time::Duration};

use clap::Parser;
use futures_util::FutureExt;
use ocpp_rpc::{Close, Options, RpcClient, RpcServer};

#[derive(Parser)]
struct Args {
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1:9220")]
    listen: String,
    /// Starts this number of simulated charging stations.
    #[arg(long, default_value_t = 0)]
    demo: usize,
    /// Accepts only stations that are in this file of lines `identity:password` (security profiles 1 and 2).
    #[arg(long, conflicts_with = "demo")]
    password_file: Option<PathBuf>,
    #[command(flatten)]
    checks: strict::Checks,
    #[command(flatten)]
    tls: tls::Tls,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(log_filter()).init();
    let args = Args::parse();

    let metrics = metrics::Metrics::install()?;
    let server = RpcServer::builder(stations::router())
        .protocols(["ocpp2.1", "ocpp2.0.1", "ocpp1.6"])
        .auth(passwords::Passwords::new(args.password_file.as_deref())?)
        .options(args.checks.add_to(Options::server().call_timeout(Duration::from_secs(30)))?)
        .build()?;
    let app = metrics.add_to(api::router(&server).route_service("/ocpp/{*identity}", server.clone()));

    let listener = args.tls.listen(&server, &args.listen, app).await?;
    // The first poll installs the signal handlers, before the lines below tell that the backend is ready.
    let mut shutdown = pin!(shutdown_signal());
    if shutdown.as_mut().now_or_never().is_some() {
        return Ok(());
    }
    let (address, ws) = (listener.local_addr(), args.tls.scheme());
    let http = ws.replace("ws", "http");
    println!("stations connect to  {ws}://{address}/ocpp/<identity>");
    println!("the REST API is at   {http}://{address}/api/stations");

    let mut demo = tokio::task::JoinSet::new();
    let tally = Arc::<charger::Tally>::default();
    for number in 1..=args.demo {
        let protocol = if number % 2 == 1 { "ocpp1.6" } else { "ocpp2.0.1" };
        let settings = charger::Settings {
            client: RpcClient::builder(format!("ws://{address}/ocpp"), format!("DEMO-{number}")).protocols([protocol]),
            interval: Some(10),
        };
        demo.spawn(charger::run(settings, tally.clone(), std::future::pending()));
    }
    if args.demo > 0 {
        println!(
            "reset one with       curl --json '{{\"type\":\"Soft\"}}' {http}://{address}/api/stations/DEMO-1/calls/Reset"
        );
        println!("watch them at        curl -N {http}://{address}/api/events");
    }

    shutdown.await;
    println!("closing: pending calls have ten seconds");
    let report = listener.close(Close::going_away().reason("the backend stops").drain(Duration::from_secs(10))).await;
    println!("{} stations closed, {} dropped", report.clean, report.forced);
    Ok(())
}

/// Completes on Ctrl-C, and on the SIGTERM of a container or a service manager.
async fn shutdown_signal() {
    #[cfg(unix)]
    let terminated = async {
        use tokio::signal::unix::{SignalKind, signal};
        signal(SignalKind::terminate()).expect("a handler of SIGTERM").recv().await
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<()>();
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated => {}
    }
}

/// Returns the filter in `RUST_LOG`, or one for warnings.
fn log_filter() -> tracing_subscriber::EnvFilter {
    tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into())
}

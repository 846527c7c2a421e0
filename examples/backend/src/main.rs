//! A backend for charging stations: REST and OCPP on one port, and a database.
//!
//!     cargo run -p backend -- --demo 5
//!
//! Stations connect to `ws://127.0.0.1:9220/ocpp/<identity>` with OCPP 1.6, 2.0.1 or 2.1. The folder `stations` handles
//! their calls. The REST API is at `http://127.0.0.1:9220/api/stations`, in the folder `api`. The console, a page for
//! engineers, is at `http://127.0.0.1:9220/console/`.

mod api;
mod cluster;
mod database;
mod date;
mod journal;
mod metrics;
mod passwords;
mod settings;
mod stations;
mod strict;
mod tls;

use std::{error::Error, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use futures_util::{FutureExt, future};
use ocpp_rpc::{Close, Options, RpcClient, RpcServer, server::TrustedProxies};
use sqlx::AnyPool;
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{api::Api, journal::Journal, passwords::Passwords, settings::Settings};

/// The time that pending calls have when the backend stops.
const DRAIN: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(log_filter()).init();
    let settings = Settings::parse()?;
    // The recorder of metrics must be there before the server.
    let metrics = if settings.metrics { metrics::router()? } else { Router::new() };
    let url = settings.database();
    settings.cluster.warn_of_database(&url);
    let database = database::open(&url).await?;
    let stopping = CancellationToken::new();
    let server = server(&settings, &database, &stopping).await?;
    let (journal, journal_task) = Journal::start(&server, database.clone(), settings.journal_days);
    let api = Api { server: server.clone(), database: database.clone(), journal, stopping: stopping.clone() };
    let app = router(api, settings.known_host()).merge(metrics);

    let mut listener = server.bind(&*settings.listen).app(app);
    if !settings.proxy_protocol.is_empty() {
        listener = listener.proxy_protocol(&settings.proxy_protocol)?;
    }
    let listener = settings.tls.serve(listener).await;
    let listener = listener.map_err(|error| format!("cannot listen on {}: {error}", settings.listen))?;
    // The first poll installs the signal handlers, before the lines below tell that the backend is ready.
    let mut shutdown = pin!(shutdown_signal());
    if shutdown.as_mut().now_or_never().is_some() {
        return Ok(());
    }
    let address = listener.local_addr();
    let (first, http, ws) = if settings.tls.is_on() { ("https://", "https://", "wss") } else { ("http://", "", "ws") };
    // Without TLS, only the first address has a scheme, so that it is the one to open.
    if cfg!(feature = "console") {
        println!("the console is at    {first}{address}/console/");
        println!("the REST API is at   {http}{address}/api/stations");
    } else {
        println!("the REST API is at   {first}{address}/api/stations");
    }
    println!("stations connect to  {ws}://{address}/ocpp/<identity>");
    if settings.demo > 0 {
        let reset = format!("{http}{address}/api/stations/DEMO-1/calls/Reset");
        println!("reset one with       curl --json '{{\"type\":\"Soft\"}}' {reset}");
        println!("watch them at        curl -N {http}{address}/api/events");
    }
    let _demo = start_demo(settings.demo, &format!("ws://{address}/ocpp"));

    shutdown.await;
    println!("closing: pending calls have ten seconds");
    // The streams of the REST API end, `/readyz` returns 503, and new stations are refused. Requests still get their
    // responses. The console shows how the stations close, and its streams end with the listener.
    stopping.cancel();
    let close = Close::going_away().reason("the backend stops").drain(DRAIN);
    let sessions = server.sessions();
    let ends = future::join_all(sessions.iter().map(|session| session.close(close.clone()))).await;
    // Closes the sessions that opened meanwhile, and waits for handlers whose sessions have ended.
    let rest = listener.close(close).await;
    println!("{} stations closed", ends.len() + rest.clean + rest.forced);
    if timeout(DRAIN, journal_task).await.is_err() {
        tracing::error!("the latest messages are not in the journal, because the database does not store them");
    }
    database.close().await;
    Ok(())
}

/// Builds the server for stations.
async fn server(
    settings: &Settings,
    database: &AnyPool,
    stopping: &CancellationToken,
) -> Result<RpcServer, Box<dyn Error>> {
    let mut builder = RpcServer::builder(stations::router(database.clone()))
        .protocols(["ocpp2.1", "ocpp2.0.1", "ocpp1.6"])
        .auth(Passwords::new(settings.password_file.as_deref(), stopping.clone())?)
        .options(settings.checks.add_to(Options::server().call_timeout(Duration::from_secs(30)))?);
    if !settings.trusted_proxy.is_empty() {
        builder = builder.trusted_proxies(TrustedProxies::x_forwarded(&settings.trusted_proxy)?);
    }
    Ok(settings.cluster.add_to(builder).await?.build()?)
}

/// Builds the router of the HTTP server: REST, the console, and the endpoint of stations.
fn router(api: Api, known_host: Option<&str>) -> Router {
    let server = api.server.clone();
    // Without a login, another site could reach both by a name that points to this address.
    let hosts = known_host.map(|host| ["localhost", "127.0.0.1", "::1", host]);
    let router = api::router(api, hosts);
    // The page may do what the REST API may.
    #[cfg(feature = "console")]
    let router = {
        let mut console = ocpp_rpc::console::Console::new(&server).allow_calls(true).allow_close(true);
        if let Some(hosts) = hosts {
            console = console.hosts(hosts);
        }
        router.nest_service("/console", console.router())
    };
    router.route_service("/ocpp/{*identity}", server)
}

/// Starts stations in this process. They stop when the returned set is dropped.
fn start_demo(stations: usize, url: &str) -> JoinSet<Result<(), Box<dyn Error + Send + Sync>>> {
    let tally = Arc::<charger::Tally>::default();
    let station = |number| {
        let protocol = if number % 2 == 1 { "ocpp1.6" } else { "ocpp2.0.1" };
        let settings = charger::Settings {
            client: RpcClient::builder(url, format!("DEMO-{number}")).protocols([protocol]),
            interval: Some(10),
            // The first station charges soon, so that there is something to see.
            first_charge: (number == 1).then_some(Duration::from_secs(3)),
            outbox: None,
        };
        charger::run(settings, tally.clone(), future::pending())
    };
    (1..=stations).map(station).collect()
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

//! Runs a charging station, or many of them.
//!
//!     cargo run -p charger -- --url ws://127.0.0.1:9220/ocpp --identity CP-1
//!     cargo run --release -p charger -- --count 500 --interval 10

mod tls;

use std::{
    fs,
    path::PathBuf,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use charger::{Settings, Tally};
use clap::Parser;
use ocpp_rpc::RpcClient;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

#[derive(Parser)]
struct Args {
    /// The endpoint of the server, without the identity.
    #[arg(long, default_value = "ws://127.0.0.1:9220/ocpp")]
    url: String,
    /// The identity. If --count is above 1, a number is appended.
    #[arg(long, default_value = "CP")]
    identity: String,
    /// The subprotocols to offer, separated by commas, the preferred one first.
    #[arg(long, default_value = "ocpp1.6", value_delimiter = ',')]
    protocol: Vec<String>,
    /// The password of Basic credentials.
    #[arg(long)]
    password: Option<String>,
    /// The number of stations to run.
    #[arg(long, default_value_t = 1)]
    count: usize,
    /// The seconds between heartbeats, instead of the interval that the server sends.
    #[arg(long)]
    interval: Option<u32>,
    /// The folder of messages about transactions, which then survive a restart. Each station has a file of its own.
    #[arg(long)]
    data: Option<PathBuf>,
    #[command(flatten)]
    tls: tls::Tls,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter).init();
    let Args { url, identity, protocol, password, count, interval, data, tls } = Args::parse();
    let tally = Arc::<Tally>::default();
    let mut stations = JoinSet::new();
    let stop = CancellationToken::new();
    if let Some(data) = &data {
        fs::create_dir_all(data)?;
    }
    for number in 1..=count {
        let identity = if count == 1 { identity.clone() } else { format!("{identity}-{number:04}") };
        let file = || identity.replace(|character: char| !character.is_ascii_alphanumeric(), "-") + ".jsonl";
        let outbox = data.as_ref().map(|data| data.join(file()));
        let mut client = tls.apply(RpcClient::builder(&url, identity).protocols(&protocol))?;
        if let Some(password) = &password {
            client = client.password(password.as_str());
        }
        let settings = Settings { client, interval, first_charge: None, outbox };
        stations.spawn(charger::run(settings, tally.clone(), stop.clone().cancelled_owned()));
    }
    let mut progress = tokio::time::interval(Duration::from_secs(1));
    let (start, mut last) = (Instant::now(), String::new());
    let mut shutdown = pin!(shutdown_signal());
    loop {
        tokio::select! {
            () = &mut shutdown, if !stop.is_cancelled() => {
                println!("closing: pending calls have ten seconds");
                stop.cancel();
            }
            _ = progress.tick() => {
                let [connected, succeeded, failed] =
                    [&tally.connected, &tally.succeeded, &tally.failed].map(|count| count.load(Ordering::Relaxed));
                let line = format!("{connected} of {count} connected, {succeeded} calls succeeded, {failed} failed");
                if line != last {
                    println!("{:5.0} s  {line}", start.elapsed().as_secs_f64());
                    last = line;
                }
            }
            ended = stations.join_next() => match ended.transpose()? {
                Some(Ok(())) => {}
                None => return Ok(()),
                // A station that gives up prints its error, and the others continue.
                Some(Err(error)) if stations.is_empty() => return Err(error as Box<dyn std::error::Error>),
                Some(Err(error)) => eprintln!("a station gave up: {error}"),
            },
        }
    }
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

//! A process with stations.

use std::{sync::Arc, time::Duration};

use load::{
    process::raise_file_limit,
    stations::{Booted, Settings, Stations},
};
use ocpp_rpc::{Options, client::Reconnect};
use tokio::time::sleep;

use crate::{Result, process::until_parent_ends};

/// The time between two looks at the number of booted stations.
const INTERVAL: Duration = Duration::from_millis(50);

#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(long = "url")]
    urls: Vec<String>,
    #[arg(long)]
    first: u32,
    #[arg(long)]
    stations: u32,
}

/// Connects the stations, and prints the number of those that have booted whenever it changes.
pub(crate) async fn run(Args { urls, first, stations }: Args) -> Result<()> {
    raise_file_limit(stations)?;
    let booted = Arc::<Booted>::default();
    let settings = Settings { endpoints: urls, options: Options::client(), reconnect: Reconnect::always() };
    let connected = async {
        let _stations = Stations::connect(first..first + stations, &settings, &booted).await?;
        until_parent_ends().await
    };
    let reported = async {
        let mut last = 0;
        loop {
            sleep(INTERVAL).await;
            let count = booted.count();
            if count != last {
                println!("{count}");
                last = count;
            }
        }
    };
    tokio::select! {
        ended = connected => ended,
        () = reported => Ok(()),
    }
}

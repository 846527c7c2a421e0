//! Stations that boot, stay connected, and answer the calls of the server.

use std::{
    convert::Infallible,
    error::Error as StdError,
    iter,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use ocpp_rpc::{
    Options, RpcClient, RpcRouter,
    client::{ClientState, Reconnect, RpcClientBuilder},
};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet, time::sleep};

/// The number of stations of a process that connect for the first time at once.
const CONNECT_CONCURRENCY: usize = 64;

/// The pause after a boot that the server has not accepted.
const BOOT_PAUSE: Duration = Duration::from_secs(1);

/// The number of stations that have booted and have been connected since.
#[derive(Debug, Default)]
pub struct Booted(AtomicU64);

impl Booted {
    /// Returns the number.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The settings of stations.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The endpoints. Station `n` begins with number `n` modulo their count.
    pub endpoints: Vec<String>,
    /// The options of each station.
    pub options: Options,
    /// The policy for a connection that is lost.
    pub reconnect: Reconnect,
}

/// Stations named `LOAD-<number>`. They disconnect when this is dropped.
#[derive(Debug)]
pub struct Stations {
    clients: Vec<RpcClient>,
    /// The tasks that boot the stations after each reconnect.
    _tasks: JoinSet<()>,
}

impl Stations {
    /// Connects stations and waits until the server has accepted each boot.
    ///
    /// # Errors
    ///
    /// Returns an error if no endpoint accepts one of the stations, or if its boot is not accepted.
    pub async fn connect(
        numbers: Range<u32>,
        settings: &Settings,
        booted: &Arc<Booted>,
    ) -> Result<Self, Box<dyn StdError>> {
        let Settings { endpoints, options, reconnect } = settings;
        let first = endpoints.first().ok_or("there is no endpoint")?;
        let builder = RpcClient::builder(first, "LOAD").protocols(["ocpp1.6"]).options(options.clone());
        // One router for all.
        let builder = &builder.router(router()).reconnect(reconnect.clone());
        let stations = stream::iter(numbers).map(|number| async move {
            let builder = builder.clone().identity(format!("LOAD-{number}")).endpoints(in_turn(endpoints, number));
            let station = connect(builder).await;
            let station = station.map_err(|error| format!("station {number}: {}", with_causes(&*error)))?;
            booted.0.fetch_add(1, Ordering::Relaxed);
            Ok::<_, String>(station)
        });
        let stations: Vec<_> = stations.buffer_unordered(CONNECT_CONCURRENCY).try_collect().await?;
        let mut tasks = JoinSet::new();
        let clients = stations.into_iter().map(|(client, states)| {
            tasks.spawn(keep_booted(client.clone(), states, booted.clone()));
            client
        });
        Ok(Self { clients: clients.collect(), _tasks: tasks })
    }

    /// Returns the clients of the stations.
    pub fn clients(&self) -> &[RpcClient] {
        &self.clients
    }
}

/// Returns the endpoints in the order in which a station tries them.
///
/// The stations of an endpoint have different ones in second place, so that they spread if its server stops.
fn in_turn(endpoints: &[String], station: u32) -> Vec<String> {
    let (count, station) = (endpoints.len(), station as usize);
    let (first, rest) = (station % count, count - 1);
    let others = (0..rest).map(|place| (first + 1 + (station / count + place) % rest) % count);
    iter::once(first).chain(others).map(|place| endpoints[place].clone()).collect()
}

/// The client of a station, with its states since the boot.
type Station = (RpcClient, watch::Receiver<ClientState>);

async fn connect(builder: RpcClientBuilder) -> Result<Station, Box<dyn StdError>> {
    let client = builder.connect().await?;
    let mut states = client.states();
    states.wait_for(|state| *state == ClientState::Open).await?;
    boot(&client).await?;
    Ok((client, states))
}

/// Boots a station again after each reconnect.
async fn keep_booted(client: RpcClient, mut states: watch::Receiver<ClientState>, booted: Arc<Booted>) {
    while states.changed().await.is_ok() {
        booted.0.fetch_sub(1, Ordering::Relaxed);
        loop {
            if states.wait_for(|state| *state == ClientState::Open).await.is_err() {
                return;
            }
            if boot(&client).await.is_ok() {
                break;
            }
            sleep(BOOT_PAUSE).await;
        }
        booted.0.fetch_add(1, Ordering::Relaxed);
    }
}

async fn boot(client: &RpcClient) -> Result<(), Box<dyn StdError>> {
    let boot = json!({"chargePointVendor": "Example", "chargePointModel": "Wallbox"});
    let response: Value = client.call("BootNotification", &boot).await?;
    if response["status"] == "Accepted" { Ok(()) } else { Err(format!("boot not accepted: {response}").into()) }
}

/// Returns the text of an error and all of its causes.
fn with_causes(error: &dyn StdError) -> String {
    let causes = iter::successors(error.source(), |cause| (**cause).source());
    causes.fold(error.to_string(), |text, cause| match cause.to_string() {
        // Some errors already end with the text of their cause.
        cause if text.ends_with(&cause) => text,
        cause => format!("{text}: {cause}"),
    })
}

/// Returns the handlers of a station.
fn router() -> RpcRouter {
    RpcRouter::new()
        .on("ChangeAvailability", accept)
        .on("GetConfiguration", get_configuration)
        .on("Reset", accept)
        .on("TriggerMessage", accept)
}

async fn accept() -> Result<Value, Infallible> {
    Ok(json!({"status": "Accepted"}))
}

async fn get_configuration() -> Result<Value, Infallible> {
    let keys = [("HeartbeatInterval", "300"), ("MeterValueSampleInterval", "60"), ("NumberOfConnectors", "2")];
    let keys = keys.map(|(key, value)| json!({"key": key, "readonly": false, "value": value}));
    Ok(json!({"configurationKey": keys}))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn stations_of_an_endpoint_spread_over_the_others() {
        let endpoints = ["a", "b", "c", "d"].map(String::from);
        let mut seconds = HashMap::<_, u32>::new();
        for station in 1..=120 {
            let order = in_turn(&endpoints, station);
            assert_eq!(order[0], endpoints[station as usize % 4]);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, endpoints);
            *seconds.entry((order[0].clone(), order[1].clone())).or_default() += 1;
        }
        assert_eq!((seconds.len(), seconds.values().all(|count| *count == 10)), (12, true), "{seconds:?}");
        assert_eq!(in_turn(&endpoints[..1], 7), endpoints[..1]);
    }
}

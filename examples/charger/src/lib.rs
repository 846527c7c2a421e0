//! One charging station: boots, reports, charges now and then, and does as it is told.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use ocpp_rpc::{
    Close, Error, RpcClient, RpcRouter,
    client::{Backoff, ClientState, ConnectError, Reconnect, RpcClientBuilder},
    extract::{Params, State},
};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

/// Settings of a station.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The server, the identity, and how to connect.
    pub client: RpcClientBuilder,
    /// Seconds between heartbeats, instead of the interval that the server sends.
    pub interval: Option<u64>,
}

/// Counters that stations share.
#[derive(Debug, Default)]
pub struct Tally {
    /// Stations that are connected now.
    pub connected: AtomicUsize,
    /// Calls that returned a result.
    pub answered: AtomicUsize,
    /// Calls that failed.
    pub failed: AtomicUsize,
}

struct Station {
    client: RpcClient,
    memory: Arc<Memory>,
    tally: Arc<Tally>,
    interval: Option<u64>,
}

/// What the handlers share with the station itself.
struct Memory {
    inside: Mutex<Inside>,
    orders: mpsc::Sender<Order>,
}

struct Inside {
    variables: BTreeMap<String, String>,
    transaction: Option<Transaction>,
    energy: u64,
}

struct Transaction {
    /// A number in 1.6, a text in 2.x.
    id: Value,
    messages: u32,
}

/// What the server wants done.
enum Order {
    Reboot,
    Report(String),
    Start(String),
    Stop,
}

/// How long a station charges, and rests, when nobody tells it to.
const CHARGING: Duration = Duration::from_secs(60);
const RESTING: Duration = Duration::from_secs(20);

/// Runs a station until its server refuses it for good.
///
/// # Errors
/// Settings that contradict each other, and a connect that cannot succeed by being repeated.
pub async fn run(settings: Settings, tally: Arc<Tally>) -> Result<Infallible, ConnectError> {
    let Settings { client, interval } = settings;
    let (orders, mut ordered) = mpsc::channel(16);
    let memory = Arc::new(Memory::new(orders));
    let backoff = Backoff::exponential().max(Duration::from_secs(10));
    let reconnect = Reconnect::always().backoff(backoff).retry_first_connect(true);
    let client = client.router(router(memory.clone())).reconnect(reconnect).build().map_err(ConnectError::Settings)?;
    let _watch = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(count(client.clone(), tally.clone())));
    let station = Station { client, memory, tally, interval };
    loop {
        station.client.connect().await?;
        station.live(&mut ordered).await;
    }
}

/// Keeps the number of connected stations.
async fn count(client: RpcClient, tally: Arc<Tally>) {
    let mut states = client.states();
    let mut connected = false;
    loop {
        let now = *states.borrow_and_update() == ClientState::Open;
        match (connected, now) {
            (false, true) => _ = tally.connected.fetch_add(1, Ordering::Relaxed),
            (true, false) => _ = tally.connected.fetch_sub(1, Ordering::Relaxed),
            _ => {}
        }
        connected = now;
        if states.changed().await.is_err() {
            return;
        }
    }
}

impl Station {
    /// From a boot to the next, over any number of connections.
    async fn live(&self, orders: &mut mpsc::Receiver<Order>) {
        let seconds = self.boot().await;
        self.report_status().await;
        let mut heartbeat = interval(Duration::from_secs(seconds.max(1)));
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        heartbeat.reset();
        let mut plug = Instant::now() + RESTING.mul_f64(rand::random());
        loop {
            tokio::select! {
                _ = self.client.closed() => return,
                _ = heartbeat.tick() => {
                    self.call("Heartbeat", &json!({})).await;
                    self.report_meter().await;
                }
                () = tokio::time::sleep_until(plug) => {
                    plug = Instant::now() + self.plug("DEMO-TAG").await;
                }
                Some(order) = orders.recv() => match order {
                    Order::Reboot => {
                        self.client.close(Close::normal().reason("rebooting").drain(30 * Duration::from_secs(1))).await;
                        return;
                    }
                    Order::Report(message) => self.report(&message).await,
                    Order::Start(tag) => {
                        if !self.is_charging() {
                            plug = Instant::now() + self.plug(&tag).await;
                        }
                    }
                    Order::Stop => {
                        if self.is_charging() {
                            plug = Instant::now() + self.plug("").await;
                        }
                    }
                },
            }
        }
    }

    /// Boots until the server accepts it; gives the seconds between heartbeats.
    async fn boot(&self) -> u64 {
        let boot = match self.speaks_1_6() {
            true => json!({"chargePointVendor": "Example", "chargePointModel": "Wallbox"}),
            false => json!({"reason": "PowerUp", "chargingStation": {"vendorName": "Example", "model": "Wallbox"}}),
        };
        loop {
            let answer = self.call("BootNotification", &boot).await.unwrap_or_default();
            let seconds = answer["interval"].as_u64().filter(|seconds| *seconds > 0).unwrap_or(30);
            if answer["status"] == "Accepted" {
                return self.interval.unwrap_or(seconds);
            }
            sleep(Duration::from_secs(seconds)).await;
        }
    }

    /// Starts a transaction or stops the one that there is; gives the time until the next change.
    async fn plug(&self, tag: &str) -> Duration {
        let running = self.memory.inside().transaction.take();
        match running {
            None => self.start(tag).await,
            Some(transaction) => self.stop(transaction).await,
        }
        self.report_status().await;
        if self.is_charging() { CHARGING } else { RESTING }
    }

    async fn start(&self, tag: &str) {
        let energy = self.memory.inside().energy;
        let id = match self.speaks_1_6() {
            true => {
                let start = json!({"connectorId": 1, "idTag": tag, "meterStart": energy, "timestamp": now()});
                self.call("StartTransaction", &start).await.map(|answer| answer["transactionId"].clone())
            }
            false => {
                let id = json!(format!("{:016x}", rand::random::<u64>()));
                let token = json!({"idToken": tag, "type": "Central"});
                let event = self.event("Started", "Authorized", &id, 0, Some(token));
                self.call("TransactionEvent", &event).await.map(|_| id)
            }
        };
        self.memory.inside().transaction = id.map(|id| Transaction { id, messages: 1 });
    }

    async fn stop(&self, Transaction { id, messages }: Transaction) {
        let energy = self.memory.inside().energy;
        match self.speaks_1_6() {
            true => {
                let stop = json!({"transactionId": id, "meterStop": energy, "timestamp": now(), "reason": "Local"});
                self.call("StopTransaction", &stop).await;
            }
            false => {
                let event = self.event("Ended", "EVDeparted", &id, messages, None);
                self.call("TransactionEvent", &event).await;
            }
        }
    }

    async fn report(&self, message: &str) {
        match message {
            "BootNotification" => _ = self.boot().await,
            "Heartbeat" => _ = self.call("Heartbeat", &json!({})).await,
            "StatusNotification" => self.report_status().await,
            _ => self.report_meter().await,
        }
    }

    async fn report_status(&self) {
        let status = match self.speaks_1_6() {
            true => json!({
                "connectorId": 1,
                "errorCode": "NoError",
                "status": if self.is_charging() { "Charging" } else { "Available" },
            }),
            false => json!({
                "timestamp": now(),
                "connectorStatus": if self.is_charging() { "Occupied" } else { "Available" },
                "evseId": 1,
                "connectorId": 1,
            }),
        };
        self.call("StatusNotification", &status).await;
    }

    async fn report_meter(&self) {
        let (id, messages) = {
            let mut inside = self.memory.inside();
            inside.energy += 100;
            match &mut inside.transaction {
                None => return,
                Some(transaction) => {
                    transaction.messages += 1;
                    (transaction.id.clone(), transaction.messages - 1)
                }
            }
        };
        match self.speaks_1_6() {
            true => {
                let values = json!({"connectorId": 1, "transactionId": id, "meterValue": self.meter_value()});
                self.call("MeterValues", &values).await;
            }
            false => {
                let event = self.event("Updated", "MeterValuePeriodic", &id, messages, None);
                self.call("TransactionEvent", &event).await;
            }
        }
    }

    fn event(&self, kind: &str, trigger: &str, id: &Value, number: u32, token: Option<Value>) -> Value {
        let mut event = json!({
            "eventType": kind,
            "triggerReason": trigger,
            "timestamp": now(),
            "seqNo": number,
            "transactionInfo": {"transactionId": id},
            "evse": {"id": 1, "connectorId": 1},
            "meterValue": self.meter_value(),
        });
        if let Some(token) = token {
            event["idToken"] = token;
        }
        event
    }

    fn meter_value(&self) -> Value {
        let energy = self.memory.inside().energy;
        let value = match self.speaks_1_6() {
            true => json!(energy.to_string()),
            false => json!(energy),
        };
        let sample = json!({"value": value, "measurand": "Energy.Active.Import.Register"});
        json!([{"timestamp": now(), "sampledValue": [sample]}])
    }

    /// Makes a call; a call that fails is counted, and the station goes on.
    async fn call(&self, action: &str, params: &Value) -> Option<Value> {
        match self.client.call(action, params).await {
            Ok(answer) => {
                self.tally.answered.fetch_add(1, Ordering::Relaxed);
                Some(answer)
            }
            Err(error) => {
                if !matches!(error, Error::Closing | Error::Closed) {
                    self.tally.failed.fetch_add(1, Ordering::Relaxed);
                }
                tracing::debug!(action, %error, "a call failed");
                None
            }
        }
    }

    fn speaks_1_6(&self) -> bool {
        self.client.session().protocol().as_deref().is_none_or(|protocol| protocol == "ocpp1.6")
    }

    fn is_charging(&self) -> bool {
        self.memory.inside().transaction.is_some()
    }
}

impl Memory {
    fn new(orders: mpsc::Sender<Order>) -> Self {
        let variables = [("HeartbeatInterval", "300"), ("MeterValueSampleInterval", "60"), ("NumberOfConnectors", "1")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Self { inside: Mutex::new(Inside { variables, transaction: None, energy: 0 }), orders }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the station will do it.
    fn order(&self, order: Order) -> &'static str {
        match self.orders.try_send(order) {
            Ok(()) => "Accepted",
            Err(_) => "Rejected",
        }
    }
}

// What the server asks, in both versions.

type Asked = Params<Value>;
type Shared = State<Arc<Memory>>;
type Responder = Result<Value, Infallible>;

fn router(memory: Arc<Memory>) -> RpcRouter<Arc<Memory>> {
    RpcRouter::with_state(memory)
        .on("Reset", reset)
        .on("TriggerMessage", trigger)
        .on("RemoteStartTransaction", start)
        .on("RequestStartTransaction", start)
        .on("RemoteStopTransaction", stop)
        .on("RequestStopTransaction", stop)
        .on("ChangeConfiguration", change_configuration)
        .on("GetConfiguration", get_configuration)
        .on("SetVariables", set_variables)
        .on("GetVariables", get_variables)
        .on("ChangeAvailability", accepted)
        .on("ClearCache", accepted)
}

async fn accepted() -> Responder {
    Ok(json!({"status": "Accepted"}))
}

async fn reset(State(memory): Shared) -> Responder {
    Ok(json!({"status": memory.order(Order::Reboot)}))
}

async fn trigger(Params(asked): Asked, State(memory): Shared) -> Responder {
    let status = match asked["requestedMessage"].as_str() {
        Some(message @ ("BootNotification" | "Heartbeat" | "StatusNotification" | "MeterValues")) => {
            memory.order(Order::Report(message.to_owned()))
        }
        _ => "NotImplemented",
    };
    Ok(json!({"status": status}))
}

/// 1.6 names an `idTag`, 2.x an `idToken`.
async fn start(Params(asked): Asked, State(memory): Shared) -> Responder {
    let tag = asked["idTag"].as_str().or(asked["idToken"]["idToken"].as_str()).unwrap_or("unknown");
    let is_charging = memory.inside().transaction.is_some();
    let status = match is_charging {
        true => "Rejected",
        false => memory.order(Order::Start(tag.to_owned())),
    };
    Ok(json!({"status": status}))
}

async fn stop(Params(asked): Asked, State(memory): Shared) -> Responder {
    let is_running = memory.inside().transaction.as_ref().is_some_and(|running| running.id == asked["transactionId"]);
    let status = match is_running {
        true => memory.order(Order::Stop),
        false => "Rejected",
    };
    Ok(json!({"status": status}))
}

async fn change_configuration(Params(asked): Asked, State(memory): Shared) -> Responder {
    let (Some(key), Some(value)) = (asked["key"].as_str(), asked["value"].as_str()) else {
        return Ok(json!({"status": "Rejected"}));
    };
    Ok(json!({"status": memory.set(key, value)}))
}

async fn get_configuration(Params(asked): Asked, State(memory): Shared) -> Responder {
    let inside = memory.inside();
    let wanted: Vec<&str> = match asked["key"].as_array() {
        Some(keys) if !keys.is_empty() => keys.iter().filter_map(Value::as_str).collect(),
        _ => inside.variables.keys().map(String::as_str).collect(),
    };
    let (known, unknown): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|key| inside.variables.contains_key(*key));
    let known = known.iter().map(|key| json!({"key": key, "readonly": false, "value": inside.variables[*key]}));
    Ok(json!({"configurationKey": known.collect::<Vec<_>>(), "unknownKey": unknown}))
}

async fn set_variables(Params(asked): Asked, State(memory): Shared) -> Responder {
    let result = asked["setVariableData"].as_array().into_iter().flatten().map(|data| {
        let name = data["variable"]["name"].as_str().unwrap_or_default();
        let status = match memory.set(name, data["attributeValue"].as_str().unwrap_or_default()) {
            "Accepted" => "Accepted",
            _ => "UnknownVariable",
        };
        json!({"attributeStatus": status, "component": data["component"], "variable": data["variable"]})
    });
    Ok(json!({"setVariableResult": result.collect::<Vec<_>>()}))
}

async fn get_variables(Params(asked): Asked, State(memory): Shared) -> Responder {
    let inside = memory.inside();
    let result = asked["getVariableData"].as_array().into_iter().flatten().map(|data| {
        let (component, variable) = (&data["component"], &data["variable"]);
        match variable["name"].as_str().and_then(|name| inside.variables.get(name)) {
            Some(value) => json!({
                "attributeStatus": "Accepted", "attributeValue": value, "component": component, "variable": variable
            }),
            None => json!({"attributeStatus": "UnknownVariable", "component": component, "variable": variable}),
        }
    });
    Ok(json!({"getVariableResult": result.collect::<Vec<_>>()}))
}

impl Memory {
    fn set(&self, name: &str, value: &str) -> &'static str {
        match self.inside().variables.get_mut(name) {
            Some(variable) => {
                value.clone_into(variable);
                "Accepted"
            }
            None => "NotSupported",
        }
    }
}

/// The time, to the millisecond: some stations can read no more digits.
fn now() -> String {
    format!("{:.3}", Timestamp::now())
}

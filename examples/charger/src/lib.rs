//! A simulated charging station: it boots, sends reports, charges from time to time, and handles calls of its server.
//! Messages about transactions survive a restart.

mod handlers;
pub mod outbox;
pub mod register;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    error,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use ocpp_rpc::{
    Close, Error, RpcClient,
    client::{Backoff, ClientState, Reconnect, RpcClientBuilder},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    handlers::router,
    outbox::{Attempts, Message, Outbox},
    register::{Trigger, register},
};

/// Settings of a station.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The server, the identity, and how to connect.
    pub client: RpcClientBuilder,
    /// Seconds between heartbeats, instead of the interval that the server sends.
    pub interval: Option<u32>,
    /// The time from the boot to the first transaction. `None` is a random time of at most 20 s.
    pub first_charge: Option<Duration>,
    /// The file of messages about transactions. `None` keeps them in memory.
    pub outbox: Option<PathBuf>,
}

/// Counters that stations share.
#[derive(Debug, Default)]
pub struct Tally {
    /// Stations that are connected now.
    pub connected: AtomicUsize,
    /// Calls that returned a result.
    pub succeeded: AtomicUsize,
    /// Calls that failed.
    pub failed: AtomicUsize,
}

struct Station {
    client: RpcClient,
    shared: Arc<Shared>,
    tally: Arc<Tally>,
    interval: Option<Duration>,
    first_charge: Option<Duration>,
    /// The interval of heartbeats, if the server has accepted the station.
    registered: watch::Sender<Option<Duration>>,
}

/// The state that handlers share with the station's loop.
struct Shared {
    data: Mutex<Data>,
    outbox: Arc<Outbox>,
    commands: mpsc::Sender<Command>,
    triggers: mpsc::Sender<Trigger>,
}

struct Data {
    variables: BTreeMap<String, String>,
    meter: Meter,
    /// The transaction that was running when the station was stopped.
    interrupted: Option<Transaction>,
}

/// The part of the state that survives a restart.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Meter {
    energy: u64,
    transaction: Option<Transaction>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Transaction {
    /// The id in 2.x. In 1.6, it stands for the number that the server gives.
    id: String,
    next_seq_no: u32,
}

/// A task that a handler gives to the station's loop.
enum Command {
    Reboot,
    Report(String),
    Start(String),
    Stop,
}

/// The duration of a transaction, unless the server stops it earlier.
const CHARGING: Duration = Duration::from_secs(60);
/// The pause between two transactions, unless the server starts one earlier.
const PAUSE: Duration = Duration::from_secs(20);

/// The time that pending calls have when the station stops.
const DRAIN: Duration = Duration::from_secs(10);

/// Runs a station until `shutdown` completes. Then the station finishes its calls and closes its connection with a close
/// frame. The client repeats connects that fail.
///
/// # Errors
/// Returns an error if the settings contradict each other, or if the file of messages cannot be read or written.
pub async fn run(
    settings: Settings,
    tally: Arc<Tally>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Box<dyn error::Error + Send + Sync>> {
    let Settings { client, interval, first_charge, outbox } = settings;
    let outbox = Arc::new(outbox.map_or_else(|| Ok(Outbox::in_memory()), Outbox::open)?);
    let (sender, mut commands) = mpsc::channel(16);
    let (triggers, mut triggered) = mpsc::channel(16);
    let shared = Arc::new(Shared::new(outbox, sender, triggers));
    let backoff = Backoff::exponential().max(Duration::from_secs(10));
    let reconnect = Reconnect::always().backoff(backoff).retry_first_connect(true);
    let client = client.router(router(shared.clone())).reconnect(reconnect).build()?;
    let _counter =
        tokio_util::task::AbortOnDropHandle::new(tokio::spawn(count_connected(client.clone(), tally.clone())));
    let interval = interval.map(|seconds| Duration::from_secs(seconds.max(1).into()));
    let registered = watch::Sender::new(None);
    let station = Station { client, shared, tally, interval, first_charge, registered };
    let closing = async {
        shutdown.await;
        station.client.close(Close::going_away().reason("the station stops").drain(DRAIN)).await;
    };
    let working = async {
        loop {
            station.client.connect().await?;
            station.run_until_closed(&mut commands, &mut triggered).await;
        }
    };
    // The station works on while it closes, so that the call in flight gets its response.
    tokio::select! {
        biased;
        () = closing => Ok(()),
        result = working => result,
        result = station.deliver() => match result? {},
    }
}

/// Keeps `Tally::connected` up to date.
async fn count_connected(client: RpcClient, tally: Arc<Tally>) {
    let mut states = client.states();
    let mut was_open = false;
    loop {
        let is_open = *states.borrow_and_update() == ClientState::Open;
        match (was_open, is_open) {
            (false, true) => _ = tally.connected.fetch_add(1, Ordering::Relaxed),
            (true, false) => _ = tally.connected.fetch_sub(1, Ordering::Relaxed),
            _ => {}
        }
        was_open = is_open;
        if states.changed().await.is_err() {
            return;
        }
    }
}

impl Station {
    /// Registers, then works until the client is closed. The connection may be lost and restored meanwhile.
    async fn run_until_closed(&self, commands: &mut mpsc::Receiver<Command>, triggers: &mut mpsc::Receiver<Trigger>) {
        self.registered.send_replace(None);
        let boot = if self.is_1_6() {
            json!({"chargePointVendor": "Example", "chargePointModel": "Wallbox"})
        } else {
            json!({"reason": "PowerUp", "chargingStation": {"vendorName": "Example", "model": "Wallbox"}})
        };
        let report = |action: &str, outcome: &_| self.count(action, outcome);
        let registering = register(&self.client, &boot, self.interval, &self.registered, triggers, report);
        tokio::select! {
            _ = self.client.closed() => {}
            never = registering => match never {},
            () = self.work(commands) => {}
        }
    }

    /// Works until the server requests a reboot.
    async fn work(&self, commands: &mut mpsc::Receiver<Command>) {
        let mut registered = self.registered.subscribe();
        // The sender is part of the station.
        let Ok(Some(seconds)) = registered.wait_for(Option::is_some).await.map(|registered| *registered) else {
            return;
        };
        self.end_interrupted().await;
        self.report_status().await;
        let mut meter = interval(seconds);
        meter.set_missed_tick_behavior(MissedTickBehavior::Delay);
        meter.reset();
        let first_charge = self.first_charge.unwrap_or_else(|| PAUSE.mul_f64(rand::random()));
        let mut next_plug = Instant::now() + first_charge;
        loop {
            tokio::select! {
                _ = meter.tick() => self.report_meter().await,
                () = tokio::time::sleep_until(next_plug) => {
                    next_plug = Instant::now() + self.toggle_charging("DEMO-TAG").await;
                }
                Some(command) = commands.recv() => match command {
                    Command::Reboot => {
                        self.client.close(Close::normal().reason("rebooting").drain(Duration::from_secs(30))).await;
                        return;
                    }
                    Command::Report(message) => self.report(&message).await,
                    Command::Start(tag) => {
                        if !self.is_charging() {
                            next_plug = Instant::now() + self.toggle_charging(&tag).await;
                        }
                    }
                    Command::Stop => {
                        if self.is_charging() {
                            next_plug = Instant::now() + self.toggle_charging("").await;
                        }
                    }
                },
            }
        }
    }

    /// Sends the messages of the outbox, while the station is registered and connected.
    async fn deliver(&self) -> std::io::Result<Infallible> {
        let attempts = || {
            let (max, interval) = if self.is_1_6() {
                ("TransactionMessageAttempts", "TransactionMessageRetryInterval")
            } else {
                ("MessageAttempts", "MessageAttemptInterval")
            };
            let (max, seconds) = (self.shared.number(max), self.shared.number(interval));
            Attempts { max: max.unwrap_or(3), interval: Duration::from_secs(seconds.unwrap_or(60).into()) }
        };
        let report = |action: &str, outcome: &_| self.count(action, outcome);
        self.shared.outbox.deliver(&self.client, &self.registered, attempts, report).await
    }

    /// Stores a message about a transaction, which is sent later.
    async fn store(&self, message: Message) {
        let state = json!(self.shared.data().meter);
        if let Err(error) = self.shared.outbox.store(message, state).await {
            tracing::error!(%error, "a message about a transaction is lost");
        }
    }

    /// Ends a transaction that a restart of the station has interrupted.
    async fn end_interrupted(&self) {
        let interrupted = self.shared.data().interrupted.take();
        if let Some(transaction) = interrupted {
            self.stop(transaction, "PowerLoss").await;
        }
    }

    /// Stops the running transaction or starts one. Returns the time until the next change.
    async fn toggle_charging(&self, tag: &str) -> Duration {
        let running = self.shared.data().meter.transaction.take();
        match running {
            None => self.start(tag).await,
            Some(transaction) => self.stop(transaction, "Local").await,
        }
        self.report_status().await;
        if self.is_charging() { CHARGING } else { PAUSE }
    }

    async fn start(&self, tag: &str) {
        let id = format!("{:016x}", rand::random::<u64>());
        let energy = {
            let mut data = self.shared.data();
            data.meter.transaction = Some(Transaction { id: id.clone(), next_seq_no: 1 });
            data.meter.energy
        };
        let message = if self.is_1_6() {
            let start = json!({"connectorId": 1, "idTag": tag, "meterStart": energy, "timestamp": now()});
            Message::new("StartTransaction", start).starts(id)
        } else {
            let token = json!({"idToken": tag, "type": "Central"});
            let mut event = self.event("Started", "Authorized", &id, 0);
            event["idToken"] = token;
            Message::new("TransactionEvent", event)
        };
        self.store(message).await;
    }

    async fn stop(&self, Transaction { id, next_seq_no }: Transaction, reason: &str) {
        let energy = self.shared.data().meter.energy;
        let message = if self.is_1_6() {
            let stop = json!({"transactionId": id, "meterStop": energy, "timestamp": now(), "reason": reason});
            Message::new("StopTransaction", stop)
        } else {
            let trigger = if reason == "Local" { "EVDeparted" } else { "AbnormalCondition" };
            let mut event = self.event("Ended", trigger, &id, next_seq_no);
            event["transactionInfo"]["stoppedReason"] = reason.into();
            Message::new("TransactionEvent", event)
        };
        self.store(message).await;
    }

    async fn report(&self, message: &str) {
        match message {
            "StatusNotification" => self.report_status().await,
            _ => self.report_meter().await,
        }
    }

    async fn report_status(&self) {
        let status = if self.is_1_6() {
            json!({
                "connectorId": 1,
                "errorCode": "NoError",
                "status": if self.is_charging() { "Charging" } else { "Available" },
            })
        } else {
            json!({
                "timestamp": now(),
                "connectorStatus": if self.is_charging() { "Occupied" } else { "Available" },
                "evseId": 1,
                "connectorId": 1,
            })
        };
        self.call("StatusNotification", &status).await;
    }

    async fn report_meter(&self) {
        let (id, seq_no) = {
            let mut data = self.shared.data();
            data.meter.energy += 100;
            match &mut data.meter.transaction {
                None => return,
                Some(transaction) => {
                    transaction.next_seq_no += 1;
                    (transaction.id.clone(), transaction.next_seq_no - 1)
                }
            }
        };
        let message = if self.is_1_6() {
            let values = json!({"connectorId": 1, "transactionId": id, "meterValue": self.meter_value()});
            Message::new("MeterValues", values)
        } else {
            Message::new("TransactionEvent", self.event("Updated", "MeterValuePeriodic", &id, seq_no))
        };
        self.store(message.update()).await;
    }

    /// Returns the payload of a TransactionEvent.
    fn event(&self, kind: &str, trigger: &str, id: &str, seq_no: u32) -> Value {
        json!({
            "eventType": kind,
            "triggerReason": trigger,
            "timestamp": now(),
            "seqNo": seq_no,
            "transactionInfo": {"transactionId": id},
            "evse": {"id": 1, "connectorId": 1},
            "meterValue": self.meter_value(),
        })
    }

    fn meter_value(&self) -> Value {
        let energy = self.shared.data().meter.energy;
        let value = if self.is_1_6() { json!(energy.to_string()) } else { json!(energy) };
        let sample = json!({"value": value, "measurand": "Energy.Active.Import.Register"});
        json!([{"timestamp": now(), "sampledValue": [sample]}])
    }

    /// Makes a call. If it fails, it is counted and the station continues.
    async fn call(&self, action: &str, params: &Value) {
        self.count(action, &self.client.call(action, params).await);
    }

    /// Counts a call that has ended.
    fn count(&self, action: &str, outcome: &Result<Value, Error>) {
        match outcome {
            Ok(_) => _ = self.tally.succeeded.fetch_add(1, Ordering::Relaxed),
            Err(Error::Closing | Error::Closed) => {}
            Err(error) => {
                self.tally.failed.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(action, %error, "call failed");
            }
        }
    }

    fn is_1_6(&self) -> bool {
        self.client.session().protocol().as_deref().is_none_or(|protocol| protocol == "ocpp1.6")
    }

    fn is_charging(&self) -> bool {
        self.shared.data().meter.transaction.is_some()
    }
}

impl Shared {
    fn new(outbox: Arc<Outbox>, commands: mpsc::Sender<Command>, triggers: mpsc::Sender<Trigger>) -> Self {
        let variables = [
            ("HeartbeatInterval", "300"),
            ("MeterValueSampleInterval", "60"),
            ("NumberOfConnectors", "1"),
            ("TransactionMessageAttempts", "3"),
            ("TransactionMessageRetryInterval", "60"),
            ("MessageAttempts", "3"),
            ("MessageAttemptInterval", "60"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let mut meter: Meter = serde_json::from_value(outbox.state()).unwrap_or_default();
        let interrupted = meter.transaction.take();
        Self { data: Mutex::new(Data { variables, meter, interrupted }), outbox, commands, triggers }
    }

    /// Returns the value of a variable that is a number.
    fn number(&self, name: &str) -> Option<u32> {
        self.data().variables.get(name)?.parse().ok()
    }

    fn data(&self) -> MutexGuard<'_, Data> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a command to the station's loop, and returns the status for the response.
    fn send(&self, command: Command) -> &'static str {
        if self.commands.try_send(command).is_ok() { "Accepted" } else { "Rejected" }
    }

    /// Lets the station send a message of its registration, and returns the status for the response.
    fn trigger(&self, trigger: Trigger) -> &'static str {
        if self.triggers.try_send(trigger).is_ok() { "Accepted" } else { "Rejected" }
    }

    /// Returns whether the running transaction has this id.
    fn is_running(&self, id: &Value) -> bool {
        let data = self.data();
        let Some(running) = &data.meter.transaction else { return false };
        self.outbox.transaction_id(&running.id).unwrap_or(json!(running.id)) == *id
    }

    /// Sets a variable, and returns the status for the response.
    fn set(&self, name: &str, value: &str) -> &'static str {
        match self.data().variables.get_mut(name) {
            Some(variable) => {
                value.clone_into(variable);
                "Accepted"
            }
            None => "NotSupported",
        }
    }
}

/// Returns the current time in milliseconds, because some stations cannot parse more digits.
fn now() -> String {
    format!("{:.3}", Timestamp::now())
}

//! The registration of the station, and its messages about transactions, with a server in this process.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use charger::{
    Settings, Tally,
    outbox::{Message, Outbox},
};
use ocpp_rpc::{
    CallError, Close, ErrorCode, MessageId, RpcClient, RpcRouter, RpcServer, Session,
    client::Target,
    extract::{Action, Params, State},
    handler::{IntoResponse, NoResponse, Response},
    server::ConnectionInfo,
};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, timeout},
};

/// A call that the server got.
#[derive(Debug, Clone, PartialEq)]
struct Got {
    at: u64,
    action: String,
    id: String,
    params: Value,
}

/// The response to the n-th call of an action. `None` gives no response.
type Respond = fn(action: &str, nth: usize, session: &Session) -> Option<Result<Value, CallError>>;

/// A server that records calls.
#[derive(Clone)]
struct Csms {
    respond: Arc<Mutex<Respond>>,
    calls: Arc<Mutex<Vec<Got>>>,
    start: Instant,
    news: mpsc::UnboundedSender<()>,
}

async fn take(
    action: Action,
    id: MessageId,
    Params(params): Params<Value>,
    session: Session,
    State(csms): State<Csms>,
) -> Response {
    let nth = {
        let mut calls = csms.calls.lock().expect("no panic");
        let nth = calls.iter().filter(|call| call.action == *action).count();
        let at = csms.start.elapsed().as_secs();
        calls.push(Got { at, action: action.to_string(), id: id.to_string(), params });
        nth
    };
    let _ = csms.news.send(());
    let respond = *csms.respond.lock().expect("no panic");
    match respond(&action, nth, &session) {
        Some(Ok(result)) => result.into_response(),
        Some(Err(error)) => Response::Error(error),
        None => NoResponse.into_response(),
    }
}

impl Csms {
    fn new(respond: Respond) -> (Self, RpcServer, mpsc::UnboundedReceiver<()>) {
        let (news, read) = mpsc::unbounded_channel();
        let respond = Arc::new(Mutex::new(respond));
        let csms = Self { respond, calls: Arc::default(), start: Instant::now(), news };
        let router = RpcRouter::with_state(csms.clone()).fallback(take);
        let server = RpcServer::builder(router).protocols(["ocpp1.6", "ocpp2.0.1"]).build().expect("valid settings");
        (csms, server, read)
    }

    fn calls(&self) -> Vec<Got> {
        self.calls.lock().expect("no panic").clone()
    }

    /// Returns the calls about transactions.
    fn transactions(&self) -> Vec<Got> {
        let about = ["StartTransaction", "MeterValues", "StopTransaction", "TransactionEvent"];
        self.calls().into_iter().filter(|call| about.contains(&&*call.action)).collect()
    }
}

/// The station in memory, which can be offline.
struct Station {
    task: JoinHandle<()>,
    is_offline: Arc<AtomicBool>,
}

fn station(server: &RpcServer, protocol: &str) -> Station {
    station_with(server, protocol, Some(10), None)
}

fn station_with(server: &RpcServer, protocol: &str, interval: Option<u32>, outbox: Option<PathBuf>) -> Station {
    let is_offline = Arc::<AtomicBool>::default();
    let (offline, server) = (is_offline.clone(), server.clone());
    let dial = move |_: Target| {
        let server = server.clone();
        let (near, far) = tokio::io::duplex(64 << 10);
        let dialled = if offline.load(Ordering::Relaxed) {
            Err(io::ErrorKind::ConnectionRefused.into())
        } else {
            tokio::spawn(async move { server.serve_connection(far, ConnectionInfo::new()).await });
            Ok(near)
        };
        std::future::ready(dialled)
    };
    let client = RpcClient::builder("ws://csms.test", "CP-1").protocols([protocol]).connector(dial);
    let settings = Settings { client, interval, first_charge: Some(Duration::ZERO), outbox };
    let task = tokio::spawn(async move {
        charger::run(settings, Arc::<Tally>::default(), std::future::pending()).await.expect("valid settings");
    });
    Station { task, is_offline }
}

impl Drop for Station {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Accepts everything.
fn accept(action: &str, _: usize, _: &Session) -> Option<Result<Value, CallError>> {
    Some(Ok(match action {
        "BootNotification" => json!({"status": "Accepted", "interval": 10, "currentTime": "2026-01-01T00:00:00Z"}),
        "StartTransaction" => json!({"transactionId": 7, "idTagInfo": {"status": "Accepted"}}),
        _ => json!({}),
    }))
}

fn reject() -> Option<Result<Value, CallError>> {
    Some(Err(CallError::new(ErrorCode::INTERNAL_ERROR, "not now")))
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

/// Returns the calls without repetitions, which must equal the first one.
fn unique(calls: Vec<Got>) -> Vec<Got> {
    let mut unique: Vec<Got> = Vec::new();
    for call in calls {
        match unique.iter().find(|first| first.id == call.id) {
            Some(first) => assert_eq!((&first.action, &first.params), (&call.action, &call.params)),
            None => unique.push(call),
        }
    }
    unique
}

/// Fails if meter values are not in the order in which they were taken, or if one is missing.
fn assert_ordered(calls: &[Got]) {
    let values = calls.iter().filter_map(|call| {
        let value = &call.params["meterValue"][0]["sampledValue"][0]["value"];
        value.as_u64().or_else(|| value.as_str()?.parse().ok())
    });
    let values: Vec<u64> = values.collect();
    assert!(values.len() > 2 && values.windows(2).all(|pair| pair[1] - pair[0] <= 100), "{values:?}");
    assert!(values.is_sorted(), "{values:?}");
}

#[tokio::test(start_paused = true)]
async fn station_sends_nothing_until_its_boot_is_accepted() {
    let (csms, server, _news) = Csms::new(|action, nth, session| match (action, nth) {
        ("BootNotification", 0) => Some(Ok(json!({"status": "Pending", "interval": 40}))),
        ("BootNotification", 1) => Some(Ok(json!({"status": "Rejected", "interval": 0}))),
        ("BootNotification", 2) => reject(),
        _ => accept(action, nth, session),
    });
    let _station = station(&server, "ocpp1.6");
    seconds(130).await;
    let calls = csms.calls();
    let first: Vec<_> = calls.iter().map(|call| (call.at, &*call.action)).take(5).collect();
    assert_eq!(
        first,
        [
            (0, "BootNotification"),
            (40, "BootNotification"),
            (70, "BootNotification"),
            (100, "BootNotification"),
            (100, "StatusNotification")
        ]
    );
    let heartbeats: Vec<_> = calls.iter().filter(|call| call.action == "Heartbeat").map(|call| call.at).collect();
    assert_eq!(heartbeats, [110, 120]);
}

#[tokio::test(start_paused = true)]
async fn stored_messages_wait_until_the_boot_is_accepted() {
    let (csms, server, _news) = Csms::new(|action, nth, session| match (action, nth) {
        ("BootNotification", 0) => Some(Ok(json!({"status": "Pending", "interval": 40}))),
        _ => accept(action, nth, session),
    });
    let directory = directory("pending");
    fs::create_dir_all(&directory).expect("a directory");
    let path = directory.join("CP-1.jsonl");
    let outbox = Arc::new(Outbox::open(&path).expect("a new file"));
    let stop = json!({"transactionId": 3, "meterStop": 0, "timestamp": "2026-01-01T00:00:00Z"});
    outbox.store(Message::new("StopTransaction", stop), Value::Null).await.expect("stored");
    drop(outbox);
    let _station = station_with(&server, "ocpp1.6", Some(10), Some(path));
    seconds(50).await;
    assert_eq!(
        csms.transactions()[0],
        Got { at: 40, action: "StopTransaction".into(), ..csms.transactions()[0].clone() }
    );
}

#[tokio::test(start_paused = true)]
async fn server_triggers_the_boot_of_a_pending_station() {
    let (csms, server, _news) = Csms::new(|action, nth, session| match (action, nth) {
        ("BootNotification", 0) => Some(Ok(json!({"status": "Pending", "interval": 1000}))),
        _ => accept(action, nth, session),
    });
    let _station = station(&server, "ocpp1.6");
    seconds(5).await;
    let trigger = json!({"requestedMessage": "BootNotification"});
    let session = server.session("CP-1").expect("connected");
    let result: Value = session.call("TriggerMessage", &trigger).await.expect("a result");
    assert_eq!(result["status"], "Accepted");
    seconds(1).await;
    let boots = csms.calls().iter().filter(|call| call.action == "BootNotification").count();
    assert_eq!((boots, csms.transactions().len()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn triggered_heartbeats_do_not_postpone_the_next_boot() {
    let (csms, server, _news) = Csms::new(|action, nth, session| match (action, nth) {
        ("BootNotification", 0) => Some(Ok(json!({"status": "Pending", "interval": 40}))),
        _ => accept(action, nth, session),
    });
    let _station = station(&server, "ocpp1.6");
    seconds(5).await;
    for _ in 0..4 {
        let trigger = json!({"requestedMessage": "Heartbeat"});
        server.station("CP-1").call::<Value>("TriggerMessage", &trigger).await.expect("a result");
        seconds(15).await;
    }
    let boots = csms.calls().into_iter().filter(|call| call.action == "BootNotification").map(|call| call.at);
    assert_eq!(boots.collect::<Vec<_>>(), [0, 40]);
}

#[tokio::test(start_paused = true)]
async fn interval_beyond_an_integer_of_the_standard_is_ignored() {
    let (csms, server, _news) = Csms::new(|action, nth, session| match action {
        "BootNotification" => Some(Ok(json!({"status": "Accepted", "interval": u64::MAX}))),
        _ => accept(action, nth, session),
    });
    let _station = station_with(&server, "ocpp1.6", None, None);
    seconds(100).await;
    let heartbeats = csms.calls().into_iter().filter(|call| call.action == "Heartbeat").map(|call| call.at);
    assert_eq!(heartbeats.collect::<Vec<_>>(), [30, 60, 90]);
}

#[tokio::test(start_paused = true)]
async fn rejected_message_is_sent_again_after_growing_waits() {
    let (csms, server, _news) = Csms::new(|action, nth, session| match (action, nth) {
        ("StartTransaction", 0 | 1) => reject(),
        _ => accept(action, nth, session),
    });
    let _station = station(&server, "ocpp1.6");
    seconds(200).await;
    let calls = csms.transactions();
    let starts: Vec<_> = calls.iter().filter(|call| call.action == "StartTransaction").map(|call| call.at).collect();
    // The interval of the station is 60 s.
    assert_eq!(starts[..3], [0, 60, 180]);
    // All others wait, and get the id of the transaction.
    let calls = unique(calls);
    assert_eq!(calls[0].action, "StartTransaction");
    let stop = calls.iter().position(|call| call.action == "StopTransaction").expect("a stop");
    assert!(calls[1..=stop].iter().all(|call| call.at >= 180 && call.params["transactionId"] == 7), "{calls:?}");
    assert_ordered(&calls[1..stop]);
}

#[tokio::test(start_paused = true)]
async fn message_is_dropped_after_its_attempts() {
    let (csms, server, _news) = Csms::new(|action, nth, session| match (action, nth) {
        ("StartTransaction", 0..3) => reject(),
        _ => accept(action, nth, session),
    });
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("dropped.log");
    let log = fs::File::create(&path).expect("a file");
    let _logging = tracing::subscriber::set_default(tracing_subscriber::fmt().with_writer(Arc::new(log)).finish());
    let _station = station(&server, "ocpp1.6");
    seconds(200).await;
    let calls = unique(csms.transactions());
    assert_eq!((&*calls[0].action, &*calls[1].action), ("StartTransaction", "MeterValues"));
    assert_eq!(calls[1].params["transactionId"], -1);
    let logged = fs::read_to_string(path).expect("UTF-8");
    assert!(logged.contains("the message is dropped") && logged.contains("meterStart"), "{logged}");
    assert!(!logged.contains("DEMO-TAG"), "{logged}");
}

#[tokio::test(start_paused = true)]
async fn server_sets_the_attempts() {
    let (csms, server, _news) = Csms::new(|action, nth, session| match (action, nth) {
        // The variables are set before the first message.
        ("BootNotification", 0) => Some(Ok(json!({"status": "Pending", "interval": 5}))),
        ("TransactionEvent", 0..2) => reject(),
        _ => accept(action, nth, session),
    });
    let _station = station(&server, "ocpp2.0.1");
    server.station("CP-1").connected(Duration::from_secs(1)).await.expect("connected");
    let set = |name: &str, value: &str| json!({"component": {"name": "OCPPCommCtrlr"}, "variable": {"name": name}, "attributeValue": value});
    let variables = json!({"setVariableData": [set("MessageAttempts", "2"), set("MessageAttemptInterval", "25")]});
    let result: Value = server.station("CP-1").call("SetVariables", &variables).await.expect("a result");
    assert_eq!(result["setVariableResult"][1]["attributeStatus"], "Accepted");
    seconds(60).await;
    let events: Vec<_> = csms.transactions().iter().map(|call| (call.at, call.params["seqNo"].clone())).collect();
    assert_eq!(events[..3], [(5, json!(0)), (30, json!(0)), (30, json!(1))]);
}

#[tokio::test(start_paused = true)]
async fn lost_connection_is_no_attempt() {
    let (csms, server, _news) = Csms::new(|action, nth, session| match (action, nth) {
        ("TransactionEvent", 0..8) => {
            let session = session.clone();
            tokio::spawn(async move { session.close(Close::forced()).await });
            None
        }
        _ => accept(action, nth, session),
    });
    let _station = station(&server, "ocpp2.0.1");
    seconds(150).await;
    let calls = csms.transactions();
    assert!(calls[..9].iter().all(|call| call == &Got { at: call.at, ..calls[0].clone() }), "{calls:?}");
    let calls = unique(calls);
    let events: Vec<_> = calls.iter().map(|call| call.params["eventType"].as_str().expect("a text")).collect();
    assert_eq!(events[..3], ["Started", "Updated", "Updated"]);
    let numbers: Vec<_> = calls.iter().map(|call| call.params["seqNo"].as_u64().expect("a number")).collect();
    assert_eq!(numbers[..3], [0, 1, 2]);
    assert_ordered(&calls[..5]);
}

#[tokio::test(start_paused = true)]
async fn messages_wait_while_the_station_is_offline() {
    let (csms, server, _news) = Csms::new(accept);
    let station = station(&server, "ocpp2.0.1");
    seconds(15).await;
    let before = csms.transactions().len();
    station.is_offline.store(true, Ordering::Relaxed);
    server.session("CP-1").expect("connected").close(Close::forced()).await;
    seconds(60).await;
    assert_eq!(csms.transactions().len(), before);
    station.is_offline.store(false, Ordering::Relaxed);
    seconds(20).await;
    let calls = unique(csms.transactions());
    assert!(calls.len() > before + 4, "{calls:?}");
    let numbers: Vec<_> = calls.iter().map(|call| call.params["seqNo"].as_u64().expect("a number")).take(7).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6]);
}

/// The station as a process.
struct Process(Child);

impl Process {
    fn start(url: &str, data: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_charger"));
        command.args(["--url", url, "--identity", "CP-1", "--interval", "1", "--data"]).arg(data);
        Self(command.stdout(Stdio::null()).spawn().expect("the program"))
    }
}

impl Drop for Process {
    /// Kills the process as `kill -9` does.
    fn drop(&mut self) {
        self.0.kill().expect("a process");
        self.0.wait().expect("a process");
    }
}

fn directory(name: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&directory);
    directory
}

/// Waits for calls until there are those that the test needs.
async fn until(csms: &Csms, news: &mut mpsc::UnboundedReceiver<()>, enough: impl Fn(&[Got]) -> bool) {
    let waiting = async {
        while !enough(&csms.transactions()) {
            news.recv().await;
        }
    };
    timeout(Duration::from_secs(60), waiting).await.expect("the calls within 60 s");
}

#[tokio::test]
async fn messages_survive_a_killed_station() {
    let directory = directory("killed");
    // At first, the server never responds to messages about transactions.
    let (csms, server, mut news) = Csms::new(|action, nth, session| match action {
        "StartTransaction" | "MeterValues" | "StopTransaction" => None,
        _ => accept(action, nth, session),
    });
    let listener = server.listen("127.0.0.1:0").await.expect("a port");
    let url = format!("ws://{}", listener.local_addr());

    let station = Process::start(&url, &directory);
    server.station("CP-1").connected(Duration::from_secs(60)).await.expect("connected");
    until_started(&server).await;
    until(&csms, &mut news, |calls| !calls.is_empty()).await;
    // It has taken some meter values, which wait behind the start.
    let file = directory.join("CP-1.jsonl");
    let stored = async || fs::read_to_string(&file).unwrap_or_default().matches("MeterValues").count();
    while stored().await < 3 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(station);
    assert_eq!(csms.transactions().len(), 1, "the station waits for the response to its start");

    // Then it takes one, and the station is killed again.
    *csms.respond.lock().expect("no panic") = |action, nth, session| match (action, nth) {
        ("MeterValues", 1) => None,
        _ => accept(action, nth, session),
    };
    let station = Process::start(&url, &directory);
    until(&csms, &mut news, |calls| calls.iter().filter(|call| call.action == "MeterValues").count() == 2).await;
    drop(station);

    *csms.respond.lock().expect("no panic") = accept;
    let _station = Process::start(&url, &directory);
    until(&csms, &mut news, |calls| calls.iter().any(|call| call.action == "StopTransaction")).await;
    let calls = csms.transactions();
    assert_eq!((&calls[0].id, &calls[0].params), (&calls[1].id, &calls[1].params), "the start was repeated");
    let calls = unique(calls);
    let stop = calls.iter().position(|call| call.action == "StopTransaction").expect("a stop");
    assert_eq!(calls[stop].params["reason"], "PowerLoss");
    assert!(calls[1..=stop].iter().all(|call| call.params["transactionId"] == 7), "{calls:?}");
    assert!(calls[1..stop].iter().all(|call| call.action == "MeterValues"), "{calls:?}");
    assert_ordered(&calls[1..stop]);
}

/// Starts a transaction as soon as the station takes it.
async fn until_started(server: &RpcServer) {
    let start = json!({"connectorId": 1, "idTag": "TAG"});
    let station = server.station("CP-1");
    let result: Value = station.call("RemoteStartTransaction", &start).await.expect("a result");
    assert_eq!(result["status"], "Accepted");
}

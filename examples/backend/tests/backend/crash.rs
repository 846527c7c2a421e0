//! SIGKILL while stations charge, and a restart with the same database.

use std::collections::BTreeMap;

use ocpp_rpc::RpcClient;
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinSet};

use crate::support::{Backend, directory, event, start};

const STATIONS: usize = 20;
/// The transactions of each station.
const TRANSACTIONS: usize = 50;
const KILLS: usize = 4;

#[tokio::test]
async fn nothing_answered_is_lost_or_doubled_on_sqlite() {
    let file = directory("crash").join("backend.db");
    kill_and_restart(&format!("sqlite:{}", file.display())).await;
}

/// Kills the backend several times within 1,000 transactions, and checks all of them after the restart.
pub(crate) async fn kill_and_restart(database: &str) {
    let mut backend = Backend::with_database(database, "127.0.0.1:0", &[]);
    let address = backend.address().to_owned();
    let (answered, mut answers) = mpsc::unbounded_channel();
    let mut stations = JoinSet::new();
    for number in 0..STATIONS {
        let protocol = if number % 2 == 0 { "ocpp1.6" } else { "ocpp2.0.1" };
        let client = backend.station(&format!("CP-{number:02}"), protocol).await;
        stations.spawn(charge(client, answered.clone()));
    }
    for _ in 0..KILLS {
        for _ in 0..STATIONS * TRANSACTIONS / (KILLS + 1) {
            answers.recv().await.expect("the stations charge");
        }
        backend.kill();
        backend = Backend::with_database(database, &address, &[]);
    }

    // The transactions by the ids that the stations know.
    let mut known = BTreeMap::new();
    for (identity, ids) in stations.join_all().await {
        known.extend(ids.into_iter().enumerate().map(|(number, id)| ((identity.clone(), id), number)));
    }
    assert_eq!(known.len(), STATIONS * TRANSACTIONS, "each transaction has an id of its own");
    let recorded = backend.all("/api/transactions").await;
    assert_eq!(recorded.len(), STATIONS * TRANSACTIONS);
    for transaction in recorded {
        let text = |member: &str| transaction[member].as_str().unwrap_or_default().to_owned();
        let number = known.remove(&(text("station"), text("transaction_id"))).expect("a known transaction");
        let expected = start(number)["timestamp"].as_str().map(|date| date.replace('Z', ".000Z"));
        assert_eq!((Some(text("started_at")), text("stopped_at").is_empty()), (expected, false), "{transaction}");
    }
}

/// Runs transactions, and repeats each message until it is answered, as stations do.
async fn charge(station: RpcClient, answered: mpsc::UnboundedSender<()>) -> (String, Vec<String>) {
    let call = async |action: &str, params: &Value| loop {
        match station.call::<Value>(action, params).await {
            Ok(response) => return response,
            Err(error) if error.maybe_delivered() || error.is_retryable() => {}
            Err(error) => panic!("{action}: {error}"),
        }
    };
    let is_1_6 = station.session().protocol().as_deref() == Some("ocpp1.6");
    let mut ids = Vec::new();
    for number in 0..TRANSACTIONS {
        if is_1_6 {
            let id = call("StartTransaction", &start(number)).await["transactionId"].clone();
            let stop = json!({"transactionId": id, "meterStop": 9, "timestamp": "2026-01-02T00:00:00Z"});
            call("StopTransaction", &stop).await;
            ids.push(id.to_string());
        } else {
            call("TransactionEvent", &event(number, "Started", 0)).await;
            call("TransactionEvent", &event(number, "Ended", 1)).await;
            ids.push(format!("transaction-{number}"));
        }
        // The test receives half of them.
        let _ = answered.send(());
    }
    (station.session().identity().to_string(), ids)
}

#[tokio::test]
async fn journal_and_boots_survive_a_restart() {
    let directory = directory("restart");
    let arguments = ["--listen", "127.0.0.1:0"];
    let backend = Backend::start_in(&directory, &arguments);
    let station = backend.station("CP-1", "ocpp2.0.1").await;
    let boot = json!({"reason": "PowerUp", "chargingStation": {"vendorName": "Example", "model": "Wallbox"}});
    station.call::<Value>("BootNotification", &boot).await.expect("a response");
    let before = backend.all("/api/stations/CP-1/messages").await;
    assert_eq!(before.len(), 2);
    backend.kill();

    // The file in the working directory is the default.
    assert!(directory.join("backend.db").exists());
    let backend = Backend::start_in(&directory, &arguments);
    assert_eq!(backend.all("/api/messages").await[..].last(), before.last());
    let shown = backend.get("/api/stations/CP-1").await;
    assert_eq!((&shown["boot"]["vendor"], &shown["boot"]["protocol"]), (&json!("Example"), &json!("ocpp2.0.1")));
}

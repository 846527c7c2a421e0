//! Transactions: repeated, in parallel, out of order, unknown.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{Backend, event, start};

#[tokio::test]
async fn repeated_starts_in_parallel_are_recorded_once() {
    repeat_in_parallel(&Backend::start(&[])).await;
}

/// Sends messages several times at once and then once more.
pub(crate) async fn repeat_in_parallel(backend: &Backend) {
    let station_1_6 = backend.station("CP-1", "ocpp1.6").await;
    let station_2_0_1 = backend.station("CP-2", "ocpp2.0.1").await;
    let (start, event) = (start(1), event(1, "Started", 0));
    for (station, action, params) in
        [(&station_1_6, "StartTransaction", &start), (&station_2_0_1, "TransactionEvent", &event)]
    {
        let calls = (0..16).map(|_| async { station.call::<Value>(action, params).await.expect("a response") });
        let responses = join_all(calls).await;
        assert!(responses.iter().all(|response| *response == responses[0]), "{action}: {responses:?}");
    }
    // The stored response stays, even if the token would be rejected now.
    assert_eq!(backend.delete("/api/tokens/DEMO-TAG").await.0, 204);
    let repeated: Value = station_1_6.call("StartTransaction", &start).await.expect("a response");
    let listed = backend.all("/api/transactions").await;
    let of = |station: &str| listed.iter().find(|transaction| transaction["station"] == station).expect("recorded");
    assert_eq!(listed.len(), 2, "{listed:?}");
    assert_eq!(repeated, json!({"transactionId": of("CP-1")["id"], "idTagInfo": {"status": "Accepted"}}));
    let repeated: Value = station_2_0_1.call("TransactionEvent", &event).await.expect("a response");
    assert_eq!(repeated, json!({"idTokenInfo": {"status": "Accepted"}}));
    assert_eq!(of("CP-2")["transaction_id"], "transaction-1");
    // Another start differs in any part of the key.
    let mut other = start.clone();
    other["meterStart"] = json!(7);
    let other: Value = station_1_6.call("StartTransaction", &other).await.expect("a response");
    assert_ne!(other["transactionId"], of("CP-1")["id"]);
}

#[tokio::test]
async fn stop_of_unknown_transaction_is_kept() {
    let backend = Backend::start(&[]);
    let station = backend.station("CP-1", "ocpp1.6").await;
    let at = "2026-01-01T08:00:00Z";
    let stop = |id: i64, meter: i64| json!({"transactionId": id, "meterStop": meter, "timestamp": at});
    // Two transactions of an offline time have the same id. The last message is a repetition.
    for (transaction, meter) in [(-1, 10), (-1, 20), (77, 30), (77, 30)] {
        let response: Value = station.call("StopTransaction", &stop(transaction, meter)).await.expect("a response");
        assert_eq!(response, json!({}));
    }
    let kept = backend.all("/api/transactions").await;
    let kept: Vec<_> = kept
        .iter()
        .map(|kept| (kept["transaction_id"].clone(), kept["meter_stop"].clone(), &kept["started_at"]))
        .collect();
    let null = &Value::Null;
    let expected = [(json!("77"), json!(30), null), (json!("-1"), json!(20), null), (json!("-1"), json!(10), null)];
    assert_eq!(kept, expected);
}

#[tokio::test]
async fn transaction_of_another_station_is_not_stopped() {
    let backend = Backend::start(&[]);
    let (first, second) = (backend.station("CP-1", "ocpp1.6").await, backend.station("CP-2", "ocpp1.6").await);
    let started: Value = first.call("StartTransaction", &start(1)).await.expect("a response");
    let stop = json!({
        "transactionId": started["transactionId"], "meterStop": 9, "timestamp": "2026-01-01T08:00:00Z"
    });
    second.call::<Value>("StopTransaction", &stop).await.expect("a response");
    let of_first = backend.get("/api/transactions?station=CP-1").await;
    assert_eq!(of_first[0]["stopped_at"], Value::Null);
    first.call::<Value>("StopTransaction", &stop).await.expect("a response");
    let of_first = backend.get("/api/transactions?station=CP-1").await;
    assert_eq!(
        (&of_first[0]["stopped_at"], &of_first[0]["meter_stop"]),
        (&json!("2026-01-01T08:00:00.000Z"), &json!(9))
    );
}

#[tokio::test]
async fn events_of_a_transaction_arrive_in_any_order() {
    let backend = Backend::start(&[]);
    let station = backend.station("CP-1", "ocpp2.1").await;
    for event in [event(5, "Ended", 2), event(5, "Started", 0), event(5, "Updated", 1)] {
        station.call::<Value>("TransactionEvent", &event).await.expect("a response");
    }
    let listed = backend.get("/api/transactions").await;
    assert_eq!(listed.as_array().map(Vec::len), Some(1));
    let (started, stopped) = (&listed[0]["started_at"], &listed[0]["stopped_at"]);
    assert_eq!((started, stopped), (&json!("2026-01-01T00:05:00.000Z"), &json!("2026-01-01T00:05:00.000Z")));
}

#[tokio::test]
async fn meter_values_of_a_transaction_are_listed_once() {
    let backend = Backend::start(&[]);
    let station = backend.station("CP-1", "ocpp1.6").await;
    let started: Value = station.call("StartTransaction", &start(1)).await.expect("a response");
    let id = &started["transactionId"];
    let values = json!({"connectorId": 1, "transactionId": id, "meterValue": [{
        // Some stations leave out the time zone.
        "timestamp": "2026-01-01T09:00:00",
        "sampledValue": [{"value": "120"}, {"value": "230.5", "measurand": "Voltage", "phase": "L1", "unit": "V"}],
    }]});
    for _ in 0..2 {
        station.call::<Value>("MeterValues", &values).await.expect("a response");
    }
    let listed = backend.get(&format!("/api/transactions/{id}/meter_values")).await;
    let listed: Vec<_> = listed
        .as_array()
        .expect("a list")
        .iter()
        .map(|value| {
            assert_eq!(value["at"], "2026-01-01T09:00:00.000Z");
            (
                value["measurand"].as_str().expect("text"),
                value["value"].as_str().expect("text"),
                value["unit"].as_str().expect("text"),
            )
        })
        .collect();
    assert_eq!(listed, [("Energy.Active.Import.Register", "120", "Wh"), ("Voltage", "230.5", "V")]);
}

#[tokio::test]
async fn meter_values_of_a_date_are_in_one_page() {
    let backend = Backend::start(&[]);
    let station = backend.station("CP-1", "ocpp1.6").await;
    let started: Value = station.call("StartTransaction", &start(1)).await.expect("a response");
    let id = &started["transactionId"];
    for hour in 0..7 {
        let values = (0..50).map(|minute| {
            let sample = |phase| json!({"value": "230", "measurand": "Voltage", "phase": phase});
            json!({
                "timestamp": format!("2026-01-01T{hour:02}:{minute:02}:00Z"),
                "sampledValue": (["L1", "L2", "L3"].map(sample)),
            })
        });
        let values = json!({"connectorId": 1, "transactionId": id, "meterValue": values.collect::<Vec<_>>()});
        station.call::<Value>("MeterValues", &values).await.expect("a response");
    }
    let (mut after, mut pages) = (String::new(), Vec::new());
    while pages.last() != Some(&0) {
        let page = backend.get(&format!("/api/transactions/{id}/meter_values?after={after}")).await;
        let page = page.as_array().expect("a list");
        after = page.last().map_or(after, |last| last["at"].as_str().expect("a date").to_owned());
        pages.push(page.len());
    }
    assert_eq!(pages, [999, 51, 0]);
}

#[tokio::test]
async fn start_with_invalid_date_is_rejected_with_its_place() {
    let backend = Backend::start(&[]);
    let station = backend.station("CP-1", "ocpp1.6").await;
    let start = json!({"connectorId": 1, "idTag": "DEMO-TAG", "meterStart": 0, "timestamp": "yesterday"});
    let error = station.call::<Value>("StartTransaction", &start).await.expect_err("no date");
    assert!(error.to_string().contains("/timestamp"), "{error}");
}

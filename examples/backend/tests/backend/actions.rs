//! Responses to every action of a station.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::support::Backend;

/// Requests with the required members, by protocol and action.
fn requests() -> BTreeMap<String, BTreeMap<String, Value>> {
    serde_json::from_str(include_str!("requests.json")).expect("requests")
}

/// The actions that only a backend calls.
const TO_STATION: &str = "AFRRSignal AdjustPeriodicEventStream CancelReservation CertificateSigned ChangeAvailability \
    ChangeConfiguration ChangeTransactionTariff ClearCache ClearChargingProfile ClearDERControl ClearDisplayMessage \
    ClearTariffs ClearVariableMonitoring CostUpdated CustomerInformation DeleteCertificate ExtendedTriggerMessage \
    GetBaseReport GetChargingProfiles GetCompositeSchedule GetConfiguration GetDERControl GetDiagnostics \
    GetDisplayMessages GetInstalledCertificateIds GetLocalListVersion GetLog GetMonitoringReport \
    GetPeriodicEventStream GetReport GetTariffs GetTransactionStatus GetVariables InstallCertificate \
    NotifyAllowedEnergyTransfer NotifyWebPaymentStarted PublishFirmware RemoteStartTransaction RemoteStopTransaction \
    RequestBatterySwap RequestStartTransaction RequestStopTransaction ReserveNow Reset SendLocalList \
    SetChargingProfile SetDERControl SetDefaultTariff SetDisplayMessage SetMonitoringBase SetMonitoringLevel \
    SetNetworkProfile SetVariableMonitoring SetVariables SignedUpdateFirmware TriggerMessage UnlockConnector \
    UnpublishFirmware UpdateDynamicSchedule UpdateFirmware UsePriorityCharging";

#[test]
fn requests_cover_every_action_of_a_station() {
    let to_station: BTreeSet<&str> = TO_STATION.split_whitespace().collect();
    // A message without a response, see below.
    let sends = BTreeSet::from(["NotifyPeriodicEventStream"]);
    let requests = requests();
    let tables = include_str!("../../../../src/action/table.rs").split("macro_rules! ocpp").skip(1);
    let mut protocols = 0;
    for table in tables {
        let protocol = table.split_whitespace().next().expect("a name").replace('_', ".");
        let of_protocol = &requests[&format!("ocpp{protocol}")];
        for row in table.lines().filter(|line| line.contains("Request")) {
            let action = row.split('"').nth(1).expect("an action");
            let is_covered = of_protocol.contains_key(action) || to_station.contains(action) || sends.contains(action);
            assert!(is_covered, "{protocol}: {action}");
        }
        protocols += 1;
    }
    assert_eq!(protocols, 3);
}

/// Returns the response to an action if the backend does not offer the service.
fn rejection(action: &str) -> Option<Value> {
    let rejected = json!({"status": "Rejected"});
    match action {
        "SignCertificate" | "NotifyEVChargingNeeds" | "NotifyEVChargingSchedule" => Some(rejected),
        "PullDynamicScheduleUpdate" | "OpenPeriodicEventStream" => Some(rejected),
        "Get15118EVCertificate" => Some(json!({"status": "Failed", "exiResponse": ""})),
        "GetCertificateStatus" => Some(json!({"status": "Failed"})),
        "VatNumberValidation" => Some(json!({"status": "Rejected", "vatNumber": "text"})),
        "DataTransfer" => Some(json!({"status": "UnknownVendorId"})),
        _ => None,
    }
}

/// With the feature `ocpp-schemas`, the backend replaces a response by an error if the schema of OCPP rejects it.
#[tokio::test]
async fn every_action_of_every_version_gets_a_valid_response() {
    let backend = Backend::start(if cfg!(feature = "ocpp-schemas") { &["--strict"] } else { &[] });
    for (protocol, requests) in requests() {
        let station = backend.station("CP-1", &protocol).await;
        assert_eq!(station.session().protocol().as_deref(), Some(&*protocol));
        for (action, request) in requests {
            let response: Value =
                station.call(&action, &request).await.unwrap_or_else(|error| panic!("{protocol}: {action}: {error}"));
            if let Some(rejection) = rejection(&action) {
                assert_eq!(response, rejection, "{protocol}: {action}");
            }
            if action == "GetCertificateChainStatus" {
                assert_eq!(response["certificateStatus"][0]["status"], "Failed", "{response}");
            }
        }
    }
}

#[tokio::test]
async fn send_without_response_has_a_handler() {
    let backend = Backend::start(if cfg!(feature = "ocpp-schemas") { &["--strict"] } else { &[] });
    let station = backend.station("CP-1", "ocpp2.1").await;
    let stream = json!({"id": 1, "pending": 0, "basetime": "2026-01-01T00:00:00.000Z", "data": [{"t": 1.5, "v": "7"}]});
    station.session().send("NotifyPeriodicEventStream", &stream).await.expect("written");
    station.call::<Value>("Heartbeat", &json!({})).await.expect("a response");
    // The SEND, the Heartbeat and its response: the SEND was answered neither by an error nor otherwise.
    assert_eq!(backend.all("/api/stations/CP-1/messages").await.len(), 3);
}

#[tokio::test]
async fn dates_in_responses_have_three_decimals() {
    let backend = Backend::start(&[]);
    let station = backend.station("CP-1", "ocpp1.6").await;
    let boot = json!({"chargePointVendor": "Example", "chargePointModel": "Wallbox"});
    let boot: Value = station.call("BootNotification", &boot).await.expect("a response");
    let heartbeat: Value = station.call("Heartbeat", &json!({})).await.expect("a response");
    let listed = &backend.get("/api/stations").await[0];
    let shown = backend.get("/api/stations/CP-1").await;
    let message = &backend.get("/api/messages?limit=1").await[0];
    for date in [
        &boot["currentTime"],
        &heartbeat["currentTime"],
        &listed["connected_at"],
        &listed["last_seen_at"],
        &shown["boot"]["booted_at"],
        &message["at"],
    ] {
        let date = date.as_str().expect("a date");
        // Such as 2026-01-01T00:00:00.000Z.
        assert_eq!((date.len(), &date[19..20], &date[23..]), (24, ".", "Z"), "{date}");
    }
}

#[tokio::test]
async fn unknown_token_is_invalid_and_added_token_is_accepted() {
    let backend = Backend::start(&[]);
    let station_1_6 = backend.station("CP-1", "ocpp1.6").await;
    let station_2_1 = backend.station("CP-2", "ocpp2.1").await;
    let statuses = async |token: &str| {
        let id_token = json!({"idToken": {"idToken": token, "type": "Central"}});
        let of_1_6: Value = station_1_6.call("Authorize", &json!({"idTag": token})).await.expect("a response");
        let of_2_1: Value = station_2_1.call("Authorize", &id_token).await.expect("a response");
        let statuses = [&of_1_6["idTagInfo"]["status"], &of_2_1["idTokenInfo"]["status"]];
        statuses.map(|status| status.as_str().expect("a status").to_owned())
    };
    assert_eq!(statuses("DEMO-TAG").await, ["Accepted"; 2]);
    // OCPP compares tokens without regard to case.
    assert_eq!(statuses("demo-tag").await, ["Accepted"; 2]);
    assert_eq!(statuses("DEMO-BLOCKED").await, ["Blocked"; 2]);
    assert_eq!(statuses("CARD/7").await, ["Invalid"; 2]);
    assert_eq!(backend.post("/api/tokens", &json!({"token": "CARD/7"})).await.0, 201);
    assert_eq!(statuses("CARD/7").await, ["Accepted"; 2]);
    assert_eq!(backend.delete("/api/tokens/card%2F7").await.0, 204);
    assert_eq!(statuses("CARD/7").await, ["Invalid"; 2]);

    let start: Value = station_1_6
        .call(
            "StartTransaction",
            &json!({
                "connectorId": 1, "idTag": "CARD/7", "meterStart": 0, "timestamp": "2026-01-01T00:00:00Z",
            }),
        )
        .await
        .expect("a response");
    assert_eq!((&start["idTagInfo"]["status"], start["transactionId"].is_i64()), (&json!("Invalid"), true));

    // A certificate that the backend cannot check does not authorise.
    let contract = json!({"idToken": {"idToken": "DEMO-TAG", "type": "eMAID"}, "certificate": "PEM"});
    let response: Value = station_2_1.call("Authorize", &contract).await.expect("a response");
    let rejected = json!({"idTokenInfo": {"status": "Invalid"}, "certificateStatus": "NoCertificateAvailable"});
    assert_eq!(response, rejected);
    let button = json!({"idToken": {"idToken": "", "type": "NoAuthorization"}});
    let response: Value = station_2_1.call("Authorize", &button).await.expect("a response");
    assert_eq!(response["idTokenInfo"]["status"], "Accepted");
}

//! The built-in OCPP schemas, which need no schema files, as both ends see them.

use std::convert::Infallible;

use ocpp_rpc::{
    Error, Options, RpcRouter,
    extract::Params,
    validate::{OcppSchemas, Validation},
};
use serde_json::{Value, json};

use crate::support::{SECOND, connected, echo, server_with};

#[tokio::test(start_paused = true)]
async fn b42_ocpp_versions_are_validated_without_schema_files() {
    // Protocol, a valid request, and the error code for a request without its required members.
    for (protocol, boot, code) in [
        ("ocpp1.6", json!({"chargePointVendor": "ACME", "chargePointModel": "1"}), "OccurenceConstraintViolation"),
        (
            "ocpp2.0.1",
            json!({"reason": "PowerUp", "chargingStation": {"vendorName": "ACME", "model": "1"}}),
            "OccurrenceConstraintViolation",
        ),
        (
            "ocpp2.1",
            json!({"reason": "PowerUp", "chargingStation": {"vendorName": "ACME", "model": "1"}}),
            "OccurrenceConstraintViolation",
        ),
    ] {
        async fn accept(_: Params<Value>) -> Result<Value, Infallible> {
            Ok(json!({"status": "Accepted", "interval": 300, "currentTime": "2026-01-01T00:00:00Z"}))
        }
        let router = RpcRouter::new().on("BootNotification", accept).fallback(echo);
        let server = server_with(router, Options::server().validation(Validation::new(OcppSchemas)));
        let (mut station, session) = connected(&server, protocol).await;
        let response = station.ask(json!([2, "1", "BootNotification", boot]).to_string()).await;
        assert!(response.starts_with(r#"[3,"1",{"#), "{protocol}: {response}");
        let response = station.ask(r#"[2,"2","BootNotification",{}]"#).await;
        assert!(response.starts_with(&format!(r#"[4,"2","{code}","/"#)), "{protocol}: {response}");
        // The fallback is not called for an action that the version does not define.
        let response = station.ask(r#"[2,"3","Dance",{}]"#).await;
        assert!(response.starts_with(r#"[4,"3","NotImplemented","#), "{protocol}: {response}");
        let failed = session.call::<Value>("Reset", &json!({"type": "Gently"})).await;
        assert!(matches!(failed, Err(Error::Invalid(violation)) if violation.pointer() == "/type"), "{protocol}");
        station.silent().await;
    }
}

#[tokio::test(start_paused = true)]
async fn b44_multiple_of_a_tenth_is_valid_despite_rounding() {
    let server = server_with(RpcRouter::new(), Options::server().validation(Validation::new(OcppSchemas)));
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let profile = |limit: &str| -> Value {
        let text = format!(
            r#"{{"connectorId":1,"csChargingProfiles":{{"chargingProfileId":1,"stackLevel":0,
            "chargingProfilePurpose":"TxProfile","chargingProfileKind":"Absolute","chargingSchedule":
            {{"chargingRateUnit":"A","chargingSchedulePeriod":[{{"startPeriod":0,"limit":{limit}}}]}}}}}}"#
        );
        serde_json::from_str(&text).expect("JSON")
    };
    let computed = ["0.30000000000000004", "21.700000000000003", "0.9999999999999999", "0.29999999999999716"];
    for limit in
        ["0.1", "0.3", "0.7", "1.1", "21.4", "1e-1", "8.3", "100000000.1", "16", "16.0"].iter().chain(&computed)
    {
        let written = session.call::<Value>("SetChargingProfile", &profile(limit)).timeout(SECOND).await;
        assert!(matches!(written, Err(Error::Timeout)), "{limit} is sent: {written:?}");
        station.receive_call().await;
    }
    for limit in ["0.15", "0.31", "0.01", "21.44", "0.3000000001"] {
        let refused = session.call::<Value>("SetChargingProfile", &profile(limit)).await;
        assert!(matches!(&refused, Err(Error::Invalid(_))), "{limit}: {refused:?}");
    }
    station.silent().await;
}

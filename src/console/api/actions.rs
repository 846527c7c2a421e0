//! `GET api/actions`: the actions of a station that a server may call, with parameters to begin with.

use axum::{
    extract::{Query, rejection::QueryRejection},
    response::{IntoResponse, Response},
};
use http::header;
use serde::Deserialize;

use crate::console::api::error::ApiError;

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Selection {
    protocol: String,
}

pub(super) async fn actions(selection: Result<Query<Selection>, QueryRejection>) -> Result<Response, ApiError> {
    let Query(selection) = selection?;
    Ok(([(header::CONTENT_TYPE, "application/json")], templates(&selection.protocol)).into_response())
}

/// Returns the actions of a protocol. An unknown protocol has none.
fn templates(protocol: &str) -> &'static str {
    match protocol {
        "ocpp1.6" => include_str!("../actions/ocpp1.6.json"),
        "ocpp2.0.1" => include_str!("../actions/ocpp2.0.1.json"),
        "ocpp2.1" => include_str!("../actions/ocpp2.1.json"),
        _ => r#"{"actions": []}"#,
    }
}

#[cfg(feature = "ocpp-schemas")]
#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        action::table,
        message::payload::Payload,
        validate::{
            OcppSchemas,
            validator::{PayloadContext, PayloadKind, Validator},
        },
    };

    #[derive(Deserialize)]
    struct Templates {
        actions: Vec<Template>,
    }

    #[derive(Deserialize)]
    struct Template {
        action: String,
        params: Payload,
    }

    fn read(protocol: &str) -> Vec<Template> {
        serde_json::from_str::<Templates>(templates(protocol)).expect("JSON").actions
    }

    macro_rules! names {
        ($version:ident; $($name:literal: $request:ident $(=> $response:ident)?;)*) => { &[$($name),*] };
    }

    /// The actions that only stations call.
    const OF_STATIONS: [&str; 38] = [
        "Authorize",
        "BatterySwap",
        "BootNotification",
        "ClearedChargingLimit",
        "ClosePeriodicEventStream",
        "DiagnosticsStatusNotification",
        "FirmwareStatusNotification",
        "GetCertificateChainStatus",
        "GetCertificateStatus",
        "Get15118EVCertificate",
        "Heartbeat",
        "LogStatusNotification",
        "MeterValues",
        "NotifyChargingLimit",
        "NotifyCustomerInformation",
        "NotifyDERAlarm",
        "NotifyDERStartStop",
        "NotifyDisplayMessages",
        "NotifyEVChargingNeeds",
        "NotifyEVChargingSchedule",
        "NotifyEvent",
        "NotifyMonitoringReport",
        "NotifyPeriodicEventStream",
        "NotifyPriorityCharging",
        "NotifyReport",
        "NotifySettlement",
        "OpenPeriodicEventStream",
        "PublishFirmwareStatusNotification",
        "PullDynamicScheduleUpdate",
        "ReportChargingProfiles",
        "ReportDERControl",
        "ReservationStatusUpdate",
        "SecurityEventNotification",
        "SignCertificate",
        "SignedFirmwareStatusNotification",
        "StartTransaction",
        "StatusNotification",
        "StopTransaction",
    ];

    #[test]
    fn every_action_of_a_server_has_a_template() {
        let of_stations: BTreeSet<&str> =
            OF_STATIONS.into_iter().chain(["TransactionEvent", "VatNumberValidation"]).collect();
        let tables: [(&str, &[&str]); 3] = [
            ("ocpp1.6", table::ocpp1_6!(names)),
            ("ocpp2.0.1", table::ocpp2_0_1!(names)),
            ("ocpp2.1", table::ocpp2_1!(names)),
        ];
        for (protocol, names) in tables {
            let templates = read(protocol);
            let templates: BTreeSet<&str> = templates.iter().map(|template| &*template.action).collect();
            let of_servers = names.iter().copied().filter(|name| !of_stations.contains(name)).collect();
            assert_eq!(templates, of_servers, "{protocol}");
        }
        assert!(read("acme1").is_empty());
    }

    #[test]
    fn templates_are_valid() {
        for protocol in ["ocpp1.6", "ocpp2.0.1", "ocpp2.1"] {
            for Template { action, params } in read(protocol) {
                let context = PayloadContext::new(protocol, &action, PayloadKind::Request, &params);
                let valid = OcppSchemas.validate(&context);
                assert!(valid.is_ok(), "{protocol} {action}: {}", valid.expect_err("invalid"));
            }
        }
    }
}

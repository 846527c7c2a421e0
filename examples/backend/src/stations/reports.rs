//! Reports of a station on itself, data of vendors, and payments.

use std::convert::Infallible;

use ocpp_rpc::{RpcRouter, extract::Params};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{acknowledge, reject};

/// The actions of all versions that get an empty response.
const REPORTS: &[&str] = &[
    "DiagnosticsStatusNotification",
    "FirmwareStatusNotification",
    "LogStatusNotification",
    "NotifyCustomerInformation",
    "NotifyDisplayMessages",
    "NotifyEvent",
    "NotifyMonitoringReport",
    "NotifyReport",
    "NotifySettlement",
    "PublishFirmwareStatusNotification",
    "SecurityEventNotification",
    "SignedFirmwareStatusNotification",
    // A message without a response.
    "NotifyPeriodicEventStream",
    "ClosePeriodicEventStream",
];

pub(super) fn router() -> RpcRouter {
    let router = RpcRouter::new()
        .on("DataTransfer", data_transfer)
        .on("OpenPeriodicEventStream", reject)
        .on("VatNumberValidation", vat_number);
    REPORTS.iter().fold(router, |router, action| router.on(action, acknowledge))
}

async fn data_transfer() -> Result<Value, Infallible> {
    Ok(json!({"status": "UnknownVendorId"}))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VatNumber {
    vat_number: String,
}

async fn vat_number(Params(VatNumber { vat_number }): Params<VatNumber>) -> Result<Value, Infallible> {
    Ok(json!({"status": "Rejected", "vatNumber": vat_number}))
}

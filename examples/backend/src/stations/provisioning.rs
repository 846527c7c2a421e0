//! Boots.

use ocpp_rpc::{
    CallError, RpcRouter, Session,
    extract::{Params, State},
};
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::AnyPool;

use super::App;
use crate::date;

/// The seconds between heartbeats.
const INTERVAL: u32 = 300;

pub(super) fn router(app: App) -> RpcRouter<App> {
    let ocpp1_6 = RpcRouter::with_state(app.clone()).on("BootNotification", boot_1_6);
    RpcRouter::with_state(app).protocol("ocpp1.6", ocpp1_6).on("BootNotification", boot)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Boot {
    charging_station: ChargingStation,
}

/// The member of a boot of 2.x, or a whole boot of 1.6.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ChargingStation {
    #[serde(alias = "chargePointVendor")]
    vendor_name: String,
    #[serde(alias = "chargePointModel")]
    model: String,
    #[serde(alias = "chargePointSerialNumber")]
    serial_number: Option<String>,
    firmware_version: Option<String>,
}

async fn boot_1_6(
    Params(station): Params<ChargingStation>,
    State(app): State<App>,
    session: Session,
) -> Result<Value, CallError> {
    accept(&station, &app.database, &session).await
}

async fn boot(Params(boot): Params<Boot>, State(app): State<App>, session: Session) -> Result<Value, CallError> {
    accept(&boot.charging_station, &app.database, &session).await
}

async fn accept(station: &ChargingStation, database: &AnyPool, session: &Session) -> Result<Value, CallError> {
    let now = date::now();
    let upsert = sqlx::query(
        "INSERT INTO stations (identity, protocol, vendor, model, serial_number, firmware_version, booted_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
        ON CONFLICT (identity) DO UPDATE SET protocol = excluded.protocol, vendor = excluded.vendor,
            model = excluded.model, serial_number = excluded.serial_number,
            firmware_version = excluded.firmware_version, booted_at = excluded.booted_at",
    );
    let identity = session.identity();
    let upsert = upsert.bind(&*identity).bind(session.protocol().unwrap_or_default().to_string());
    let upsert = upsert.bind(&station.vendor_name).bind(&station.model);
    let upsert = upsert.bind(&station.serial_number).bind(&station.firmware_version).bind(&now);
    upsert.execute(database).await?;
    tracing::info!(station = &*identity, vendor = station.vendor_name, model = station.model, "booted");
    Ok(json!({"status": "Accepted", "interval": INTERVAL, "currentTime": now}))
}

//! Meter values, within transactions and outside.

use ocpp_rpc::{
    CallError, RpcRouter, Session,
    extract::{Params, State},
};
use serde::Deserialize;
use serde_json::Value;
use sqlx::AnyConnection;

use super::App;
use crate::date::Date;

pub(super) fn router(app: App) -> RpcRouter<App> {
    RpcRouter::with_state(app).on("MeterValues", meter_values)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MeterValues {
    /// The EVSE of 2.x, or the connector of 1.6.
    #[serde(alias = "connectorId")]
    evse_id: i64,
    /// Only in 1.6.
    transaction_id: Option<i64>,
    meter_value: Vec<MeterValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MeterValue {
    timestamp: Date,
    sampled_value: Vec<SampledValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SampledValue {
    /// A number in 2.x, and text in 1.6, which can be signed data.
    value: Value,
    measurand: Option<String>,
    phase: Option<String>,
    location: Option<String>,
    context: Option<String>,
    format: Option<String>,
    unit: Option<String>,
    unit_of_measure: Option<UnitOfMeasure>,
}

#[derive(Deserialize)]
struct UnitOfMeasure {
    unit: Option<String>,
    multiplier: Option<i64>,
}

async fn meter_values(
    Params(values): Params<MeterValues>,
    State(app): State<App>,
    session: Session,
) -> Result<(), CallError> {
    let id = values.transaction_id.map_or_else(String::new, |id| id.to_string());
    let mut transaction = app.database.begin().await?;
    insert(&mut transaction, &session.identity(), Some(values.evse_id), &id, &values.meter_value).await?;
    Ok(transaction.commit().await?)
}

/// Stores the values that are not stored yet. Text that a station leaves out gets the default of the standard.
pub(super) async fn insert<'a>(
    connection: &mut AnyConnection,
    station: &str,
    evse_id: Option<i64>,
    transaction_id: &str,
    values: &'a [MeterValue],
) -> sqlx::Result<()> {
    for meter_value in values {
        for sample in &meter_value.sampled_value {
            let measurand = sample.measurand.as_deref().unwrap_or("Energy.Active.Import.Register");
            let default_unit = if measurand.starts_with("Energy.Active") { "Wh" } else { "" };
            let value = sample.value.as_str().map_or_else(|| sample.value.to_string(), str::to_owned);
            let insert = sqlx::query(
                "INSERT INTO meter_values (station, evse_id, transaction_id, at, measurand, phase, location, context,
                    format, value, unit, multiplier)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT DO NOTHING",
            );
            let text = |text: &'a Option<String>, default: &'a str| text.as_deref().unwrap_or(default);
            let insert =
                insert.bind(station).bind(evse_id.unwrap_or(0)).bind(transaction_id).bind(&meter_value.timestamp.0);
            let insert = insert.bind(measurand).bind(text(&sample.phase, "")).bind(text(&sample.location, "Outlet"));
            let insert = insert.bind(text(&sample.context, "Sample.Periodic")).bind(text(&sample.format, "Raw"));
            let unit = sample.unit_of_measure.as_ref();
            let insert = insert.bind(value).bind(text(unit.map_or(&sample.unit, |unit| &unit.unit), default_unit));
            let insert = insert.bind(unit.and_then(|unit| unit.multiplier).unwrap_or(0));
            insert.execute(&mut *connection).await?;
        }
    }
    Ok(())
}

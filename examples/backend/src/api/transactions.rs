//! Transactions and their meter values.

use axum::{
    Json,
    extract::{Path, Query, State},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Api, MAX_LIMIT, Page, StationQuery, error::ApiError};
use crate::database;

/// A transaction.
#[derive(Serialize, Deserialize, ToSchema)]
pub(super) struct Transaction {
    id: i64,
    station: String,
    protocol: String,
    /// The id between station and backend.
    transaction_id: String,
    /// The EVSE of OCPP 2.x, or the connector of 1.6.
    evse_id: Option<i64>,
    id_token: Option<String>,
    /// Null if only later messages of the transaction have arrived.
    started_at: Option<String>,
    stopped_at: Option<String>,
    /// In Wh. Only in OCPP 1.6.
    meter_start: Option<i64>,
    meter_stop: Option<i64>,
    stop_reason: Option<String>,
}

/// Returns the latest transactions of one or all stations.
#[utoipa::path(
    get,
    path = "/api/transactions",
    params(StationQuery, Page),
    responses((status = 200, description = "the transactions", body = Vec<Transaction>), ApiError)
)]
pub(super) async fn transactions(
    State(api): State<Api>,
    Query(StationQuery { station }): Query<StationQuery>,
    Query(page): Query<Page>,
) -> Result<Json<Vec<Transaction>>, ApiError> {
    let sql = format!(
        "SELECT id, station, protocol, COALESCE(transaction_id, CAST(id AS TEXT)) AS transaction_id, evse_id, id_token,
            started_at, stopped_at, meter_start, meter_stop, stop_reason
        FROM transactions WHERE id < $1 AND {} ORDER BY id DESC LIMIT $2",
        super::of_station(station.as_deref())
    );
    let rows = sqlx::query(&sql).bind(page.before()).bind(page.limit()).bind(station.unwrap_or_default());
    Ok(Json(database::read(&rows.fetch_all(&api.database).await?)?))
}

/// A sampled value.
#[derive(Serialize, Deserialize, ToSchema)]
pub(super) struct MeterValue {
    at: String,
    measurand: String,
    phase: String,
    location: String,
    context: String,
    value: String,
    unit: String,
    /// The power of ten to multiply the value by.
    multiplier: i64,
}

/// Returns the first meter values of a transaction, at most 1000, or those after a date. All of a date come together.
#[utoipa::path(
    get,
    path = "/api/transactions/{id}/meter_values",
    params(("id" = i64, Path), After),
    responses((status = 200, description = "the values", body = Vec<MeterValue>), ApiError)
)]
pub(super) async fn meter_values(
    State(api): State<Api>,
    Path(id): Path<i64>,
    Query(After { after }): Query<After>,
) -> Result<Json<Vec<MeterValue>>, ApiError> {
    let rows = sqlx::query(
        "SELECT v.at, v.measurand, v.phase, v.location, v.context, v.value, v.unit, v.multiplier
        FROM transactions t JOIN meter_values v
            ON v.station = t.station AND v.transaction_id = COALESCE(t.transaction_id, CAST(t.id AS TEXT))
        WHERE t.id = $1 AND v.at > $2 ORDER BY v.at LIMIT $3",
    )
    .bind(id)
    .bind(after)
    .bind(MAX_LIMIT + 1)
    .fetch_all(&api.database)
    .await?;
    let mut values: Vec<MeterValue> = database::read(&rows)?;
    if let Some(next) = values.get(MAX_LIMIT as usize) {
        // The next request leaves out everything of the last date here.
        let whole = values.partition_point(|value| value.at < next.at);
        values.truncate(if whole > 0 { whole } else { MAX_LIMIT as usize });
    }
    Ok(Json(values))
}

#[derive(Deserialize, IntoParams)]
pub(super) struct After {
    /// Returns the values after this date.
    #[serde(default)]
    after: String,
}

//! Transactions. A repeated message is recorded once, because unique indexes of the database recognise it, also if both
//! arrive at the same time. If it starts a transaction or is an event of one, it gets the stored response.

use ocpp_rpc::{
    CallError, RpcRouter, Session,
    extract::{Params, State},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    App,
    authorisation::{self, IdToken},
    metering::{self, MeterValue},
};
use crate::date::Date;

pub(super) fn router(app: App) -> RpcRouter<App> {
    RpcRouter::with_state(app).on("StartTransaction", start).on("StopTransaction", stop).on("TransactionEvent", event)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StartTransaction {
    connector_id: i64,
    id_tag: String,
    meter_start: i64,
    timestamp: Date,
}

/// Records a transaction also if its token is not accepted, because it may have started offline.
async fn start(
    Params(start): Params<StartTransaction>,
    State(app): State<App>,
    session: Session,
) -> Result<Value, CallError> {
    let station = session.identity();
    let status = authorisation::status(&app.database, &start.id_tag).await?;
    // The update changes nothing. It makes the statement return the row of the first message.
    let insert = sqlx::query_as(
        "INSERT INTO transactions (station, protocol, evse_id, id_token, started_at, meter_start, id_token_status)
        VALUES ($1, 'ocpp1.6', $2, $3, $4, $5, $6)
        ON CONFLICT (station, evse_id, id_token, started_at, meter_start) DO UPDATE SET station = excluded.station
        RETURNING id, id_token_status",
    );
    let insert = insert.bind(&*station).bind(start.connector_id).bind(&start.id_tag).bind(&start.timestamp.0);
    let insert = insert.bind(start.meter_start).bind(status);
    let (id, status): (i64, String) = insert.fetch_one(&app.database).await?;
    tracing::info!(station = &*station, transaction = id, connector = start.connector_id, status, "charging");
    Ok(json!({"transactionId": id, "idTagInfo": {"status": status}}))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StopTransaction {
    transaction_id: i64,
    id_tag: Option<String>,
    meter_stop: i64,
    timestamp: Date,
    reason: Option<String>,
    #[serde(default)]
    transaction_data: Vec<MeterValue>,
}

/// Keeps the stop of an unknown transaction as a transaction without a start.
async fn stop(
    Params(stop): Params<StopTransaction>,
    State(app): State<App>,
    session: Session,
) -> Result<Value, CallError> {
    let station = session.identity();
    let id = stop.transaction_id.to_string();
    let response = match &stop.id_tag {
        Some(id_tag) => {
            let status = authorisation::status(&app.database, id_tag).await?;
            json!({"idTagInfo": {"status": status}})
        }
        None => json!({}),
    };
    let mut transaction = app.database.begin().await?;
    let update = sqlx::query_scalar(
        "UPDATE transactions SET stopped_at = COALESCE(stopped_at, $3), meter_stop = COALESCE(meter_stop, $4),
            stop_reason = COALESCE(stop_reason, $5)
        WHERE id = $1 AND station = $2 AND protocol = 'ocpp1.6' AND transaction_id IS NULL
        RETURNING evse_id",
    );
    let update = update.bind(stop.transaction_id).bind(&*station);
    let update = update.bind(&stop.timestamp.0).bind(stop.meter_stop).bind(&stop.reason);
    let known: Option<Option<i64>> = update.fetch_optional(&mut *transaction).await?;
    if known.is_none() {
        let insert = sqlx::query(
            "INSERT INTO transactions (station, protocol, transaction_id, stopped_at, meter_stop, stop_reason)
            VALUES ($1, 'ocpp1.6', $2, $3, $4, $5) ON CONFLICT DO NOTHING",
        );
        let insert = insert.bind(&*station).bind(&id);
        let insert = insert.bind(&stop.timestamp.0).bind(stop.meter_stop).bind(&stop.reason);
        insert.execute(&mut *transaction).await?;
        tracing::warn!(station = &*station, transaction = id, "an unknown transaction stopped");
    }
    metering::insert(&mut transaction, &station, known.flatten(), &id, &stop.transaction_data).await?;
    transaction.commit().await?;
    Ok(response)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TransactionEvent {
    event_type: String,
    trigger_reason: String,
    timestamp: Date,
    seq_no: i64,
    transaction_info: TransactionInfo,
    id_token: Option<IdToken>,
    evse: Option<Evse>,
    #[serde(default)]
    meter_value: Vec<MeterValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TransactionInfo {
    transaction_id: String,
    stopped_reason: Option<String>,
}

#[derive(Deserialize)]
struct Evse {
    id: i64,
}

async fn event(
    Params(event): Params<TransactionEvent>,
    State(app): State<App>,
    session: Session,
) -> Result<Value, CallError> {
    let station = session.identity();
    let (id, token) = (&event.transaction_info.transaction_id, &event.id_token);
    let status = match token {
        Some(token) => Some(token.status(&app.database).await?),
        None => None,
    };
    let response = status.as_ref().map_or_else(|| json!({}), |status| json!({"idTokenInfo": {"status": status}}));
    let mut transaction = app.database.begin().await?;
    let insert = sqlx::query(
        "INSERT INTO transaction_events (station, transaction_id, seq_no, event_type, trigger_reason, at, response)
        VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
    );
    let insert = insert.bind(&*station).bind(id).bind(event.seq_no).bind(&event.event_type).bind(&event.trigger_reason);
    let insert = insert.bind(&event.timestamp.0).bind(response.to_string());
    if insert.execute(&mut *transaction).await?.rows_affected() == 0 {
        let stored = sqlx::query_scalar(
            "SELECT response FROM transaction_events WHERE station = $1 AND transaction_id = $2 AND seq_no = $3",
        );
        let stored = stored.bind(&*station).bind(id).bind(event.seq_no);
        let stored: String = stored.fetch_one(&mut *transaction).await?;
        return Ok(serde_json::from_str(&stored)?);
    }
    // Stations send the events of an offline time later, so the events of a transaction may arrive in any order.
    let at = |event_type: &str| (event.event_type == event_type).then_some(&event.timestamp.0);
    let upsert = sqlx::query_scalar(
        "INSERT INTO transactions (station, protocol, transaction_id, evse_id, id_token, id_token_status, started_at,
            stopped_at, stop_reason)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        ON CONFLICT (station, transaction_id) WHERE protocol <> 'ocpp1.6' DO UPDATE SET
            evse_id = COALESCE(transactions.evse_id, excluded.evse_id),
            id_token = COALESCE(transactions.id_token, excluded.id_token),
            id_token_status = COALESCE(transactions.id_token_status, excluded.id_token_status),
            started_at = COALESCE(transactions.started_at, excluded.started_at),
            stopped_at = COALESCE(transactions.stopped_at, excluded.stopped_at),
            stop_reason = COALESCE(transactions.stop_reason, excluded.stop_reason)
        RETURNING evse_id",
    );
    let protocol = session.protocol().unwrap_or_default().to_string();
    let upsert = upsert.bind(&*station).bind(protocol).bind(id).bind(event.evse.as_ref().map(|evse| evse.id));
    let upsert = upsert.bind(token.as_ref().map(|token| &token.id_token)).bind(status);
    let upsert = upsert.bind(at("Started")).bind(at("Ended")).bind(&event.transaction_info.stopped_reason);
    let evse_id: Option<i64> = upsert.fetch_one(&mut *transaction).await?;
    metering::insert(&mut transaction, &station, evse_id, id, &event.meter_value).await?;
    transaction.commit().await?;
    Ok(response)
}

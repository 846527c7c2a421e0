//! The journal.

use std::time::Duration;

use axum::{
    Json,
    extract::{Path, Query, State},
};
use tokio::time::timeout;

use super::{Api, Page, StationQuery, error::ApiError};
use crate::{database, journal::Message};

/// The longest time to wait for the latest messages.
const FLUSH: Duration = Duration::from_secs(5);

/// Returns the latest messages of one or all stations.
#[utoipa::path(
    get,
    path = "/api/messages",
    params(StationQuery, Page),
    responses((status = 200, description = "the messages", body = Vec<Message>), ApiError)
)]
pub(super) async fn messages(
    State(api): State<Api>,
    Query(StationQuery { station }): Query<StationQuery>,
    Query(page): Query<Page>,
) -> Result<Json<Vec<Message>>, ApiError> {
    entries(&api, station, &page).await
}

/// Returns the history of a station.
#[utoipa::path(
    get,
    path = "/api/stations/{identity}/messages",
    params(("identity" = String, Path), Page),
    responses((status = 200, description = "the messages", body = Vec<Message>), ApiError)
)]
pub(super) async fn station_messages(
    State(api): State<Api>,
    Path(identity): Path<String>,
    Query(page): Query<Page>,
) -> Result<Json<Vec<Message>>, ApiError> {
    entries(&api, Some(identity), &page).await
}

async fn entries(api: &Api, station: Option<String>, page: &Page) -> Result<Json<Vec<Message>>, ApiError> {
    // The journal waits for a database that has failed.
    timeout(FLUSH, api.journal.flush()).await.map_err(|_| sqlx::Error::PoolTimedOut)?;
    let sql = format!(
        "SELECT id, at, station, direction, text FROM messages WHERE id < $1 AND {} ORDER BY id DESC LIMIT $2",
        super::of_station(station.as_deref())
    );
    let rows = sqlx::query(&sql).bind(page.before()).bind(page.limit()).bind(station.unwrap_or_default());
    Ok(Json(database::read(&rows.fetch_all(&api.database).await?)?))
}

//! `GET api/stations`: the connected stations, searched, sorted and in pages, and `GET api/stations/{key}`.

use std::{cmp::Ordering, sync::Arc};

use axum::extract::{Path, Query, State, rejection::QueryRejection};
use serde::{Deserialize, Serialize};

use crate::{
    console::{
        api::{error::ApiError, json::Json},
        history::HistoryQuery,
        state::{ConsoleState, StationList},
    },
    info::StationInfo,
};

/// The most stations of a page.
const MAX_LIMIT: usize = 500;

#[derive(Deserialize)]
#[serde(default)]
pub(super) struct Selection {
    search: String,
    sort: Column,
    order: Order,
    offset: usize,
    limit: usize,
}

impl Default for Selection {
    fn default() -> Self {
        Self { search: String::new(), sort: Column::Identity, order: Order::Asc, offset: 0, limit: 100 }
    }
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Column {
    Key,
    Identity,
    Protocol,
    Node,
    RemoteAddress,
    ConnectedAt,
    LastSeenAt,
    Ping,
    Queued,
    InFlight,
    Errors,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Order {
    Asc,
    Desc,
}

#[derive(Serialize)]
pub(super) struct Page {
    total: usize,
    matched: usize,
    missing_nodes: Vec<Arc<str>>,
    stations: Vec<StationInfo>,
}

pub(super) async fn stations(
    selection: Result<Query<Selection>, QueryRejection>,
    State(console): State<Arc<ConsoleState>>,
) -> Result<Json<Page>, ApiError> {
    let Query(selection) = selection?;
    let list = console.stations().await.ok_or_else(|| ApiError::internal("the list of stations was not made"))?;
    // Tens of thousands of stations take milliseconds.
    let page = tokio::task::spawn_blocking(move || select(&list, &selection)).await;
    page.map(Json).map_err(ApiError::internal)
}

/// Returns the stations that a selection asks for.
fn select(list: &StationList, selection: &Selection) -> Page {
    let search = selection.search.to_lowercase();
    let mut matched: Vec<&StationInfo> =
        list.stations.iter().filter(|station| search.is_empty() || matches(station, &search)).collect();
    matched.sort_unstable_by(|a, b| {
        let order = compare(a, b, selection.sort);
        let order = if selection.order == Order::Desc { order.reverse() } else { order };
        let order = is_absent(a, selection.sort).cmp(&is_absent(b, selection.sort)).then(order);
        order.then_with(|| (&a.key, &a.node).cmp(&(&b.key, &b.node)))
    });
    let page = matched.iter().skip(selection.offset).take(selection.limit.min(MAX_LIMIT));
    Page {
        total: list.stations.len(),
        matched: matched.len(),
        missing_nodes: list.missing_nodes.clone(),
        stations: page.map(|station| (*station).clone()).collect(),
    }
}

fn matches(station: &StationInfo, search: &str) -> bool {
    let address = station.remote_address.map(|address| address.to_string());
    let texts = [Some(&*station.key), Some(&*station.identity), station.protocol.as_deref(), station.node.as_deref()];
    let mut texts = texts.into_iter().chain([address.as_deref()]).flatten();
    texts.any(|text| text.to_lowercase().contains(search))
}

fn compare(a: &StationInfo, b: &StationInfo, column: Column) -> Ordering {
    match column {
        Column::Key => a.key.cmp(&b.key),
        Column::Identity => a.identity.cmp(&b.identity),
        Column::Protocol => a.protocol.cmp(&b.protocol),
        Column::Node => a.node.cmp(&b.node),
        Column::RemoteAddress => a.remote_address.cmp(&b.remote_address),
        Column::ConnectedAt => a.connected_at.cmp(&b.connected_at),
        Column::LastSeenAt => a.last_seen_at.cmp(&b.last_seen_at),
        Column::Ping => a.ping.cmp(&b.ping),
        Column::Queued => a.queued.cmp(&b.queued),
        Column::InFlight => a.in_flight.cmp(&b.in_flight),
        Column::Errors => a.errors.cmp(&b.errors),
    }
}

/// Returns true if the station has no value in this column. Such stations are last in either order.
fn is_absent(station: &StationInfo, column: Column) -> bool {
    match column {
        Column::Protocol => station.protocol.is_none(),
        Column::RemoteAddress => station.remote_address.is_none(),
        Column::Ping => station.ping.is_none(),
        _ => false,
    }
}

#[derive(Serialize)]
pub(super) struct StationPage {
    station: Option<StationInfo>,
    is_recorded: bool,
    messages: usize,
}

/// The station of a path.
///
/// The application may mount the console below parameters of its own, which must have other names.
#[derive(Deserialize)]
pub(super) struct StationPath {
    #[serde(rename = "console_station")]
    pub(super) key: Arc<str>,
}

pub(super) async fn station(
    Path(StationPath { key }): Path<StationPath>,
    State(console): State<Arc<ConsoleState>>,
) -> Result<Json<StationPage>, ApiError> {
    let nothing = HistoryQuery { limit: 0, ..HistoryQuery::default() };
    let count = console.history(&key, &nothing).await?.map(|history| history.count);
    let station = console.server.station(key.clone()).info().await?;
    if station.is_none() && count.is_none() {
        return Err(ApiError::not_found(format!("the station is neither connected nor recorded: {key}")));
    }
    Ok(Json(StationPage { station, is_recorded: count.is_some(), messages: count.unwrap_or_default() }))
}

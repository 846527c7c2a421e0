//! `GET /metrics`: what the crate counts, in the text format of Prometheus.

use std::{error::Error, time::Duration};

use axum::{Router, http::header, response::IntoResponse, routing::get};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// Upper bounds of what calls and pings take, in seconds: from handlers that look into a map, over stations on a
/// mobile network, to the timeout of calls.
const SECONDS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// How often what was recorded goes into the histograms. Until then each value is kept, so that memory grows.
const UPKEEP: Duration = Duration::from_secs(5);

/// Counts from here on, and shows it.
pub(crate) fn add_to(app: Router) -> Result<Router, Box<dyn Error>> {
    let handle = recorder()?;
    tokio::spawn(keep_up(handle.clone()));
    Ok(app.route("/metrics", get(async move || page(&handle))))
}

/// Installs the one recorder of this program.
fn recorder() -> Result<PrometheusHandle, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full("ocpp_rpc_call_seconds".to_owned()), SECONDS)?
        .set_buckets_for_metric(Matcher::Full("ocpp_rpc_ping_seconds".to_owned()), SECONDS)?
        .install_recorder()
}

async fn keep_up(handle: PrometheusHandle) {
    let mut upkeep = tokio::time::interval(UPKEEP);
    loop {
        upkeep.tick().await;
        handle.run_upkeep();
    }
}

fn page(handle: &PrometheusHandle) -> impl IntoResponse + use<> {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], handle.render())
}

//! `GET /metrics`: what the crate counts, in the text format of Prometheus.

use std::{error::Error, time::Duration};

use axum::{Router, http::header, response::IntoResponse, routing::get};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Upper bounds of what calls and pings take, in seconds: from handlers that look into a map, over stations on a
/// mobile network, to the timeout of calls.
const SECONDS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// How often what was recorded goes into the histograms. Until then each value is kept, so that memory grows.
const UPKEEP: Duration = Duration::from_secs(5);

/// What was recorded.
pub(crate) struct Metrics(PrometheusHandle);

impl Metrics {
    /// Installs the one recorder of this program, which servers and clients look for when they are made.
    pub(crate) fn install() -> Result<Self, Box<dyn Error>> {
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Full("ocpp_rpc_call_seconds".to_owned()), SECONDS)?
            .set_buckets_for_metric(Matcher::Full("ocpp_rpc_ping_seconds".to_owned()), SECONDS)?
            .install_recorder()?;
        tokio::spawn(keep_up(handle.clone()));
        Ok(Self(handle))
    }

    /// Shows it.
    pub(crate) fn add_to(self, app: Router) -> Router {
        app.route("/metrics", get(async move || page(&self.0)))
    }
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

//! `GET /metrics`: the metrics of the crate in the text format of Prometheus.

use std::{error::Error, time::Duration};

use axum::{Router, http::header, response::IntoResponse, routing::get};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Upper bounds of the buckets for calls and pings, in seconds. They range from handlers that read a map, over stations
/// on a mobile network, to the timeout of calls.
const BUCKETS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// The interval at which recorded values go into the histograms. Memory grows with each value until then.
const UPKEEP: Duration = Duration::from_secs(5);

/// The installed recorder.
pub(crate) struct Metrics(PrometheusHandle);

impl Metrics {
    /// Installs the recorder of this program. It must be called before a server or client is created, because both
    /// look up the recorder then.
    pub(crate) fn install() -> Result<Self, Box<dyn Error>> {
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Full("ocpp_rpc_call_seconds".to_owned()), BUCKETS)?
            .set_buckets_for_metric(Matcher::Full("ocpp_rpc_ping_seconds".to_owned()), BUCKETS)?
            .install_recorder()?;
        tokio::spawn(run_upkeep(handle.clone()));
        Ok(Self(handle))
    }

    /// Adds the route.
    pub(crate) fn add_to(self, app: Router) -> Router {
        app.route("/metrics", get(async move || page(&self.0)))
    }
}

async fn run_upkeep(handle: PrometheusHandle) {
    let mut upkeep = tokio::time::interval(UPKEEP);
    loop {
        upkeep.tick().await;
        handle.run_upkeep();
    }
}

fn page(handle: &PrometheusHandle) -> impl IntoResponse + use<> {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], handle.render())
}

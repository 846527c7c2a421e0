//! `--metrics`: the metrics of the crate at `GET /metrics`, in the text format of Prometheus.

use std::error::Error;

use axum::Router;

#[cfg(not(feature = "metrics"))]
pub(crate) fn router() -> Result<Router, Box<dyn Error>> {
    Err("--metrics requires the feature `metrics`: build with `--features metrics`".into())
}

/// Installs the recorder of this program and returns the route. It must be called before a server or client is
/// created, because both look up the recorder then.
#[cfg(feature = "metrics")]
pub(crate) fn router() -> Result<Router, Box<dyn Error>> {
    use axum::{http::header, routing::get};
    use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};

    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full("ocpp_rpc_call_seconds".to_owned()), BUCKETS)?
        .set_buckets_for_metric(Matcher::Full("ocpp_rpc_ping_seconds".to_owned()), BUCKETS)?
        .install_recorder()?;
    tokio::spawn(run_upkeep(handle.clone()));
    let page = async move || ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], handle.render());
    Ok(Router::new().route("/metrics", get(page)))
}

/// Upper bounds of the buckets for calls and pings, in seconds. They range from handlers that read a map, over stations
/// on a mobile network, to the timeout of calls.
#[cfg(feature = "metrics")]
const BUCKETS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Moves recorded values into the histograms. Memory grows with each value until then.
#[cfg(feature = "metrics")]
async fn run_upkeep(handle: metrics_exporter_prometheus::PrometheusHandle) {
    let mut upkeep = tokio::time::interval(std::time::Duration::from_secs(5));
    loop {
        upkeep.tick().await;
        handle.run_upkeep();
    }
}

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
    use ocpp_rpc::metrics::SECONDS_BUCKETS;

    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS_BUCKETS)?
        .install_recorder()?;
    tokio::spawn(run_upkeep(handle.clone()));
    let page = async move || ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], handle.render());
    Ok(Router::new().route("/metrics", get(page)))
}

/// Moves recorded values into the histograms. Memory grows with each value until then.
#[cfg(feature = "metrics")]
async fn run_upkeep(handle: metrics_exporter_prometheus::PrometheusHandle) {
    let mut upkeep = tokio::time::interval(std::time::Duration::from_secs(5));
    loop {
        upkeep.tick().await;
        handle.run_upkeep();
    }
}

//! Settings for recorders of metrics.
//!
//! The crate reports to the recorder of the [`metrics`](https://docs.rs/metrics) facade. The guide's page
//! [observability](crate::guide::observing) lists all metrics with their labels.

use crate::event::activity::CallTimes;

/// The recommended upper bounds of the buckets of all histograms, in seconds.
///
/// The lowest are for handlers that read a map, those in the middle for stations on a mobile network. The highest are the
/// default timeouts of calls, 30 s and 60 s. They are the same as those of [`CallTimes`].
///
/// With the crate `metrics-exporter-prometheus`:
///
/// ```ignore
/// use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
/// use ocpp_rpc::metrics::SECONDS_BUCKETS;
///
/// let histograms = Matcher::Suffix("_seconds".to_owned());
/// let handle = PrometheusBuilder::new().set_buckets_for_metric(histograms, SECONDS_BUCKETS)?.install_recorder()?;
/// ```
pub const SECONDS_BUCKETS: &[f64] = CallTimes::BUCKETS;

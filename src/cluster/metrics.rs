//! The metrics of a cluster.

use std::time::Duration;

use crate::error::Error;

/// Counts a call to or from another node.
pub(crate) fn call(_direction: &'static str, _error: Option<&Error>, _time: Duration) {
    #[cfg(feature = "metrics")]
    {
        let outcome = _error.map_or("result", Error::name);
        metrics::counter!("ocpp_rpc_cluster_calls_total", "direction" => _direction, "outcome" => outcome).increment(1);
        metrics::histogram!("ocpp_rpc_cluster_call_seconds", "direction" => _direction).record(_time);
    }
}

/// Counts a session that gave way to one at another node.
pub(crate) fn replaced() {
    #[cfg(feature = "metrics")]
    metrics::counter!("ocpp_rpc_cluster_replaced_total").increment(1);
}

/// Counts a message that was dropped: it could not be read, had expired, or came too fast.
pub(crate) fn dropped() {
    #[cfg(feature = "metrics")]
    metrics::counter!("ocpp_rpc_cluster_dropped_total").increment(1);
}

/// Records that the broker is there.
pub(crate) fn connected() {
    #[cfg(feature = "metrics")]
    metrics::gauge!("ocpp_rpc_cluster_connected").set(1);
}

/// Records that the broker is away.
pub(crate) fn disconnected() {
    #[cfg(feature = "metrics")]
    metrics::gauge!("ocpp_rpc_cluster_connected").set(0);
}

/// Counts a reconnect to the broker.
pub(crate) fn reconnected() {
    #[cfg(feature = "metrics")]
    {
        connected();
        metrics::counter!("ocpp_rpc_cluster_reconnects_total").increment(1);
    }
}

/// Records how much the clock of another node was ahead when its sign of life arrived.
pub(crate) fn clock_skew(_seconds: f64) {
    #[cfg(feature = "metrics")]
    metrics::gauge!("ocpp_rpc_cluster_clock_skew_seconds").set(_seconds);
}

//! The descriptions of all metrics.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Describes all metrics to the recorder that is installed now.
pub(super) fn describe() {
    describe_gauge!("ocpp_rpc_connections", Unit::Count, "Open connections.");
    describe_counter!("ocpp_rpc_connections_opened_total", Unit::Count, "Connections that opened.");
    describe_counter!("ocpp_rpc_connections_closed_total", Unit::Count, "Connections that closed, by cause.");
    describe_counter!(
        "ocpp_rpc_handshakes_refused_total",
        Unit::Count,
        "Handshakes that were refused or broke off, by the HTTP status of the response."
    );
    describe_counter!(
        "ocpp_rpc_identity_conflicts_total",
        Unit::Count,
        "Identities whose sessions replaced each other repeatedly."
    );
    describe_counter!("ocpp_rpc_messages_total", Unit::Count, "Messages, by direction.");
    describe_counter!("ocpp_rpc_message_bytes_total", Unit::Bytes, "Bytes of messages without compression.");
    describe_counter!(
        "ocpp_rpc_uncompressed_bytes_total",
        Unit::Bytes,
        "Bytes of compressed messages before their compression."
    );
    describe_counter!(
        "ocpp_rpc_compressed_bytes_total",
        Unit::Bytes,
        "Bytes of compressed messages after their compression."
    );
    describe_counter!("ocpp_rpc_calls_total", Unit::Count, "Calls that ended, by direction and outcome.");
    describe_histogram!(
        "ocpp_rpc_call_seconds",
        Unit::Seconds,
        "Times of calls: out from their creation, in from the start of their handler."
    );
    describe_histogram!("ocpp_rpc_ping_seconds", Unit::Seconds, "Times from pings to their pongs.");
    describe_counter!("ocpp_rpc_bad_messages_total", Unit::Count, "Messages that could not be served.");
    describe_counter!(
        "ocpp_rpc_late_responses_total",
        Unit::Count,
        "Responses to calls of their connection that were no longer in flight."
    );
    describe_counter!(
        "ocpp_rpc_unmatched_responses_total",
        Unit::Count,
        "Responses to calls that their connection did not make."
    );
    describe_counter!("ocpp_rpc_deviations_total", Unit::Count, "Tolerated deviations from the standards, by kind.");
    describe_counter!("ocpp_rpc_violations_total", Unit::Count, "Payloads that failed validation, by direction.");
    #[cfg(feature = "server")]
    describe_cluster();
}

/// Describes the metrics of a cluster.
#[cfg(feature = "server")]
fn describe_cluster() {
    describe_gauge!(
        "ocpp_rpc_cluster_connected",
        Unit::Count,
        "1 if this node is connected to the cluster, or else 0."
    );
    describe_counter!(
        "ocpp_rpc_cluster_calls_total",
        Unit::Count,
        "Calls to and from other nodes that ended, by direction and outcome."
    );
    describe_histogram!("ocpp_rpc_cluster_call_seconds", Unit::Seconds, "Times of calls to and from other nodes.");
    describe_counter!("ocpp_rpc_cluster_replaced_total", Unit::Count, "Sessions that gave way to one at another node.");
    describe_counter!(
        "ocpp_rpc_cluster_dropped_total",
        Unit::Count,
        "Messages of other nodes that were unreadable, late, or too many."
    );
    describe_counter!("ocpp_rpc_cluster_reconnects_total", Unit::Count, "Reconnects to the cluster.");
    describe_gauge!(
        "ocpp_rpc_cluster_clock_skew_seconds",
        Unit::Seconds,
        "Time by which the clock of the node that was heard last is ahead."
    );
}

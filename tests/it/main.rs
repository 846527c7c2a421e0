//! Tests of the public API, as a charging station and an application see it.
#![allow(unreachable_pub, reason = "no other crate uses a test crate")]

mod answers;
mod auth;
mod bad_messages;
mod behaviour;
mod call_back;
mod call_layers;
mod calls_in;
mod calls_out;
mod cancel_safety;
mod client_calls;
mod client_closing;
mod client_endpoints;
mod client_handshake;
mod client_life;
mod client_refused;
mod client_states;
mod client_update;
mod closing;
mod closing_table;
mod cluster;
mod cluster_permissions;
mod compression;
#[cfg(feature = "console")]
mod console;
mod csms;
mod cut;
#[cfg(feature = "metrics")]
mod dashboard;
mod defaults;
mod deviations;
mod duplicates;
mod edge;
mod events;
mod examples;
mod fairness;
mod handlers;
mod handshake;
mod header_names;
mod hostile;
#[cfg(feature = "http2")]
mod http2;
#[cfg(feature = "json-schema")]
mod json_schemas;
mod keepalive;
mod layers;
mod limits;
mod listening;
#[cfg(feature = "metrics")]
mod metrics;
mod middleware;
mod mounting;
#[cfg(feature = "ocpp-schemas")]
mod ocpp_schemas;
#[cfg(feature = "tls")]
mod pinning;
mod proxy;
mod proxy_protocol;
mod queue;
mod recipes;
mod redirects;
mod registry;
mod relay;
#[cfg(feature = "tls")]
mod secrets;
mod server_closing;
mod session_events;
mod spans;
mod station;
mod strangers;
mod support;
mod tapped;
mod tcp;
#[cfg(feature = "testing")]
mod tenants;
#[cfg(feature = "testing")]
mod testing;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "tls")]
mod tls_errors;
mod types;
mod validation;

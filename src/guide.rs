#![doc = include_str!("docs/index.md")]

/// First steps: a server, a station, and programs to run.
#[doc = ""]
#[doc = include_str!("docs/first-steps.md")]
pub mod first_steps {}

/// Handling calls: extractors, errors, layers and types.
#[doc = ""]
#[doc = include_str!("docs/handlers.md")]
pub mod handlers {}

/// Calling a station: order, timeouts and errors.
#[doc = ""]
#[doc = include_str!("docs/calls.md")]
pub mod calls {}

/// Stations and sessions: in axum, on a port of its own, or on another HTTP stack.
#[doc = ""]
#[doc = include_str!("docs/sessions.md")]
pub mod sessions {}

/// Authenticating stations: passwords, certificates, and OCPP's security profiles.
#[doc = ""]
#[doc = include_str!("docs/authentication.md")]
pub mod authentication {}

/// Tenants: stations of several operators that share identities.
#[doc = ""]
#[doc = include_str!("docs/tenants.md")]
#[doc = "```no_run"]
#[doc = include_str!("../examples/tenants.rs")]
#[doc = "```"]
pub mod tenants {}

/// TLS: certificates, old stations and failed handshakes.
#[cfg(feature = "tls")]
#[doc = ""]
#[doc = include_str!("docs/tls.md")]
pub mod tls {}

/// Validation of payloads: validators, codes and costs.
#[doc = ""]
#[doc = include_str!("docs/validation.md")]
pub mod validation {}

/// Requests and responses as types.
#[doc = ""]
#[doc = include_str!("docs/types.md")]
pub mod types {}

/// Testing handlers, backends and stations in memory.
#[cfg(feature = "testing")]
#[doc = ""]
#[doc = include_str!("docs/testing.md")]
pub mod testing {}

/// Writing a charging station: connecting, reconnecting and closing.
#[doc = ""]
#[doc = include_str!("docs/client.md")]
pub mod client {}

/// Relaying messages between stations and someone else's server.
#[doc = ""]
#[doc = include_str!("docs/relay.md")]
pub mod relay {}

/// Running a server: systemd, shutdown, load balancers and several nodes.
#[doc = ""]
#[doc = include_str!("docs/deployment.md")]
pub mod deployment {}

/// Events, logs and metrics.
#[doc = ""]
#[doc = include_str!("docs/observing.md")]
pub mod observing {}

/// The console: a page that shows stations and their messages.
#[cfg(feature = "console")]
#[doc = ""]
#[doc = include_str!("docs/console.md")]
pub mod console {}

/// Several servers as one cluster: calls, moves, lists and events.
#[doc = ""]
#[doc = include_str!("docs/cluster.md")]
pub mod cluster {}

/// Compressing messages: settings, savings, costs and risks.
#[doc = ""]
#[doc = include_str!("docs/compression.md")]
pub mod compression {}

/// Memory of a connection, settings for tens of thousands of stations, and measuring.
#[doc = ""]
#[doc = include_str!("docs/scale.md")]
pub mod scale {}

/// Performance: this crate beside servers on other libraries.
#[doc = ""]
#[doc = include_str!("docs/performance.md")]
#[doc = include_str!("docs/figures/calls.svg")]
#[doc = ""]
#[doc = include_str!("docs/figures/paced.svg")]
#[doc = ""]
#[doc = include_str!("docs/figures/idle.svg")]
pub mod performance {}

/// Coming from the npm module `ocpp-rpc`, or from the Python package `ocpp`.
#[doc = ""]
#[doc = include_str!("docs/migration.md")]
pub mod migration {}

/// Troubleshooting: from a symptom to its cause and the setting.
#[doc = ""]
#[doc = include_str!("docs/troubleshooting.md")]
pub mod troubleshooting {}

/// Questions about stations that deviate from the standard.
#[doc = ""]
#[doc = include_str!("docs/faq.md")]
pub mod faq {}

#![doc = include_str!("docs/guide/index.md")]

/// First steps: a server, a station, and programs to run.
#[doc = ""]
#[doc = include_str!("docs/guide/getting_started.md")]
pub mod getting_started {}

/// Serving stations: in axum, on a port of its own, or on another HTTP stack.
#[doc = ""]
#[doc = include_str!("docs/guide/serving.md")]
pub mod serving {}

/// Handling calls: extractors, errors, layers and types.
#[doc = ""]
#[doc = include_str!("docs/guide/handlers.md")]
pub mod handlers {}

/// Calling a station: order, timeouts and errors.
#[doc = ""]
#[doc = include_str!("docs/guide/calls.md")]
pub mod calls {}

/// Several servers as one cluster: calls, moves, lists and events.
#[doc = ""]
#[doc = include_str!("docs/guide/cluster.md")]
pub mod cluster {}

/// Writing a charging station: connecting, reconnecting and closing.
#[doc = ""]
#[doc = include_str!("docs/guide/client.md")]
pub mod client {}

/// Compressing messages: settings, savings, costs and risks.
#[doc = ""]
#[doc = include_str!("docs/guide/compression.md")]
pub mod compression {}

/// Testing handlers, backends and stations in memory.
#[doc = ""]
#[doc = include_str!("docs/guide/testing.md")]
#[cfg(feature = "testing")]
pub mod testing {}

/// OCPP's security profiles, each as two commands.
#[doc = ""]
#[doc = include_str!("docs/guide/security.md")]
pub mod security {}

/// Events, logs and metrics.
#[doc = ""]
#[doc = include_str!("docs/guide/observability.md")]
pub mod observability {}

/// The console: a page that shows stations and their messages.
#[cfg(feature = "console")]
#[doc = ""]
#[doc = include_str!("docs/guide/console.md")]
pub mod console {}

/// Measuring a server under load.
#[doc = ""]
#[doc = include_str!("docs/guide/measuring.md")]
pub mod measuring {}

/// Memory of a connection, and settings for tens of thousands of stations.
#[doc = ""]
#[doc = include_str!("docs/scale.md")]
pub mod many_stations {}

/// Coming from the npm module `ocpp-rpc`.
#[doc = ""]
#[doc = include_str!("docs/guide/migration.md")]
pub mod migration {}

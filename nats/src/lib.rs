//! A cluster of [`ocpp_rpc`] servers over [NATS](https://nats.io).
//!
//! Several servers behind a load balancer become a cluster with three lines. Each of them can then call the stations of
//! all.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! # use std::time::Duration;
//! # use ocpp_rpc::{RpcRouter, RpcServer};
//! # use serde_json::{Value, json};
//! use ocpp_rpc_nats::Nats;
//!
//! let nats = Nats::connect("nats://10.0.0.5").await?;
//! let server = RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).cluster(nats).build()?;
//! let response: Value = server.station("CP-1").call("Reset", &json!({"type": "Soft"})).await?;
//! # Ok(())
//! # }
//! ```
//!
//! A process without stations, such as one that serves an API, needs no server:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! # use serde_json::{Value, json};
//! use ocpp_rpc_nats::Nats;
//!
//! let nats = Nats::connect("nats://10.0.0.5").await?;
//! let response: Value = nats.station("CP-1").call("Reset", &json!({"type": "Soft"})).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Subjects
//!
//! All subjects begin with the [namespace](Nats::namespace), `ocpp.v1` by default.
//!
//! | Subject | Messages |
//! |---|---|
//! | `ocpp.v1.s.<key>` | Calls to a station. The node that it is connected to subscribes, in the queue group `s`. |
//! | `ocpp.v1.n.<node>.s.<key>` | Calls to a station that has recently moved to this node. |
//! | `ocpp.v1.n.<node>.re.<number>.<key>` | Replies to a request of this node. Without a key those to lists. |
//! | `ocpp.v1.n.<node>.do.<key>` | Cancellations, probes and CALLRESULTERRORs of calls to this station. |
//! | `ocpp.v1.n.<node>.do` | Messages between nodes, such as claims of sessions. |
//! | `ocpp.v1.all` | Messages to all nodes, such as announcements of sessions. |
//! | `ocpp.v1.all.<key>` | Cancellations of calls to this station, and requests for its events. |
//! | `ocpp.v1.ev.<key>.<kind>` | Events. Those without a key have `=` in its place. |
//!
//! `<node>` is a random number of each process. In `<key>`, a `/` between two parts becomes a point, so that permissions
//! can name the stations of a tenant, as in `ocpp.v1.s.acme.>`. Letters, digits, `-` and `_` stay, and any other byte
//! becomes `=` and two hexadecimal digits. A station whose encoded key is longer than 1500 bytes cannot be called from
//! other nodes.
//!
//! # NATS
//!
//! NATS should be version 2.10 or newer, because 2.9 keeps silent clients for too long. Its `max_payload` should exceed
//! [`max_message_size`](ocpp_rpc::Options::max_message_size) by 4 KiB. A call or response that is larger fails with
//! [`Error::TooLarge`](ocpp_rpc::Error::TooLarge). The log warns of an older version, and of a `max_payload` below 68 KiB.
//!
//! Each session costs the node some 6 KiB of memory, because the client of NATS has a queue for each subscription.

mod link;
mod membership;
mod nats;
mod subject;
mod subscriptions;

pub use async_nats;

pub use self::nats::Nats;

/// Tests the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

//! A test kit: stations and servers in memory, and single handlers without a connection.
//!
//! - [`Station`] connects to your server, without a socket. It makes calls, receives those of the server, sends raw
//!   text, stops reading and loses its connection.
//! - [`Csms`] is the other end, for makers of charging stations: a [connector](crate::client::Connector) leads your client
//!   to it.
//! - [`Request`] runs one handler of a router, without a connection.
//! - [`Events::expect`](crate::event::Events::expect) waits for an event of a server or a client.
//!
//! Both ends are those of this crate, so that a test sees what stations and servers see. Streams are in memory: tests can
//! pause the clock of tokio. The feature `testing` belongs in the `dev-dependencies`.
//!
//! Methods that wait for the peer panic after 60 s, so that a test ends; with a paused clock that is at once.
//!
//! ```
//! use ocpp_rpc::{CallError, RpcRouter, RpcServer, testing::Station};
//! use serde_json::{Value, json};
//!
//! async fn boot() -> Result<Value, CallError> {
//!     Ok(json!({"status": "Accepted", "currentTime": "2026-01-01T00:00:00.000Z", "interval": 300}))
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let router = RpcRouter::new().on("BootNotification", boot);
//! let server = RpcServer::builder(router).protocols(["ocpp1.6"]).build()?;
//!
//! let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
//! let response: Value = station.call("BootNotification", &json!({})).await?;
//! assert_eq!(response["status"], "Accepted");
//!
//! // The backend resets the station.
//! let reset = server.station("CP-1");
//! let reset = tokio::spawn(async move { reset.call::<Value>("Reset", &json!({"type": "Soft"})).await });
//! let call = station.next_call().await;
//! assert_eq!((call.action(), call.params::<Value>()?), ("Reset", json!({"type": "Soft"})));
//! call.respond(&json!({"status": "Accepted"})).await;
//! assert_eq!(reset.await??["status"], "Accepted");
//! # Ok(())
//! # }
//! ```

mod csms;
mod events;
mod link;
mod received;
mod request;
mod station;

pub use self::{
    csms::{Csms, CsmsSession},
    received::ReceivedCall,
    request::Request,
    station::{Station, StationBuilder},
};

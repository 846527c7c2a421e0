//! Clusters over servers of NATS that run as processes. `tests/run` fetches NATS and runs these tests.

mod broker;
mod calls;
mod events;
mod limits;
mod loss;
mod node;
mod process;
mod takeover;
#[path = "../../../tests/it/tapped.rs"]
mod tapped;
mod tenants;

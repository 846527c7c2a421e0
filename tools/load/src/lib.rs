//! The parts that the programs of this crate share: handlers of a server, stations, and measurements.

mod handlers;
mod latency;
pub mod process;
pub mod stations;

pub use self::{handlers::router, latency::Latency};

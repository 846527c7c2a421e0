//! Tests of the application as a process, with stations on the crate's client and real databases.
#![cfg(unix)]

mod actions;
mod crash;
mod demo;
#[cfg(feature = "postgres")]
mod postgres;
mod rest;
mod settings;
mod shutdown;
mod support;
#[cfg(feature = "nats")]
mod three_nodes;
mod transactions;

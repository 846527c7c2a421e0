//! Stands in for the meter where nothing is measured: it takes no room and no time.

use std::time::Duration;

use crate::{
    close::Closed,
    connection::Reply,
    error::Error,
    event::{Direction, EventKind},
};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopwatch;

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self
    }
}

#[derive(Debug)]
pub(crate) struct Connection;

impl Connection {
    pub(crate) fn opened() -> Self {
        Self
    }

    pub(crate) fn closed(self, _: &Closed) {}
}

pub(crate) fn refused(_: Option<u16>) {}

pub(crate) fn message(_: Direction, _: usize) {}

pub(crate) fn handled(_: &Reply, _: Stopwatch) {}

pub(crate) fn called<T>(_: &Result<T, Error>, _: Stopwatch) {}

pub(crate) fn pong(_: Duration) {}

pub(crate) fn news(_: &EventKind) {}

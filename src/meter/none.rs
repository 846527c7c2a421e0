//! Stands in for the meter where nothing is measured: it takes no room and no time.

use std::time::Duration;

use crate::{
    close::Closed,
    connection::Reply,
    error::Error,
    event::{Direction, EventKind},
};

#[derive(Debug, Clone)]
pub(crate) struct Meter;

impl Meter {
    pub(crate) fn new() -> Self {
        Self
    }

    pub(crate) fn message(&self, _: Direction, _: usize) {}

    pub(crate) fn call(&self) -> Stopwatch {
        Stopwatch
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Stopwatch;

impl Stopwatch {
    pub(crate) fn handled(&self, _: &Reply) {}

    pub(crate) fn called<T>(&self, _: &Result<T, Error>) {}
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

pub(crate) fn pong(_: Duration) {}

pub(crate) fn news(_: &EventKind) {}

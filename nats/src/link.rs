//! The state of the connection to NATS.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, Event, ServerError, Statistics, connection::State};
use ocpp_rpc::cluster::{Node, SendError};
use tokio::{
    sync::{broadcast, watch},
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use crate::subject::Subjects;

/// The time that the client may take to accept a message. It accepts none while the network is stuck.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// The time that the subscriptions may take after a reconnect, before they are flushed again.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// The time between two looks at a connection whose events another part of the application receives.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The time between two looks at a connection of this crate. The client drops events if there are too many.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The time between two announcements after lost messages.
const LOST_INTERVAL: Duration = Duration::from_secs(1);

/// The signals that may wait.
pub(crate) const MAX_SIGNALS: usize = 256;

/// A smaller `max_payload` is too small for common messages of stations: 64 KiB, and what a message between nodes adds.
const MIN_PAYLOAD: usize = (64 + 4) * 1024;

/// An event of the connection.
#[derive(Debug, Clone)]
pub(crate) enum Signal {
    /// The connection is there or away.
    Changed,
    Closed,
    /// A subscription was too slow, and messages were lost.
    Lost,
    /// NATS refused a message to this subject.
    NotPermitted(Arc<str>),
}

/// The connection, as one node sees it.
pub(crate) struct Link {
    client: Client,
    statistics: Arc<Statistics>,
    is_closed: AtomicBool,
    /// The number of the connect after which all subscriptions were restored. 0 while the connection is away.
    restored: watch::Sender<u64>,
}

impl Signal {
    /// Returns the signal of an event, and logs what the configuration of NATS forbids.
    pub(crate) fn of(event: &Event) -> Option<Self> {
        match event {
            Event::Connected | Event::Disconnected => Some(Self::Changed),
            Event::Closed => Some(Self::Closed),
            Event::SlowConsumer(_) | Event::ServerError(ServerError::SlowConsumer(_)) => Some(Self::Lost),
            Event::ServerError(ServerError::Other(error)) => {
                tracing::warn!(%error, "NATS refused an operation of this node");
                Some(Self::NotPermitted(refused_subject(error)?.into()))
            }
            _ => None,
        }
    }
}

/// Returns the subject of a message that NATS refused.
fn refused_subject(error: &str) -> Option<&str> {
    const PREFIX: &str = "permissions violation for publish to \"";
    let (prefix, rest) = error.split_at_checked(PREFIX.len())?;
    prefix.eq_ignore_ascii_case(PREFIX).then(|| rest.split('"').next())?
}

impl Link {
    pub(crate) fn new(client: Client) -> Self {
        let statistics = client.statistics();
        Self { client, statistics, is_closed: AtomicBool::new(false), restored: watch::Sender::new(0) }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn is_connected(&self) -> bool {
        let restored = *self.restored.borrow();
        restored != 0 && restored == self.connects() && self.is_up()
    }

    /// Makes the connection usable for a node whose first subscriptions are on their way.
    pub(crate) fn start(&self) {
        let connects = self.connects();
        if self.is_up() {
            self.warn_of_limits();
            self.restored.send_replace(connects);
        }
    }

    /// Ends the use of the connection.
    pub(crate) fn stop(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        self.restored.send_replace(0);
    }

    /// Runs an operation of the client, which waits while the connection is away.
    pub(crate) async fn run<T>(&self, operation: impl Future<Output = T>) -> Result<T, SendError> {
        if !self.is_connected() {
            return Err(SendError::Disconnected);
        }
        tokio::select! {
            biased;
            done = operation => Ok(done),
            // Dropped, the operation has done nothing.
            () = self.stuck() => Err(SendError::Disconnected),
        }
    }

    /// Resolves when the connection is away or accepts nothing.
    async fn stuck(&self) {
        let mut restored = self.restored.subscribe();
        let _ = timeout(SEND_TIMEOUT, restored.wait_for(|restored| *restored == 0)).await;
    }

    /// Informs the node about changes of the connection.
    pub(crate) async fn watch(&self, node: &Node, subjects: &Subjects, signals: Option<broadcast::Receiver<Signal>>) {
        let mut checks = interval(if signals.is_some() { CHECK_INTERVAL } else { POLL_INTERVAL });
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut signals = signals;
        let (mut is_lossy, mut reported_at) = (false, None::<Instant>);
        loop {
            let signal = tokio::select! {
                signal = next(&mut signals) => signal,
                _ = checks.tick() => Signal::Changed,
            };
            match signal {
                Signal::Changed => {}
                Signal::Closed => self.is_closed.store(true, Ordering::Relaxed),
                Signal::Lost => is_lossy = true,
                Signal::NotPermitted(subject) => {
                    if let Some(key) = subjects.read_station(&subject) {
                        node.not_permitted(&key);
                    }
                }
            }
            if is_lossy && reported_at.is_none_or(|at| at.elapsed() >= LOST_INTERVAL) {
                (is_lossy, reported_at) = (false, Some(Instant::now()));
                node.messages_lost();
            }
            self.check(node).await;
        }
    }

    /// Reports that the client has ended.
    pub(crate) fn closed(&self) {
        if !self.is_closed.swap(true, Ordering::Relaxed) {
            tracing::error!("the connection to NATS is closed for good");
        }
    }

    async fn check(&self, node: &Node) {
        let connects = self.connects();
        let restored = *self.restored.borrow();
        if restored != 0 && (restored != connects || !self.is_up()) {
            self.restored.send_replace(0);
            node.disconnected();
        }
        if *self.restored.borrow() != 0 || !self.is_up() {
            return;
        }
        // The client writes its subscriptions before anything else.
        let flushed = timeout(FLUSH_TIMEOUT, self.client.flush()).await;
        if matches!(flushed, Ok(Ok(()))) && self.connects() == connects {
            self.warn_of_limits();
            self.restored.send_replace(connects);
            node.reconnected();
        }
    }

    fn is_up(&self) -> bool {
        !self.is_closed.load(Ordering::Relaxed) && self.client.connection_state() == State::Connected
    }

    fn connects(&self) -> u64 {
        self.statistics.connects.load(Ordering::Relaxed)
    }

    fn warn_of_limits(&self) {
        let max_payload = self.client.max_payload();
        if max_payload < MIN_PAYLOAD {
            tracing::warn!(max_payload, "NATS refuses messages of usual size: set a larger max_payload");
        }
        if !self.client.is_server_compatible(2, 10, 0) {
            let version = self.client.server_info().version;
            tracing::warn!(version, "NATS is older than 2.10: it keeps nodes that do not respond for too long");
        }
    }
}

/// Waits for the next signal.
async fn next(signals: &mut Option<broadcast::Receiver<Signal>>) -> Signal {
    let Some(receiver) = signals else { return std::future::pending().await };
    match receiver.recv().await {
        Ok(signal) => signal,
        // Any may be among those that were dropped.
        Err(broadcast::error::RecvError::Lagged(_)) => Signal::Lost,
        Err(broadcast::error::RecvError::Closed) => {
            *signals = None;
            Signal::Closed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_subject_is_read_from_the_error() {
        let error = "Permissions Violation for Publish to \"ocpp.v1.s.acme.CP-1\"";
        assert_eq!(refused_subject(error), Some("ocpp.v1.s.acme.CP-1"));
        for other in ["", "Permissions Violation for Subscription to \"a\"", "ü", "Maximum Payload Violation"] {
            assert_eq!(refused_subject(other), None, "{other}");
        }
    }
}

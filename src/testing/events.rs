//! Assertions on events.

use std::{collections::VecDeque, time::Duration};

use tokio::time::timeout;

use crate::{
    event::{
        bus::Events,
        kind::{Direction, Event, EventKind, Text},
    },
    session::Session,
    testing::received::{RECEIVE_TIMEOUT, ReceivedCalls},
};

/// The number of skipped events that a failure shows.
const SHOWN: usize = 20;

impl Events {
    /// Waits for the next event that `find` takes, and returns what it returns. Skips the events before it. For tests.
    ///
    /// ```
    /// use ocpp_rpc::{RpcRouter, RpcServer, event::EventKind, testing::Station};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).build()?;
    /// let mut events = server.events();
    /// let station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    /// station.disconnect();
    /// let closed = events
    ///     .expect(|event| match event.kind {
    ///         EventKind::Closed(closed) => Some(closed),
    ///         _ => None,
    ///     })
    ///     .await;
    /// assert_eq!(closed.code, 1006);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if no such event comes within 60 s, or if there will be no more events. The message shows the latest
    /// events that came instead.
    pub async fn expect<T>(&mut self, mut find: impl FnMut(Event) -> Option<T>) -> T {
        let mut skipped = VecDeque::new();
        let found = async {
            loop {
                let event = self.next().await?;
                if let Some(found) = find(event.clone()) {
                    return Some(found);
                }
                if skipped.len() == SHOWN {
                    skipped.pop_front();
                }
                skipped.push_back(event);
            }
        };
        let what = match timeout(RECEIVE_TIMEOUT, found).await {
            Ok(Some(found)) => return found,
            Ok(None) => "the events have ended without the expected one".to_owned(),
            Err(_) => format!("the expected event did not come within {} s", RECEIVE_TIMEOUT.as_secs()),
        };
        panic!("{what}, after these events:{}", shown(&skipped));
    }
}

/// Returns events as text, one a line.
fn shown(events: &VecDeque<Event>) -> String {
    let lines = events.iter().map(|Event { key, kind, .. }| match key {
        Some(key) => format!("\n  {key}: {kind:?}"),
        None => format!("\n  {kind:?}"),
    });
    if events.is_empty() { " none".to_owned() } else { lines.collect() }
}

/// Fails if the peer sends a message within `time`, or has sent one that the test has not received, or if the session
/// ends.
pub(super) async fn expect_silence(events: &mut Events, calls: &mut ReceivedCalls, session: &Session, time: Duration) {
    if let Some(call) = calls.next_now() {
        panic!("not silent: a call of {} has come before: {}", call.action(), call.payload().as_str());
    }
    if let Some(text) = unseen(events, session).await {
        panic!("not silent: this text has come before: {text}");
    }
    let ended = async {
        while let Some(event) = events.next().await {
            match of_session(event, session) {
                Some(EventKind::Received(text)) => panic!("not silent: {text}"),
                Some(EventKind::Closed(_)) => return,
                _ => {}
            }
        }
    };
    let is_silent = session.is_open() && timeout(time, ended).await.is_err();
    assert!(is_silent, "not silent: the connection has ended");
}

/// Reads the events that have come already. Returns a text of the peer that the test has not received otherwise: one
/// that is neither a request, which the test receives as a call, nor the response to a call of the test.
async fn unseen(events: &mut Events, session: &Session) -> Option<Text> {
    let mut unseen = None;
    while let Ok(Some(event)) = timeout(Duration::ZERO, events.next()).await {
        match of_session(event, session) {
            Some(EventKind::Received(text)) => {
                if unseen.is_some() {
                    return unseen;
                }
                unseen = Some(text);
            }
            Some(
                EventKind::Call { direction: Direction::In, .. }
                | EventKind::Send { direction: Direction::In, .. }
                | EventKind::CallResult { direction: Direction::In, action: Some(_), .. }
                | EventKind::CallError { direction: Direction::In, action: Some(_), .. },
            ) => unseen = None,
            _ => {}
        }
    }
    unseen
}

/// Returns the kind of an event if it belongs to the session.
fn of_session(event: Event, session: &Session) -> Option<EventKind> {
    (event.session_id == Some(session.id())).then_some(event.kind)
}

//! The recorded messages of one station as JSON, for the page of this node and for those of other nodes.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{console::recorder::Recording, message::payload::Payload, server::history::History};

/// The bytes of JSON around the messages, at most.
const AROUND: usize = 512;

/// The choice of messages of a station. Without `after`, the latest are chosen.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct HistoryQuery {
    /// The only action of the messages.
    pub(crate) action: Option<Box<str>>,
    /// Chooses the oldest messages behind this number.
    pub(crate) after: Option<u64>,
    pub(crate) limit: usize,
}

impl Default for HistoryQuery {
    fn default() -> Self {
        Self { action: None, after: None, limit: 200 }
    }
}

/// The recorded messages of a station, the oldest first.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StationHistory {
    pub(crate) messages: Vec<Box<RawValue>>,
    /// The name of the node that recorded them.
    pub(crate) node: Option<Arc<str>>,
    /// The messages of the station that were dropped, or only those behind `after`.
    pub(crate) forgotten: u64,
    /// The messages of the station that are recorded.
    pub(crate) count: usize,
}

impl Recording {
    /// Returns recorded messages of a station, as many as fit into `max_bytes` bytes of JSON. `None` if the station is not
    /// recorded.
    pub(crate) fn history(&self, key: &str, query: &HistoryQuery, max_bytes: usize) -> Option<StationHistory> {
        let (records, count) = {
            let facts = self.facts();
            let count = facts.store.count(key)?;
            let records = match query.after {
                Some(after) => facts.store.after(key, after, query.limit),
                None => facts.store.latest(key, query.action.as_deref(), query.limit)?,
            };
            (records, count)
        };
        let mut forgotten = records.forgotten;
        let lines = records.records.iter().filter_map(|record| record.to_json(&self.mask).ok());
        let mut messages: Vec<_> = lines.filter_map(|line| RawValue::from_string(line).ok()).collect();
        let mut left = max_bytes.saturating_sub(AROUND);
        if query.after.is_some() {
            // Nothing behind a message that never fits would ever be read.
            let too_large = messages.iter().take_while(|message| size(message) > left).count();
            messages.drain(..too_large);
            forgotten += too_large as u64;
            let kept = messages.iter().take_while(|message| takes(&mut left, message)).count();
            messages.truncate(kept);
        } else {
            let kept = messages.iter().rev().take_while(|message| takes(&mut left, message)).count();
            let dropped = messages.len() - kept;
            messages.drain(..dropped);
            forgotten += dropped as u64;
        }
        Some(StationHistory { messages, node: self.node.clone(), forgotten, count })
    }
}

/// Returns the bytes of a message, with the comma behind it.
fn size(message: &RawValue) -> usize {
    message.get().len() + 1
}

/// Takes the bytes of a message from those that are left. Returns false if there are not enough.
fn takes(left: &mut usize, message: &RawValue) -> bool {
    let rest = left.checked_sub(size(message));
    *left = rest.unwrap_or(*left);
    rest.is_some()
}

impl History for Recording {
    fn recorded(&self, key: &str, query: &Payload, max_bytes: usize) -> Option<Payload> {
        let query = query.decode().unwrap_or_default();
        Payload::encode(&self.history(key, &query, max_bytes)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        console::{
            record::{Body, Content, RecordKind},
            store::Limits,
        },
        handler::router::RpcRouter,
        server::rpc_server::RpcServer,
    };

    /// Returns the numbers of the messages, counted from the first one that there has been, and how many are missing.
    fn read(recording: &Recording, query: &HistoryQuery, max_bytes: usize) -> (Vec<u64>, u64) {
        #[derive(Deserialize)]
        struct Numbered {
            seq: u64,
        }
        let history = recording.history("CP-1", query, max_bytes).expect("recorded");
        assert!(serde_json::to_string(&history).expect("JSON").len() <= max_bytes);
        let seq = |message: &RawValue| serde_json::from_str::<Numbered>(message.get()).expect("JSON").seq - 1000;
        (history.messages.iter().map(|message| seq(message)).collect(), history.forgotten)
    }

    #[tokio::test]
    async fn history_for_another_node_fits_into_its_messages() {
        let server = RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).build().expect("settings");
        let limits = Limits { max_messages_per_station: 9, max_bytes_per_station: 1 << 16, max_bytes: 1 << 20 };
        let (recording, _) = Recording::begin(&server, limits);
        for (number, len) in [10, 10, 5000, 10, 10].into_iter().enumerate() {
            let text = "x".repeat(len);
            let content = Content { body: Body::Text(&text), ..Content::new(RecordKind::Bad) };
            recording.facts().store.push(&"CP-1".into(), content, 1000 + number as u64);
        }
        let latest = HistoryQuery::default();
        assert_eq!(read(&recording, &latest, 1 << 20), (vec![0, 1, 2, 3, 4], 0));
        assert_eq!(read(&recording, &latest, 2000), (vec![3, 4], 3));
        assert_eq!(read(&recording, &HistoryQuery { limit: 1, ..latest.clone() }, 2000), (vec![4], 0));
        let after = |after: u64| HistoryQuery { after: Some(after + 1000), ..latest.clone() };
        assert_eq!(read(&recording, &HistoryQuery { after: Some(0), ..latest.clone() }, 2000), (vec![0, 1], 0));
        assert_eq!(read(&recording, &after(1), 2000), (vec![3, 4], 1), "the third never fits");
        assert_eq!(read(&recording, &after(4), 2000), (vec![], 0));
    }
}

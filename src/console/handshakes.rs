//! The latest refused handshakes.

use std::{collections::VecDeque, sync::Arc};

use serde_json::{Map, Value};

/// The refusals that are kept.
const MAX: usize = 200;

/// The bytes of a refusal, above which it is shortened. Other nodes of a cluster choose the texts of theirs.
const MAX_BYTES: usize = 16 * 1024;

/// The characters of a text of a refusal that is shortened.
const MAX_TEXT: usize = 500;

/// The latest refused handshakes as JSON, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Handshakes {
    latest: VecDeque<Arc<str>>,
    /// The number of refusals since recording began.
    total: u64,
}

impl Handshakes {
    /// Adds a refusal, which is a JSON object, and gives it a number as `seq`.
    pub(crate) fn push(&mut self, json: String) {
        self.total += 1;
        let mut json = if json.len() > MAX_BYTES { shortened(&json) } else { json };
        if let Some(fields) = json.strip_prefix('{') {
            json = format!("{{\"seq\":{},{fields}", self.total);
        }
        if self.latest.len() == MAX {
            self.latest.pop_front();
        }
        self.latest.push_back(json.into());
    }

    /// Returns the number of refusals since recording began.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Returns the refusals, the newest first.
    pub(crate) fn newest_first(&self) -> Vec<Arc<str>> {
        self.latest.iter().rev().cloned().collect()
    }

    /// Returns the refusals that followed when there had been this many in total, and how many of them were dropped.
    pub(crate) fn after(&self, total: u64) -> (Vec<Arc<str>>, u64) {
        let new = usize::try_from(self.total.saturating_sub(total)).unwrap_or(usize::MAX);
        let kept = new.min(self.latest.len());
        (self.latest.iter().skip(self.latest.len() - kept).cloned().collect(), (new - kept) as u64)
    }
}

fn shortened(json: &str) -> String {
    let mut fields: Map<String, Value> = serde_json::from_str(json).unwrap_or_default();
    fields.values_mut().for_each(shorten);
    Value::from(fields).to_string()
}

/// Cuts a long text, and removes what has parts.
fn shorten(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Some((end, _)) = text.char_indices().nth(MAX_TEXT) {
                text.truncate(end);
            }
        }
        Value::Array(_) | Value::Object(_) => *value = Value::Null,
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn refusals_are_numbered_and_large_ones_are_shortened() {
        let mut handshakes = Handshakes::default();
        let large = "\u{e9}".repeat(MAX_BYTES);
        let refusal = json!({"at": 1, "status": 401, "reason": large, "request": {"path": large}});
        handshakes.push(refusal.to_string());
        handshakes.push(r#"{"at":2,"request":{"path":"/"}}"#.to_owned());
        let (refusals, lost) = handshakes.after(0);
        let read = |json: &str| serde_json::from_str::<Value>(json).expect("JSON");
        let reason = "\u{e9}".repeat(MAX_TEXT);
        let expected = json!({"at": 1, "status": 401, "reason": reason, "request": null, "seq": 1});
        assert_eq!((read(&refusals[0]), lost), (expected, 0));
        assert_eq!(read(&refusals[1]), json!({"at": 2, "request": {"path": "/"}, "seq": 2}));
    }
}

//! The recorded messages of all stations, in bounded memory.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use crate::{
    console::record::{Body, Content, Record, RecordKind, allocated},
    mask::{Mask, secrets::Secrets},
};

/// The bounds of a store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) max_messages_per_station: usize,
    pub(crate) max_bytes_per_station: usize,
    pub(crate) max_bytes: usize,
}

/// The records of all stations.
///
/// A station that exceeds its bounds loses its oldest records. If all stations exceed theirs together, the one that has
/// been silent for the longest time loses all of its records.
#[derive(Debug)]
pub(crate) struct Store {
    limits: Limits,
    mask: Mask,
    stations: HashMap<Arc<str>, Sequence>,
    /// The stations by the turn of their latest record.
    by_turn: BTreeMap<u64, Arc<str>>,
    turn: u64,
    bytes: usize,
    /// The highest number that a record has had.
    last_seq: u64,
    /// The times at which events were lost.
    losses: u64,
}

/// The records of one station.
#[derive(Debug)]
struct Sequence {
    /// The number of the first record that there has been.
    start: u64,
    records: VecDeque<Record>,
    /// The bytes that the records allocate, without the deque.
    heap: usize,
    turn: u64,
    /// The losses of the store when the latest record came.
    losses: u64,
}

/// The memory of a station without records: its places in the two maps, the counts of its key, and what they waste.
const STATION_SIZE: usize = 256;

/// The bytes of a station below which nothing is recorded.
const MIN_BYTES: usize = 16 * 1024;

/// The latest records in which the call of a response is looked for.
const LOOKBACK: usize = 200;

/// The description of an error that may repeat a value of a message that is not recorded.
const NOT_SHOWN: &str = "not shown: the message that it is about is not recorded";

/// A part of the records of one station, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pub(crate) records: Vec<Record>,
    /// The number of records of the station that were dropped. A gap of unknown length counts as one.
    pub(crate) forgotten: u64,
}

impl Store {
    pub(crate) fn new(limits: Limits, mask: Mask) -> Self {
        let (stations, by_turn) = (HashMap::new(), BTreeMap::new());
        Self { limits, mask, stations, by_turn, turn: 0, bytes: 0, last_seq: 0, losses: 0 }
    }

    /// Leaves a gap before the next record of each station, because events were lost.
    pub(crate) fn lose(&mut self) {
        self.losses += 1;
    }

    /// Stores a record of a station. `at` is the Unix time in microseconds.
    pub(crate) fn push(&mut self, key: &Arc<str>, content: Content<'_>, at: u64) {
        let empty = STATION_SIZE + allocated(key.len());
        let max_bytes = self.limits.max_bytes_per_station.min(self.limits.max_bytes);
        // The room for the first record with its texts but no body.
        let fixed = empty + 8 * size_of::<Record>() + allocated(8 * 1024);
        if self.limits.max_messages_per_station == 0 || max_bytes < MIN_BYTES.max(fixed) {
            return;
        }
        self.turn += 1;
        let turn = self.turn;
        let losses = self.losses;
        let sequence = self.stations.entry(key.clone()).or_insert_with(|| {
            self.bytes += empty;
            // Numbers go on rising after a restart of the process, and do not repeat those that were dropped.
            let start = at.max(self.last_seq + 1);
            Sequence { start, records: VecDeque::new(), heap: 0, turn, losses }
        });
        let key = self.by_turn.remove(&sequence.turn).unwrap_or_else(|| key.clone());
        self.by_turn.insert(turn, key);
        sequence.turn = turn;
        let bytes = sequence.bytes();
        let mut content = content;
        let details = sequence.describe(&mut content, at, &self.mask);
        let body = details.as_deref().map_or(content.body, Body::Payload);
        let content = Content { body, ..content };
        let has_gap = std::mem::replace(&mut sequence.losses, losses) != losses;
        let seq = sequence.next_seq() + u64::from(has_gap);
        self.last_seq = self.last_seq.max(seq);
        let record = Record::new(seq, at, &content, max_bytes - fixed);
        sequence.push(record, self.limits.max_messages_per_station, max_bytes - empty);
        self.bytes = self.bytes - bytes + sequence.bytes();
        while self.bytes > self.limits.max_bytes {
            let Some((_, silent)) = self.by_turn.pop_first() else { break };
            if let Some(dropped) = self.stations.remove(&silent) {
                self.bytes -= dropped.bytes() + STATION_SIZE + allocated(silent.len());
            }
        }
    }

    /// Returns the number of stations that have records, and the bytes that these take.
    pub(crate) fn usage(&self) -> (usize, usize) {
        (self.stations.len(), self.bytes)
    }

    /// Returns the number of records of a station. `None` if it is not recorded.
    pub(crate) fn count(&self, key: &str) -> Option<usize> {
        self.stations.get(key).map(|sequence| sequence.records.len())
    }

    /// Returns the latest records of a station, at most `limit`, of one action or of all. `None` if it is not recorded.
    pub(crate) fn latest(&self, key: &str, action: Option<&str>, limit: usize) -> Option<Records> {
        let sequence = self.stations.get(key)?;
        let newest_first = sequence.records.iter().rev();
        let chosen = newest_first.filter(|record| action.is_none_or(|action| record.action() == Some(action)));
        let mut records: Vec<_> = chosen.take(limit).cloned().collect();
        records.reverse();
        Some(Records { records, forgotten: sequence.forgotten() })
    }

    /// Returns the number of the latest record of a station.
    pub(crate) fn last_seq(&self, key: &str) -> Option<u64> {
        self.stations.get(key).map(|sequence| sequence.next_seq() - 1)
    }

    /// Returns the oldest records of a station behind the number `after`, at most `limit`, and how many between them and
    /// `after` were dropped.
    ///
    /// A number that the station has not reached comes from a time before this store, or from another node: all records
    /// are new then.
    pub(crate) fn after(&self, key: &str, after: u64, limit: usize) -> Records {
        let Some(sequence) = self.stations.get(key) else { return Records::default() };
        let is_foreign = after >= sequence.next_seq();
        let next = if is_foreign { 0 } else { after + 1 };
        let skipped = sequence.records.partition_point(|record| record.seq < next);
        let records: Vec<_> = sequence.records.iter().skip(skipped).take(limit).cloned().collect();
        let numbers = records.last().map_or(0, |last| last.seq + 1 - sequence.start.max(next));
        // All records up to `start` were dropped, or are elsewhere. Their number is unknown.
        let is_behind_gap = is_foreign || (after > 0 && next < sequence.start);
        Records { forgotten: numbers - records.len() as u64 + u64::from(is_behind_gap && !records.is_empty()), records }
    }
}

impl Sequence {
    fn bytes(&self) -> usize {
        self.heap + allocated(self.records.capacity() * size_of::<Record>())
    }

    fn next_seq(&self) -> u64 {
        self.records.back().map_or(self.start, |record| record.seq + 1)
    }

    fn forgotten(&self) -> u64 {
        self.next_seq() - self.start - self.records.len() as u64
    }

    /// Adds the time of a response, and hides tokens in the descriptions and details of errors, which may repeat values of
    /// other messages. Returns the details to record, if they change.
    fn describe(&self, content: &mut Content<'_>, at: u64, mask: &Mask) -> Option<String> {
        let call_direction = content.call_direction()?;
        // An error about a message whose id could not be read.
        let has_no_id = content.id == Some("-1");
        let latest = || self.records.iter().rev().take(LOOKBACK).enumerate();
        let call = latest().find(|(_, record)| {
            record.is(RecordKind::Call, call_direction)
                && if has_no_id {
                    content.action.is_some() && record.action() == content.action
                } else {
                    record.id() == content.id
                }
        });
        let is_violation = content.kind == RecordKind::Violation;
        if let Some((_, call)) = call
            && content.seconds.is_none()
            && !is_violation
        {
            content.seconds = Some(at.saturating_sub(call.at) as f64 / 1e6);
        }
        if !content.is_quoting {
            return None;
        }
        let own = if let Body::Payload(payload) = content.body { Some(payload) } else { None };
        let mut secrets = Secrets::default();
        own.into_iter().for_each(|payload| secrets.find(mask, payload));
        let (first, id) = call.map_or((LOOKBACK, content.id), |(place, call)| (place, call.id()));
        // A violation is about the payload that it has.
        let (mut is_recorded, mut is_left_out) = (is_violation, false);
        for (_, record) in latest().take_while(|(place, _)| *place <= first) {
            if record.id() == id || (has_no_id && record.is(RecordKind::Bad, call_direction)) {
                if let Some(body) = record.body() {
                    secrets.find(mask, body);
                    is_recorded |= content.is_about(record.kind);
                }
                is_left_out |= record.is_body_left_out() && !is_violation;
            }
        }
        let is_error = matches!(content.kind, RecordKind::Error | RecordKind::ResultError);
        if is_recorded && !is_left_out {
            if let Some(description) = &mut content.description {
                let hidden = secrets.hide_in_text(description).into_owned();
                *description = hidden.into();
            }
            if let (true, Some(own)) = (is_error, own) {
                return Some(secrets.hide_in_json(own).into_owned());
            }
        } else if !mask.is_none() {
            content.description = Some(NOT_SHOWN.into());
            if is_error {
                content.body = Body::None;
            }
        }
        None
    }

    /// Adds a record, and drops the oldest ones that then exceed the bounds.
    fn push(&mut self, record: Record, max_records: usize, max_bytes: usize) {
        self.heap += record.heap_size();
        if self.records.len() == self.records.capacity() {
            // Doubling would waste more.
            self.records.reserve_exact((self.records.len() / 8).max(8));
        }
        self.records.push_back(record);
        while self.records.len() > max_records || (self.bytes() > max_bytes && self.records.len() > 1) {
            if let Some(dropped) = self.records.pop_front() {
                self.heap -= dropped.heap_size();
            }
            if self.records.len() < self.records.capacity() / 4 {
                self.records.shrink_to(self.records.len() * 2);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::kind::Direction;

    fn call<'a>(id: &'a str, payload: &'a str) -> Content<'a> {
        let direction = Some(Direction::In);
        Content { direction, id: Some(id), body: Body::Payload(payload), ..Content::new(RecordKind::Call) }
    }

    fn store(max_messages_per_station: usize, max_bytes_per_station: usize, max_bytes: usize) -> Store {
        Store::new(Limits { max_messages_per_station, max_bytes_per_station, max_bytes }, Mask::new())
    }

    impl Store {
        /// Returns the bytes that the records take, counted anew.
        fn counted(&self) -> usize {
            let of = |(key, sequence): (&Arc<str>, &Sequence)| {
                let heap: usize = sequence.records.iter().map(Record::heap_size).sum();
                STATION_SIZE
                    + allocated(key.len())
                    + heap
                    + allocated(sequence.records.capacity() * size_of::<Record>())
            };
            self.stations.iter().map(of).sum()
        }
    }

    #[test]
    fn longest_silent_station_is_dropped_first() {
        let mut store = store(10, 1 << 20, 100_000);
        let payload = format!("\"{}\"", "x".repeat(30_000));
        for (at, key) in ["a", "b", "c", "a", "d"].into_iter().enumerate() {
            store.push(&key.into(), call("1", if at == 3 { "{}" } else { &payload }), at as u64);
        }
        let is_recorded = ["a", "b", "c", "d"].map(|key| store.count(key).is_some());
        assert_eq!(is_recorded, [true, false, true, true]);
        assert_eq!(store.usage().0, 3);
    }

    #[test]
    fn numbers_rise_although_the_clock_is_set_back() {
        let mut store = store(2, 1 << 20, 40_000);
        let payload = format!("\"{}\"", "x".repeat(25_000));
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        store.push(&a, call("1", &payload), 1000);
        assert_eq!(store.last_seq("a"), Some(1000));
        store.push(&b, call("2", &payload), 10);
        assert_eq!((store.last_seq("a"), store.last_seq("b")), (None, Some(1001)));
        store.push(&a, call("3", &payload), 20);
        assert_eq!(store.last_seq("a"), Some(1002));
    }

    #[test]
    fn records_behind_a_number_are_read_in_parts() {
        let mut store = store(3, 1 << 20, 1 << 20);
        let key: Arc<str> = "a".into();
        for at in 10..15 {
            store.push(&key, call("1", "{}"), at);
        }
        let read = |after, limit| {
            let Records { records, forgotten } = store.after("a", after, limit);
            (records.iter().map(|record| record.seq).collect::<Vec<_>>(), forgotten)
        };
        assert_eq!(read(0, 2), (vec![12, 13], 2));
        assert_eq!(read(10, 2), (vec![12, 13], 1));
        assert_eq!(read(12, 9), (vec![13, 14], 0));
        assert_eq!(read(14, 9), (vec![], 0));
        // Numbers of a process whose clock was ahead.
        assert_eq!(read(15, 2), (vec![12, 13], 3));
        assert_eq!(read(u64::MAX, 9), (vec![12, 13, 14], 3));
        // Numbers of records of the station that were dropped all together.
        assert_eq!(read(9, 1), (vec![12], 2));
        assert_eq!(read(8, 1), (vec![12], 3));
        assert_eq!(store.latest("a", None, 2).expect("recorded").records[0].seq, 13);
        assert_eq!(store.latest("a", None, 9).expect("recorded").forgotten, 2);
        assert!(store.latest("b", None, 9).is_none());
    }

    #[test]
    fn lost_events_leave_a_gap_in_each_sequence() {
        let mut store = store(3, 1 << 20, 1 << 20);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        store.push(&a, call("1", "{}"), 10);
        store.lose();
        store.lose();
        store.push(&b, call("1", "{}"), 11);
        store.push(&a, call("2", "{}"), 12);
        store.push(&a, call("3", "{}"), 13);
        let Records { records, forgotten } = store.latest("a", None, 9).expect("recorded");
        assert_eq!(records.iter().map(|record| record.seq).collect::<Vec<_>>(), [10, 12, 13]);
        assert_eq!(forgotten, 1);
        assert_eq!(store.latest("b", None, 9).expect("recorded").forgotten, 0);
        for (after, limit, expected) in [(9, 1, 0), (9, 2, 1), (10, 1, 1), (10, 9, 1), (11, 9, 0), (12, 9, 0)] {
            assert_eq!(store.after("a", after, limit).forgotten, expected, "{after} {limit}");
        }
    }

    /// Returns the description and the details that the last of these records of a station has.
    fn described(contents: Vec<Content<'_>>) -> (Option<String>, Option<String>) {
        let mut store = store(300, 1 << 20, 1 << 20);
        for (at, content) in contents.into_iter().enumerate() {
            store.push(&"a".into(), content, at as u64);
        }
        let record = store.latest("a", None, 1).expect("recorded").records.remove(0);
        let json: serde_json::Value = serde_json::from_str(&record.to_json(&Mask::new()).expect("JSON")).expect("JSON");
        let description = json["description"].as_str().map(Into::into);
        (description, (!json["payload"].is_null()).then(|| json["payload"].to_string()))
    }

    #[test]
    fn errors_do_not_repeat_tokens_of_other_messages() {
        let of = |kind, direction, id, payload| Content {
            kind,
            direction: Some(direction),
            is_quoting: true,
            description: Some("C0FFEE is unknown".into()),
            body: payload,
            ..call(id, "")
        };
        let (token, error) = (r#"{"idTag":"C0FFEE"}"#, Body::Payload(r#"{"tag":"C0FFEE"}"#));
        let call_in = |id| of(RecordKind::Call, Direction::In, id, Body::Payload(token));
        let error_out = |id| of(RecordKind::Error, Direction::Out, id, error);
        let hidden = (Some("*** is unknown".to_owned()), Some(r#"{"tag":"***"}"#.to_owned()));
        let not_shown = (Some(NOT_SHOWN.to_owned()), None);
        assert_eq!(described(vec![call_in("1"), error_out("1")]), hidden);
        assert_eq!(described(vec![call_in("1"), error_out("2")]), not_shown);
        let many = std::iter::repeat_with(|| call("2", "{}")).take(250);
        assert_eq!(described([call_in("1")].into_iter().chain(many).chain([error_out("1")]).collect()), not_shown);
        // The result that the handler gave does not pass validation.
        let violation = of(RecordKind::Violation, Direction::Out, "1", Body::Payload(token));
        assert_eq!(described(vec![call("1", "{}"), violation, error_out("1")]), hidden);
        let large = format!(r#"{{"idTag":"C0FFEE","x":"{}"}}"#, "x".repeat(1 << 20));
        let violation = of(RecordKind::Violation, Direction::Out, "1", Body::Payload(&large));
        assert_eq!(described(vec![call("1", "{}"), violation, error_out("1")]), not_shown);
        // The caller cannot use the result.
        let result = of(RecordKind::Result, Direction::In, "1", Body::Payload(token));
        let call_out = Content { direction: Some(Direction::Out), ..call("1", "{}") };
        for (kind, body) in [(RecordKind::ResultError, error), (RecordKind::Failed, Body::None)] {
            let content = of(kind, Direction::Out, "1", body);
            let (description, details) = described(vec![call_out.clone(), result.clone(), content.clone()]);
            assert_eq!(description, hidden.0, "{kind:?}");
            assert_eq!(details.is_some(), kind == RecordKind::ResultError);
            assert_eq!(described(vec![call_out.clone(), content]), not_shown, "{kind:?}");
        }
    }

    proptest! {
        #[test]
        fn bounds_hold_for_any_messages(
            pushes in prop::collection::vec((0..8_u8, prop_oneof![0..50_usize, 0..40_000_usize]), 0..200),
            max_messages in 0..40_usize,
            max_bytes_per_station in prop_oneof![0..20_000_usize, 0..200_000_usize],
            max_bytes in 0..300_000_usize,
        ) {
            let mut store = store(max_messages, max_bytes_per_station, max_bytes);
            let mut seqs = HashMap::new();
            for (at, (station, len)) in pushes.into_iter().enumerate() {
                let key: Arc<str> = format!("CP-{station}").into();
                store.push(&key, call("1", &"x".repeat(len)), at as u64);
                prop_assert_eq!(store.bytes, store.counted());
                prop_assert!(store.bytes <= max_bytes);
                prop_assert_eq!(store.by_turn.len(), store.stations.len());
                for (key, sequence) in &store.stations {
                    let bytes = STATION_SIZE + allocated(key.len()) + sequence.bytes();
                    prop_assert!(bytes <= max_bytes_per_station, "{} of {}", bytes, max_bytes_per_station);
                    prop_assert!((1..=max_messages).contains(&sequence.records.len()));
                    let first = sequence.start + sequence.forgotten();
                    prop_assert!(sequence.records.iter().map(|record| record.seq).eq(first..sequence.next_seq()));
                }
                if let Some(seq) = store.last_seq(&key) {
                    prop_assert!(seqs.insert(key, seq).is_none_or(|before| before < seq));
                }
            }
        }
    }
}

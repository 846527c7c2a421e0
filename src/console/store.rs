//! The recorded messages of all stations, in bounded memory.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use crate::{
    console::record::{Body, Content, Record, RecordKind, allocated},
    event::kind::Direction,
    mask::Mask,
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
}

/// The memory of a station without records: its places in the two maps, the counts of its key, and what they waste.
const STATION_SIZE: usize = 256;

/// The bytes of a station below which nothing is recorded.
const MIN_BYTES: usize = 16 * 1024;

/// A part of the records of one station, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pub(crate) records: Vec<Record>,
    /// The number of records of the station that were dropped.
    pub(crate) forgotten: u64,
}

impl Store {
    pub(crate) fn new(limits: Limits, mask: Mask) -> Self {
        Self { limits, mask, stations: HashMap::new(), by_turn: BTreeMap::new(), turn: 0, bytes: 0, last_seq: 0 }
    }

    /// Stores a record of a station. `at` is the Unix time in microseconds.
    pub(crate) fn push(&mut self, key: &Arc<str>, mut content: Content<'_>, at: u64) {
        let empty = STATION_SIZE + allocated(key.len());
        let max_bytes = self.limits.max_bytes_per_station.min(self.limits.max_bytes);
        // The room for the first record with its texts but no body.
        let fixed = empty + 8 * size_of::<Record>() + allocated(8 * 1024);
        if self.limits.max_messages_per_station == 0 || max_bytes < MIN_BYTES.max(fixed) {
            return;
        }
        self.turn += 1;
        let turn = self.turn;
        if !self.stations.contains_key(key) {
            // Numbers go on rising after a restart of the process, and do not repeat those that were dropped.
            let start = at.max(self.last_seq + 1);
            self.stations.insert(key.clone(), Sequence { start, records: VecDeque::new(), heap: 0, turn });
            self.by_turn.insert(turn, key.clone());
            self.bytes += empty;
        }
        let Some(sequence) = self.stations.get_mut(key) else { return };
        if let Some(key) = self.by_turn.remove(&sequence.turn) {
            self.by_turn.insert(turn, key);
        }
        sequence.turn = turn;
        let bytes = sequence.bytes();
        sequence.describe(&mut content, at, &self.mask);
        let seq = sequence.next_seq();
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

    /// Returns the oldest records of a station behind the number `after`, at most `limit`, and how many behind `after`
    /// were dropped.
    pub(crate) fn after(&self, key: &str, after: u64, limit: usize) -> Records {
        let Some(sequence) = self.stations.get(key) else { return Records::default() };
        let first = sequence.next_seq() - sequence.records.len() as u64;
        let next = after.saturating_add(1);
        let skipped = usize::try_from(next.saturating_sub(first)).unwrap_or(usize::MAX);
        let records = sequence.records.iter().skip(skipped).take(limit).cloned().collect();
        Records { records, forgotten: first.saturating_sub(sequence.start.max(next)) }
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

    /// Adds the time of a response, and hides tokens in the descriptions of errors, which may contain them.
    fn describe(&self, content: &mut Content<'_>, at: u64, mask: &Mask) {
        let of_call = match content.kind {
            RecordKind::Result | RecordKind::Error => content.direction.map(|direction| match direction {
                Direction::In => Direction::Out,
                Direction::Out => Direction::In,
            }),
            RecordKind::ResultError | RecordKind::Failed => content.direction,
            _ => None,
        };
        let call = of_call
            .zip(content.id)
            .and_then(|(direction, id)| self.records.iter().rev().find(|record| record.is_call(id, direction)));
        if let Some(call) = call
            && content.seconds.is_none()
        {
            content.seconds = Some(at.saturating_sub(call.at) as f64 / 1e6);
        }
        if let Some(description) = &mut content.description {
            let own = if let Body::Payload(payload) = content.body { Some(payload) } else { None };
            for payload in own.into_iter().chain(call.and_then(Record::body)) {
                let masked = mask.apply_to_text(description, payload).into_owned();
                *description = masked.into();
            }
        }
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
        assert_eq!(read(u64::MAX, 9), (vec![], 0));
        assert_eq!(store.latest("a", None, 2).expect("recorded").records[0].seq, 13);
        assert_eq!(store.latest("a", None, 9).expect("recorded").forgotten, 2);
        assert!(store.latest("b", None, 9).is_none());
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

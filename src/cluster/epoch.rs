//! The order in which the sessions of a cluster were opened.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{random::random, unix_time};

/// The id of a node, a random number. Its text is 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u64);

/// The moment at which a session was opened, which orders all sessions of a cluster.
///
/// Of two sessions of one station, the one with the higher epoch is the newer one. Equal moments are ordered by node. The
/// text is 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Epoch {
    /// Milliseconds since the Unix epoch in the upper 48 bits, then a counter.
    clock: u64,
    node: NodeId,
}

/// A hybrid logical clock: the time of the system, but never behind a time that another node has used.
///
/// Two sessions that one station opens one after the other at different nodes are therefore ordered, even if the clocks of
/// the nodes differ, as soon as the second node has learned of the first session.
#[derive(Debug)]
pub(crate) struct HybridClock {
    node: NodeId,
    latest: u64,
}

/// The bits of the counter within a millisecond.
const COUNTER_BITS: u32 = 16;

/// The clock of another node may be this much ahead. An epoch that is further ahead does not advance the clock, because
/// one broken message would otherwise change the order for good.
const MAX_AHEAD: Duration = Duration::from_secs(24 * 60 * 60);

impl NodeId {
    pub(crate) fn random() -> Self {
        Self(random())
    }
}

impl Epoch {
    /// Returns the time of the epoch, in milliseconds since the Unix epoch.
    fn millis(self) -> u64 {
        self.clock >> COUNTER_BITS
    }
}

impl HybridClock {
    pub(crate) fn new(node: NodeId) -> Self {
        Self { node, latest: 0 }
    }

    /// Returns an epoch that is higher than all before, and than all that were observed.
    pub(crate) fn next(&mut self, now: SystemTime) -> Epoch {
        let clock = (self.latest + 1).max(unix_time::millis(now) << COUNTER_BITS);
        self.latest = clock;
        Epoch { clock, node: self.node }
    }

    /// Returns the highest epoch so far.
    pub(crate) fn current(&self) -> Epoch {
        Epoch { clock: self.latest, node: self.node }
    }

    /// Advances the clock to an epoch of another node.
    pub(crate) fn observe(&mut self, epoch: Epoch, now: SystemTime) {
        if epoch.millis() <= unix_time::millis(now) + MAX_AHEAD.as_millis() as u64 {
            self.latest = self.latest.max(epoch.clock);
        }
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{}", self.clock, self.node)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not that of a [`NodeId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the id of a node: it must have 16 hexadecimal digits")]
pub struct InvalidNodeId;

/// Reads 16 lower case hexadecimal digits. Others are refused, so that each number has one text.
fn digits(text: &str) -> Option<u64> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (text.len() == 16 && text.bytes().all(is_digit)).then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

impl FromStr for NodeId {
    type Err = InvalidNodeId;

    fn from_str(text: &str) -> Result<Self, InvalidNodeId> {
        digits(text).map(Self).ok_or(InvalidNodeId)
    }
}

impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Epoch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Epoch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&str>::deserialize(deserializer)?;
        let parts = text.split_at_checked(16).and_then(|(clock, node)| Some((digits(clock)?, digits(node)?)));
        let (clock, node) = parts.ok_or_else(|| de::Error::custom("not an epoch"))?;
        Ok(Self { clock, node: NodeId(node) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
    }

    #[test]
    fn clock_never_goes_back_and_follows_others() {
        let (mut behind, mut ahead) = (HybridClock::new(NodeId(1)), HybridClock::new(NodeId(2)));
        let first = ahead.next(at(10_000));
        assert!(behind.next(at(5_000)) < first);
        behind.observe(first, at(5_000));
        let second = behind.next(at(5_001));
        assert!(second > first, "a session that was opened later is newer, although its node's clock is behind");
        assert!(behind.next(at(1)) > second);
    }

    #[test]
    fn epoch_far_ahead_does_not_advance_the_clock() {
        let mut clock = HybridClock::new(NodeId(1));
        let far = HybridClock::new(NodeId(2)).next(at(u64::MAX >> 20));
        clock.observe(far, at(1_000));
        assert!(clock.next(at(1_000)) < far);
    }

    #[test]
    fn equal_moments_are_ordered_by_node() {
        let epochs = [1, 2].map(|node| HybridClock::new(NodeId(node)).next(at(7)));
        assert!(epochs[0] < epochs[1]);
    }

    #[test]
    fn texts_are_read_back_and_others_refused() {
        let epoch = HybridClock::new(NodeId(u64::MAX)).next(at(1_767_225_600_000));
        let text = serde_json::to_string(&epoch).expect("a text");
        assert_eq!(serde_json::from_str::<Epoch>(&text).expect("an epoch"), epoch);
        for wrong in ["", "12", "00000000000000 1", "000000000000000G", "+000000000000001"] {
            assert_eq!(wrong.parse::<NodeId>(), Err(InvalidNodeId), "{wrong}");
            assert!(serde_json::from_str::<Epoch>(&format!("\"{wrong}{wrong}\"")).is_err(), "{wrong}");
        }
    }
}

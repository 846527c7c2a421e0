//! The subjects of NATS that messages are published to.
//!
//! A key is a part of a subject. Its encoding must be one to one and free of wildcards: a station named `*` would
//! otherwise receive the calls to all stations, and one with a space would end the connection to NATS.

use std::fmt::Write;

use ocpp_rpc::cluster::NodeId;

/// The longest encoded key. NATS closes connections that send lines of more than 4096 bytes, and a line contains the key
/// twice.
const MAX_KEY: usize = 1500;

/// The place of a key in the subject of an event without one.
const NO_KEY: &str = "=";

/// The place of the empty key.
const EMPTY_KEY: &str = "==";

/// The subjects of a namespace.
#[derive(Debug, Clone)]
pub(crate) struct Subjects {
    /// Ends with a point.
    prefix: Box<str>,
}

/// A key that is too long for a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLong;

/// The meaning of a subject that a message arrived on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    Request { key: String },
    Control { key: Option<String> },
    Reply { number: u64 },
    Broadcast { key: Option<String> },
    Event,
}

impl Subjects {
    /// Creates the subjects of a namespace: words between points. Other characters than letters, digits, `-` and `_` are
    /// encoded.
    pub(crate) fn new(namespace: &str) -> Self {
        let mut prefix = String::new();
        for word in namespace.split('.') {
            if word.is_empty() {
                prefix.push_str(NO_KEY);
            }
            word.bytes().for_each(|byte| push(&mut prefix, byte));
            prefix.push('.');
        }
        Self { prefix: prefix.into() }
    }

    /// Returns the subject of requests to a station.
    pub(crate) fn station(&self, key: &str) -> Result<String, TooLong> {
        self.keyed("s.", key)
    }

    /// Returns the subject of requests to a station at this node.
    pub(crate) fn station_at(&self, node: NodeId, key: &str) -> Result<String, TooLong> {
        self.keyed(&format!("n.{node}.s."), key)
    }

    /// Returns the subject of other messages to this node.
    pub(crate) fn node(&self, node: NodeId, key: Option<&str>) -> Result<String, TooLong> {
        self.optional(format!("n.{node}.do"), key)
    }

    /// Returns the subject of the replies to this request of a node.
    pub(crate) fn reply(&self, node: NodeId, number: u64, key: Option<&str>) -> Result<String, TooLong> {
        self.optional(format!("n.{node}.re.{number}"), key)
    }

    /// Returns the subject of messages to all nodes.
    pub(crate) fn all(&self, key: Option<&str>) -> Result<String, TooLong> {
        self.optional("all".to_owned(), key)
    }

    /// Returns the subject of an event.
    pub(crate) fn event(&self, key: Option<&str>, kind: &str) -> Result<String, TooLong> {
        let mut subject = self.events_of(key)?;
        kind.bytes().for_each(|byte| push(&mut subject, byte));
        Ok(subject)
    }

    /// Returns the subject that receives the events of a station, and with `None` those of all.
    pub(crate) fn events(&self, key: Option<&str>) -> Result<String, TooLong> {
        match key {
            Some(_) => Ok(self.events_of(key)? + "*"),
            None => Ok(format!("{}ev.>", self.prefix)),
        }
    }

    /// Returns the subject that receives the events of the stations of a tenant.
    pub(crate) fn events_below(&self, tenant: &str) -> Result<String, TooLong> {
        Ok(self.keyed("ev.", tenant)? + ".>")
    }

    /// Returns the subjects that receive the messages to this node, and to all nodes.
    pub(crate) fn own(&self, node: NodeId) -> [String; 3] {
        let prefix = &self.prefix;
        [format!("{prefix}n.{node}.>"), format!("{prefix}all"), format!("{prefix}all.>")]
    }

    /// Returns the subjects that receive the messages to this node about the stations of a tenant.
    pub(crate) fn own_below(&self, node: NodeId, tenant: &str) -> Result<[String; 2], TooLong> {
        let subjects = [format!("n.{node}.re.*."), format!("n.{node}.do.")];
        let [reply, control] = subjects.map(|subject| Ok(self.keyed(&subject, tenant)? + ".>"));
        Ok([reply?, control?])
    }

    /// Returns the meaning of a subject that this node received a message on.
    pub(crate) fn read(&self, node: NodeId, subject: &str) -> Option<Meaning> {
        let subject = subject.strip_prefix(&*self.prefix)?;
        let (kind, rest) = split(subject);
        match kind {
            "s" => Some(Meaning::Request { key: decode(rest?)? }),
            "all" => Some(Meaning::Broadcast { key: decode_optional(rest)? }),
            "ev" => Some(Meaning::Event),
            "n" => {
                let (to, rest) = split(rest?);
                if to.parse() != Ok(node) {
                    return None;
                }
                let (kind, rest) = split(rest?);
                match kind {
                    "s" => Some(Meaning::Request { key: decode(rest?)? }),
                    "do" => Some(Meaning::Control { key: decode_optional(rest)? }),
                    "re" => Some(Meaning::Reply { number: number(split(rest?).0)? }),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Returns the node and the number of the request that this subject receives the replies to.
    pub(crate) fn read_reply(&self, subject: &str) -> Option<(NodeId, u64)> {
        let (node, rest) = split(subject.strip_prefix(&*self.prefix)?.strip_prefix("n.")?);
        let (request, _) = split(rest?.strip_prefix("re.")?);
        Some((node.parse().ok()?, number(request)?))
    }

    /// Returns the key of the station that requests to this subject go to.
    pub(crate) fn read_station(&self, subject: &str) -> Option<String> {
        let subject = subject.strip_prefix(&*self.prefix)?;
        let id = match subject.strip_prefix("n.") {
            Some(by_name) => split(by_name).1?.strip_prefix("s.")?,
            None => subject.strip_prefix("s.")?,
        };
        decode(id)
    }

    fn keyed(&self, kind: &str, key: &str) -> Result<String, TooLong> {
        let mut subject = String::with_capacity(self.prefix.len() + kind.len() + key.len() + 8);
        subject.push_str(&self.prefix);
        subject.push_str(kind);
        encode(&mut subject, key)?;
        Ok(subject)
    }

    fn optional(&self, kind: String, key: Option<&str>) -> Result<String, TooLong> {
        match key {
            Some(key) => self.keyed(&(kind + "."), key),
            None => Ok(format!("{}{kind}", self.prefix)),
        }
    }

    fn events_of(&self, key: Option<&str>) -> Result<String, TooLong> {
        match key {
            Some(key) => Ok(self.keyed("ev.", key)? + "."),
            None => Ok(format!("{}ev.{NO_KEY}.", self.prefix)),
        }
    }
}

/// Appends an encoded key.
///
/// Letters, digits, `-` and `_` stay. A `/` between two parts becomes a point, so that permissions can name a part. Any
/// other byte becomes `=` and its two hexadecimal digits.
fn encode(subject: &mut String, key: &str) -> Result<(), TooLong> {
    let start = subject.len();
    if key.is_empty() {
        subject.push_str(EMPTY_KEY);
    }
    let bytes = key.as_bytes();
    for (at, &byte) in bytes.iter().enumerate() {
        let is_in_part = |at: usize| bytes.get(at).is_some_and(|byte| *byte != b'/');
        if byte == b'/' && at.checked_sub(1).is_some_and(is_in_part) && is_in_part(at + 1) {
            subject.push('.');
        } else {
            push(subject, byte);
        }
        if subject.len() - start > MAX_KEY {
            return Err(TooLong);
        }
    }
    Ok(())
}

fn push(subject: &mut String, byte: u8) {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => subject.push(byte.into()),
        // Writing to a string cannot fail.
        _ => _ = write!(subject, "={byte:02X}"),
    }
}

/// Returns the key of an encoded one. `None` if no key is encoded like this.
fn decode(encoded: &str) -> Option<String> {
    let mut key = Vec::with_capacity(encoded.len());
    let mut rest = if encoded == EMPTY_KEY { &[] } else { encoded.as_bytes() };
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'.' => key.push(b'/'),
            b'=' => {
                let (digits, tail) = rest.split_at_checked(2)?;
                key.push(u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?);
                rest = tail;
            }
            _ => key.push(byte),
        }
    }
    let key = String::from_utf8(key).ok()?;
    let mut again = String::with_capacity(encoded.len());
    encode(&mut again, &key).ok()?;
    (again == encoded).then_some(key)
}

fn decode_optional(encoded: Option<&str>) -> Option<Option<String>> {
    match encoded {
        None => Some(None),
        Some(encoded) => decode(encoded).map(Some),
    }
}

/// Splits off the first word.
fn split(subject: &str) -> (&str, Option<&str>) {
    match subject.split_once('.') {
        Some((word, rest)) => (word, Some(rest)),
        None => (subject, None),
    }
}

fn number(word: &str) -> Option<u64> {
    let number: u64 = word.parse().ok()?;
    // `+1` and `01` are numbers as well.
    (number.to_string() == word).then_some(number)
}

#[cfg(test)]
mod tests;

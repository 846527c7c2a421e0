//! The calls to the peer: which wait for their turn, which are in flight, and to which of them a response belongs.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use bytestring::ByteString;

use crate::{
    connection::{call_ids::CallIds, ordered::Ordered, outbound::Outbound},
    error::Error,
    event::kind::{Direction, EventKind, Text},
    message::{
        payload::{MessageId, Payload},
        read,
        tolerance::Tolerance,
        write,
    },
    options::{self, Options},
};

/// Identifies a call among all calls of a session. Later calls have higher keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CallKey(pub(crate) u64);

/// A call to the peer. `T` gives the outcome to the caller.
#[derive(Debug)]
pub(crate) struct Outgoing<T> {
    pub(crate) key: CallKey,
    /// Made from the key by [`CallIds`], or given by the caller.
    pub(crate) id: MessageId,
    pub(crate) has_own_id: bool,
    pub(crate) action: ByteString,
    /// The parameters, or the whole text of [`Kind::Raw`].
    pub(crate) params: Payload,
    pub(crate) kind: Kind,
    pub(crate) timeout: Timeout,
    /// The moment at which the call ends, in the queue or in flight.
    pub(crate) deadline: Option<Instant>,
    pub(crate) sender: T,
}

impl<T> Outgoing<T> {
    /// Creates a call without an id and a key, which it gets when it is made.
    pub(crate) fn new(kind: Kind, action: ByteString, params: Payload, sender: T) -> Self {
        let (key, id, timeout) = (CallKey(0), MessageId::default(), Timeout::Default);
        Self { key, id, has_own_id: false, action, params, kind, timeout, deadline: None, sender }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Waits for its turn and for its response.
    Call,
    /// Waits for its response, but not for its turn.
    Immediate,
    /// Waits for its turn. It has ended when it is written, and its response counts as late.
    FireAndForget,
    /// Does not wait for its turn. It has ended when it is written, and its response counts as late.
    ImmediateAndForget,
    /// Has ended when it is written, and does not wait for its turn.
    Send,
    /// Is any text. It has ended when it is written, and does not wait for its turn.
    Raw,
}

impl Kind {
    /// Returns whether the call waits for its turn.
    pub(crate) fn waits_for_turn(self) -> bool {
        matches!(self, Self::Call | Self::FireAndForget)
    }

    /// Returns whether the call waits for its response, rather than to be written.
    pub(crate) fn expects_response(self) -> bool {
        matches!(self, Self::Call | Self::Immediate)
    }
}

/// The time that a response may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timeout {
    /// As the options of the connection say.
    Default,
    After(Duration),
    Never,
}

/// Converts the timeout that a caller sets, of which `None` waits for ever.
impl From<Option<Duration>> for Timeout {
    fn from(timeout: Option<Duration>) -> Self {
        timeout.map(options::finite).map_or(Self::Never, Self::After)
    }
}

/// A call that is written and waits for its response.
#[derive(Debug)]
struct InFlight<T> {
    expires: Option<Instant>,
    // Boxed, so that an idle connection keeps little room for calls that have ended.
    call: Box<Outgoing<T>>,
}

/// The call that a response belongs to.
#[derive(Debug)]
pub(super) enum ResponseMatch<T> {
    InFlight(Box<Outgoing<T>>),
    /// A call of this connection that timed out, was dropped, did not wait for its response, or has had one.
    Late,
    Unknown,
}

#[derive(Debug)]
pub(crate) struct CallsOut<T> {
    ids: CallIds,
    queue: Ordered<Box<Outgoing<T>>>,
    /// The calls that do not wait for their turn. Created for the first one, and few connections have any.
    immediate: Option<Box<Ordered<Box<Outgoing<T>>>>>,
    in_flight: Ordered<InFlight<T>>,
    /// The keys of the calls that this connection has written are at least this.
    first_key: u64,
    /// The keys of the calls that are written are less than this.
    next_key: u64,
    /// Created when a caller first gives an id.
    own_ids: Option<Box<OwnIds>>,
    /// No call expires before this moment.
    earliest: Option<Instant>,
}

/// The ids that callers gave to their calls.
#[derive(Debug, Default)]
struct OwnIds {
    /// The keys of the pending calls.
    pending: HashMap<MessageId, u64>,
    /// The latest ids that were written on this connection.
    written: VecDeque<MessageId>,
}

/// The number of ids given by callers that are remembered. A response to one of them is late, if not awaited.
const MAX_OWN_IDS: usize = 1000;

/// The number of calls in flight up to which a search in order is faster than one by key.
const FEW: usize = 4;

impl<T> CallsOut<T> {
    pub(super) fn new(ids: CallIds) -> Self {
        Self {
            ids,
            queue: Ordered::new(),
            immediate: None,
            in_flight: Ordered::new(),
            first_key: 0,
            next_key: 0,
            own_ids: None,
            earliest: None,
        }
    }

    /// Returns whether a call with this id is queued or in flight.
    pub(super) fn is_pending(&self, id: &MessageId) -> bool {
        self.key_of(id).is_some_and(|key| {
            let call = self.get_queued(key).or_else(|| self.in_flight.get(key).map(|flight| &*flight.call));
            call.is_some_and(|call| call.id == *id)
        })
    }

    pub(super) fn submit(&mut self, call: Box<Outgoing<T>>) {
        self.track_deadline(call.deadline);
        let key = call.key.0;
        if call.has_own_id {
            self.own_ids.get_or_insert_default().pending.insert(call.id.clone(), key);
        }
        if call.kind.waits_for_turn() {
            self.queue.insert(key, call);
        } else {
            self.immediate.get_or_insert_with(|| Box::new(Ordered::new())).insert(key, call);
        }
    }

    /// Removes a call, queued or in flight. If it was not written, nothing of it reaches the wire.
    pub(crate) fn cancel(&mut self, CallKey(key): CallKey) {
        let queued = self.queue.remove(key).or_else(|| self.immediate.as_mut()?.remove(key));
        let call = queued.or_else(|| self.in_flight.remove(key).map(|flight| flight.call));
        if let Some(call) = call {
            self.release_id(&call);
        }
    }

    /// Returns the number of calls that are not written yet.
    pub(crate) fn queued(&self) -> usize {
        self.queue.len() + self.immediate.as_ref().map_or(0, |immediate| immediate.len())
    }

    /// Returns whether a call may be written now.
    pub(super) fn may_write(&self, options: &Options) -> bool {
        let has_immediate = self.immediate.as_ref().is_some_and(|immediate| !immediate.is_empty());
        has_immediate || (!self.queue.is_empty() && self.in_flight.len() < options.call_concurrency)
    }

    /// Takes the calls that are not written yet.
    pub(super) fn take_queued(&mut self) -> Vec<Box<Outgoing<T>>> {
        let immediate = self.immediate.take().into_iter().flat_map(|mut immediate| immediate.take_all());
        let queued: Vec<_> = self.queue.take_all().chain(immediate).collect();
        queued.iter().for_each(|call| self.release_id(call));
        queued
    }

    /// Returns the next message to write, if one may be written. A sender comes with it if the call ends when it is written.
    pub(super) fn next_write(
        &mut self,
        now: Instant,
        options: &Options,
        describe: bool,
    ) -> Option<(Outbound, Option<T>)> {
        let mut call = if let Some(immediate) = self.immediate.as_mut().and_then(|immediate| immediate.pop_first()) {
            immediate
        } else if self.in_flight.len() < options.call_concurrency {
            self.queue.pop_first()?
        } else {
            return None;
        };
        self.next_key = self.next_key.max(call.key.0 + 1);
        if call.has_own_id {
            self.remember_id(&call.id);
        }
        // A call in flight keeps no parameters.
        let params = std::mem::take(&mut call.params);
        let text = match call.kind {
            Kind::Send => write::send(&call.id, &call.action, &params),
            Kind::Raw => params.as_str().to_owned(),
            _ => write::call(&call.id, &call.action, &params),
        };
        let event = if describe { describe_call(&call, params, options.tolerance) } else { None };
        let message = Outbound { text, event };
        if !call.kind.expects_response() {
            self.release_id(&call);
            return Some((message, Some(call.sender)));
        }
        let timeout = match call.timeout {
            Timeout::Default => options.call_timeout,
            Timeout::After(timeout) => Some(timeout),
            Timeout::Never => None,
        };
        let expires = timeout.map(|timeout| now + timeout).into_iter().chain(call.deadline).min();
        self.track_deadline(expires);
        self.in_flight.insert(call.key.0, InFlight { expires, call });
        Some((message, None))
    }

    /// Removes and returns the call that a response with this id belongs to.
    pub(super) fn take_match(&mut self, id: &MessageId) -> ResponseMatch<T> {
        if let Some(key) = self.find_in_flight(id)
            && let Some(InFlight { call, .. }) = self.in_flight.remove(key)
        {
            self.release_id(&call);
            return ResponseMatch::InFlight(call);
        }
        let is_ours = self.ids.number(id).is_some_and(|key| (self.first_key..self.next_key).contains(&key));
        let is_late = is_ours || self.own_ids.as_ref().is_some_and(|own_ids| own_ids.written.contains(id));
        if is_late { ResponseMatch::Late } else { ResponseMatch::Unknown }
    }

    /// Removes and returns the call in flight if there is exactly one.
    pub(super) fn take_only(&mut self) -> ResponseMatch<T> {
        if self.in_flight.len() > 1 {
            return ResponseMatch::Unknown;
        }
        let Some(InFlight { call, .. }) = self.in_flight.pop_first() else { return ResponseMatch::Unknown };
        self.release_id(&call);
        ResponseMatch::InFlight(call)
    }

    /// Returns the action of the call in flight that a response with this id belongs to.
    pub(super) fn action(&self, id: &MessageId) -> Option<&ByteString> {
        let flight = self.in_flight.get(self.find_in_flight(id)?)?;
        Some(&flight.call.action)
    }

    /// Returns the action of the call in flight if there is exactly one.
    pub(super) fn only_action(&self) -> Option<&ByteString> {
        let (_, only) = self.in_flight.iter().next().filter(|_| self.in_flight.len() == 1)?;
        Some(&only.call.action)
    }

    /// Returns whether the call with this id waits for its response.
    pub(super) fn is_in_flight(&self, id: &MessageId) -> bool {
        self.find_in_flight(id).is_some()
    }

    /// Returns whether a response with this id can only belong to a call of this end.
    pub(super) fn is_own(&self, id: &MessageId) -> bool {
        self.is_in_flight(id) || self.ids.number(id).is_some()
    }

    pub(crate) fn has_in_flight(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Returns the number of calls that wait for their response.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Returns a moment before which no call expires.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.earliest
    }

    /// Ends the calls that have expired.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<(T, Error)> {
        if self.earliest.is_none_or(|earliest| now < earliest) {
            return Vec::new();
        }
        let is_over = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        let mut ended = Vec::new();
        for InFlight { call, .. } in self.in_flight.take_if(|flight| is_over(flight.expires)) {
            self.release_id(&call);
            ended.push((call.sender, Error::Timeout));
        }
        let queued = self.queue.take_if(|call| is_over(call.deadline));
        let immediate = self.immediate.as_mut().map(|calls| calls.take_if(|call| is_over(call.deadline)));
        for call in queued.into_iter().chain(immediate.unwrap_or_default()) {
            self.release_id(&call);
            ended.push((call.sender, Error::NeverSent));
        }
        let immediate = self.immediate.iter().flat_map(|immediate| immediate.iter());
        let queued = self.queue.iter().chain(immediate).filter_map(|(_, call)| call.deadline);
        self.earliest = self.in_flight.iter().filter_map(|(_, flight)| flight.expires).chain(queued).min();
        ended
    }

    /// Ends the calls in flight, because their connection is lost. The next one knows none of the ids so far.
    pub(super) fn fail_in_flight(&mut self) -> impl Iterator<Item = (T, Error)> + use<T> {
        let lost: Vec<_> = self.in_flight.take_all().collect();
        lost.iter().for_each(|flight| self.release_id(&flight.call));
        if let Some(own_ids) = &mut self.own_ids {
            own_ids.written.clear();
        }
        let immediate = self.immediate.as_ref().and_then(|immediate| immediate.first_key());
        let queued = self.queue.first_key().into_iter().chain(immediate);
        self.first_key = queued.chain([self.next_key]).min().unwrap_or_default();
        lost.into_iter().map(|flight| (flight.call.sender, Error::Disconnected { maybe_delivered: true }))
    }

    /// Ends the calls that are not written yet, because no other connection follows.
    pub(super) fn fail_queued(&mut self) -> impl Iterator<Item = (T, Error)> + use<T> {
        self.take_queued().into_iter().map(|call| (call.sender, Error::Disconnected { maybe_delivered: false }))
    }

    pub(super) fn is_settled(&self) -> bool {
        self.queued() == 0 && self.in_flight.is_empty()
    }

    fn get_queued(&self, key: u64) -> Option<&Outgoing<T>> {
        self.queue.get(key).or_else(|| self.immediate.as_ref()?.get(key)).map(|call| &**call)
    }

    /// Returns the key of the call in flight with this id.
    fn find_in_flight(&self, id: &MessageId) -> Option<u64> {
        if self.in_flight.len() <= FEW {
            return self.in_flight.iter().find(|(_, flight)| flight.call.id == *id).map(|(key, _)| key);
        }
        let key = self.key_of(id)?;
        self.in_flight.get(key).filter(|flight| flight.call.id == *id).map(|_| key)
    }

    /// Returns the key of a call that may be pending.
    fn key_of(&self, id: &MessageId) -> Option<u64> {
        let own = self.own_ids.as_ref().and_then(|own_ids| own_ids.pending.get(id).copied());
        own.or_else(|| self.ids.number(id))
    }

    /// Remembers that an id of a caller was written.
    #[cold]
    fn remember_id(&mut self, id: &MessageId) {
        let written = &mut self.own_ids.get_or_insert_default().written;
        if written.len() == MAX_OWN_IDS {
            written.pop_front();
        }
        written.push_back(id.clone());
    }

    /// Lets another call have the id of a call that is not pending any more.
    fn release_id(&mut self, call: &Outgoing<T>) {
        if call.has_own_id
            && let Some(own_ids) = &mut self.own_ids
        {
            own_ids.pending.remove(&call.id);
        }
    }

    fn track_deadline(&mut self, deadline: Option<Instant>) {
        self.earliest = self.earliest.into_iter().chain(deadline).min();
    }
}

/// Returns the event of a call, or of a text if it is a message.
#[cold]
fn describe_call<T>(call: &Outgoing<T>, params: Payload, tolerance: Tolerance) -> Option<Box<EventKind>> {
    let (direction, id, action) = (Direction::Out, call.id.clone(), Text(call.action.clone()));
    Some(Box::new(match call.kind {
        Kind::Raw => EventKind::of(read::read(&params.0, tolerance).0.ok()?, direction, None),
        Kind::Send => EventKind::Send { direction, id, action, params },
        _ => EventKind::Call { direction, id, action, params },
    }))
}

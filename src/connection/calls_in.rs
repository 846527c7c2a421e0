//! The peer's calls: who is being worked on, who waits in line, whose id is taken, and how fast they may come.

use std::{
    collections::{HashSet, VecDeque},
    time::Instant,
};

use crate::{
    connection::request::Inbound,
    error::{CallError, ErrorCode},
    message::payload::MessageId,
    options::Options,
};

#[derive(Debug, Default)]
pub(crate) struct CallsIn {
    /// Calls that wait for a handler.
    line: VecDeque<Inbound>,
    /// The bytes of their messages.
    line_weight: usize,
    /// The ids of calls that have not been answered or wait in line.
    taken: HashSet<MessageId>,
    running: usize,
    /// When calls would be used up that came at the highest rate allowed, one for each that came in.
    used_up: Option<Instant>,
}

/// How many bytes may wait in line for a handler, in messages of the largest size.
const LINE_BYTES: usize = 4;

impl CallsIn {
    /// Whether a call with this id is still being worked on, or waits in line.
    pub(super) fn is_taken(&self, id: &MessageId) -> bool {
        self.taken.contains(id)
    }

    /// Counts a call, and says whether there is room for it.
    pub(super) fn admit(&mut self, call: &Inbound, now: Instant, options: &Options) -> Result<(), CallError> {
        let refused = |why: String| CallError::new(ErrorCode::GENERIC_ERROR, why);
        if let Some((calls, time)) = options.call_rate {
            // The generic cell rate algorithm: each call uses up its share of the time.
            let used_up = self.used_up.map_or(now, |used_up| used_up.max(now)) + time / calls;
            if used_up > now + time {
                return Err(refused(format!("more than {calls} calls in {time:?}")));
            }
            self.used_up = Some(used_up);
        }
        if self.has_free_handler(options) {
            return Ok(());
        }
        let most_bytes = options.max_message_size.saturating_mul(LINE_BYTES);
        match self.line.len() < options.handler_queue && self.line_weight + call.weight <= most_bytes {
            true => Ok(()),
            false => Err(refused("too many calls are waiting to be handled".to_owned())),
        }
    }

    fn has_free_handler(&self, options: &Options) -> bool {
        self.running < options.handler_concurrency && self.line.is_empty()
    }

    /// Gives back a call that may be worked on now, or has it wait in line.
    pub(super) fn line_up(&mut self, call: Inbound, options: &Options) -> Option<Inbound> {
        if self.has_free_handler(options) {
            return Some(call);
        }
        self.line_weight += call.weight;
        if call.expects_response {
            self.take(&call.id);
        }
        self.line.push_back(call);
        None
    }

    /// A call is being worked on and was not done at once.
    pub(crate) fn started(&mut self) {
        self.running += 1;
    }

    /// A call that had [`started`](Self::started) is done.
    pub(crate) fn finished(&mut self) {
        self.running -= 1;
    }

    /// Takes the id of a call until it is [answered](Self::answered).
    pub(crate) fn take(&mut self, id: &MessageId) {
        self.taken.insert(id.clone());
    }

    /// A call that has taken its id is answered, or never will be.
    pub(crate) fn answered(&mut self, id: &MessageId) {
        self.taken.remove(id);
    }

    /// The next call in line that may be worked on now.
    pub(super) fn next(&mut self, options: &Options) -> Option<Inbound> {
        if self.running >= options.handler_concurrency {
            return None;
        }
        let call = self.line.pop_front()?;
        self.line_weight -= call.weight;
        if call.expects_response {
            self.taken.remove(&call.id);
        }
        Some(call)
    }

    /// Forgets calls whose answers nobody can receive any more.
    pub(crate) fn forget(&mut self) {
        self.line.clear();
        self.line_weight = 0;
        self.taken.clear();
        self.running = 0;
    }

    pub(super) fn is_settled(&self) -> bool {
        self.running == 0 && self.line.is_empty() && self.taken.is_empty()
    }
}

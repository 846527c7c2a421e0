//! The history of a simulation, and the rules that it must keep.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    time::Duration,
};

use ocpp_rpc::Error;

use crate::{link::FaultKind, world::Limits};

/// One of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    Client,
    Server,
}

/// An end that makes calls: a client, or a node by the number of its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Caller {
    Client(usize),
    Node(usize),
}

impl Caller {
    pub fn side(self) -> Side {
        match self {
            Self::Client(_) => Side::Client,
            Self::Node(_) => Side::Server,
        }
    }
}

/// The kind of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Queued,
    BypassesQueue,
    FireAndForget,
    Send,
}

/// The end of a call, as its caller sees it.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The response to this call.
    Response,
    /// The response to the call with this number.
    Other(u64),
    /// A response that is not as the handler returned it.
    Altered,
    /// The end of a call without response: it was written.
    Written,
    Failed {
        error: String,
        /// Whether the error says that the peer did not carry out the call.
        is_not_delivered: bool,
    },
    /// The caller dropped the call.
    Dropped,
}

/// A fact of the history. Calls have numbers, which are part of their payloads.
#[derive(Clone, Debug)]
#[expect(dead_code, reason = "the history of a failed seed prints all fields")]
pub enum Fact {
    /// A step of the script.
    Step(String),
    /// A client dialled a node; the link has this number.
    Dialled {
        client: usize,
        link: u16,
        node: usize,
    },
    Fault {
        link: u16,
        from: Side,
        kind: FaultKind,
    },
    /// An end has limits: calls in flight, running handlers of a connection, and the timeout of calls.
    Limits {
        end: End,
        in_flight: usize,
        handlers: usize,
        timeout: Duration,
    },
    Made {
        call: u64,
        from: Caller,
        kind: Kind,
        /// Whether the call is to a station that may be connected to another node.
        is_to_station: bool,
    },
    /// The future of a call was polled first.
    Called {
        call: u64,
        limits: Limits,
    },
    /// A node sent a request for a call to another node.
    Requested {
        call: u64,
        node: usize,
    },
    /// The request for a call is on its way for this much longer than others.
    Late {
        call: u64,
        late: Duration,
    },
    /// A cluster has this delay at most, in milliseconds, and loses messages or not.
    Network {
        delay: u64,
        is_lossy: bool,
        duplication: f64,
    },
    /// A call ended at the server that made it on its own connection.
    EndedAtServer {
        call: u64,
    },
    Ended {
        call: u64,
        outcome: Outcome,
    },
    /// A handler began.
    Executed {
        call: u64,
        end: End,
    },
    /// A handler got a call that is not as its caller made it.
    AlteredCall {
        end: End,
    },
    /// The server got a password that its client never had.
    UnknownPassword {
        link: u16,
    },
    /// A handler ended.
    Finished {
        call: u64,
        end: End,
    },
    /// The proxy read a call.
    Wrote {
        call: u64,
        link: u16,
        from: Side,
    },
    /// The proxy read a response.
    Responded {
        call: u64,
        link: u16,
    },
    /// A number of sessions, tasks or the like that must be zero in the end.
    Left {
        what: &'static str,
        number: usize,
    },
    /// What must not happen.
    Broken(String),
}

/// An end of connections: a server's end of one link, or a client's end of all its links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum End {
    /// The server's end of a link.
    Server(u16),
    Client(usize),
}

impl End {
    pub fn side(self) -> Side {
        match self {
            Self::Server(_) => Side::Server,
            Self::Client(_) => Side::Client,
        }
    }
}

impl Outcome {
    pub fn failed(error: &Error) -> Self {
        let is_decided = matches!(error, Error::Rejected(_) | Error::Decode(_));
        let is_not_delivered = !error.maybe_delivered() && !is_decided;
        Self::Failed { error: error.to_string(), is_not_delivered }
    }
}

/// The history of a simulation, each fact with its time in milliseconds.
#[derive(Default)]
pub struct History {
    pub facts: Vec<(u64, Fact)>,
    /// The time that a caller may take to see the end of its call, in milliseconds. Zero if the clock is paused.
    pub slack: u64,
}

/// The facts about one call.
#[derive(Default)]
struct Call {
    from: Option<Caller>,
    kind: Option<Kind>,
    is_to_station: bool,
    /// The time of its first poll, and its place in the order of all facts.
    called: Option<(u64, usize)>,
    limits: Limits,
    /// The requests for it to other nodes.
    requests: usize,
    /// Whether one of them was late.
    is_late: bool,
    /// The time of its end at the server that made it on its own connection.
    ended_at_server: Option<u64>,
    ends: Vec<(u64, Outcome)>,
    executed: Vec<Side>,
    /// The links of its responses.
    responses: Vec<u16>,
    /// The time at which the proxy read its CALL.
    written: Option<u64>,
}

/// The directions of links that had faults that change what passes.
struct Corrupted(HashSet<(u16, Side)>);

impl Corrupted {
    fn of(history: &History) -> Self {
        let corrupted = history.facts.iter().filter_map(|(_, fact)| match fact {
            Fact::Fault { link, from, kind } if kind.is_corrupting() => Some((*link, *from)),
            _ => None,
        });
        Self(corrupted.collect())
    }

    /// Returns whether one of the links has changed what this side sent.
    fn any(&self, links: &[u16], from: Side) -> bool {
        links.iter().any(|link| self.0.contains(&(*link, from)))
    }
}

impl History {
    /// Returns the number of responses to calls from one node to another.
    pub fn remote_responses(&self) -> usize {
        let is_response = |call: &Call| matches!(&*call.ends, [(_, Outcome::Response)]);
        self.calls().values().filter(|call| call.requests > 0 && is_response(call)).count()
    }

    /// Returns the last link of a client, and the time of its dial.
    pub fn last_link(&self, client: usize) -> Option<(u64, u16)> {
        self.facts.iter().rev().find_map(|(at, fact)| match fact {
            Fact::Dialled { client: dialling, link, .. } if *dialling == client => Some((*at, *link)),
            _ => None,
        })
    }

    /// Returns whether a link had no fault.
    pub fn is_sound(&self, link: u16) -> bool {
        !self.facts.iter().any(|(_, fact)| matches!(fact, Fact::Fault { link: faulty, .. } if *faulty == link))
    }

    /// Returns the facts in order. Tasks that a server aborts end in one moment, in no order; their facts are sorted.
    pub fn sorted(&self) -> Vec<(u64, String)> {
        let mut facts: Vec<_> = self.facts.iter().map(|(at, fact)| (*at, format!("{fact:?}"))).collect();
        facts.sort();
        facts
    }

    pub fn count(&self, counts: impl Fn(&Fact) -> bool) -> usize {
        self.facts.iter().filter(|(_, fact)| counts(fact)).count()
    }

    /// Returns the rules that the history violates.
    pub fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        let (calls, corrupted) = (self.calls(), Corrupted::of(self));
        for (number, call) in &calls {
            call.check(*number, self.slack, &corrupted, &mut found);
        }
        self.check_order(&calls, &mut found);
        self.check_deadlines(&calls, &mut found);
        self.check_cancelled(&calls, &mut found);
        self.check_content(&corrupted, &mut found);
        self.check_in_flight(&calls, &mut found);
        self.check_handlers(&mut found);
        for (_, fact) in &self.facts {
            match fact {
                Fact::Broken(what) => found.push(what.clone()),
                Fact::Left { what, number } if *number > 0 => found.push(format!("{number} {what} are left")),
                _ => {}
            }
        }
        found
    }

    fn calls(&self) -> BTreeMap<u64, Call> {
        let mut calls = BTreeMap::<u64, Call>::new();
        for (place, (at, fact)) in self.facts.iter().enumerate() {
            match fact {
                Fact::Made { call, from, kind, is_to_station } => {
                    let call = calls.entry(*call).or_default();
                    (call.from, call.kind, call.is_to_station) = (Some(*from), Some(*kind), *is_to_station);
                }
                Fact::Called { call, limits } => {
                    let call = calls.entry(*call).or_default();
                    (call.called, call.limits) = (Some((*at, place)), *limits);
                }
                Fact::Requested { call, .. } => calls.entry(*call).or_default().requests += 1,
                Fact::Late { call, .. } => calls.entry(*call).or_default().is_late = true,
                Fact::EndedAtServer { call } => calls.entry(*call).or_default().ended_at_server = Some(*at),
                Fact::Ended { call, outcome } => calls.entry(*call).or_default().ends.push((*at, outcome.clone())),
                Fact::Executed { call, end } => calls.entry(*call).or_default().executed.push(end.side()),
                Fact::Responded { call, link } => calls.entry(*call).or_default().responses.push(*link),
                Fact::Wrote { call, .. } => _ = calls.entry(*call).or_default().written.get_or_insert(*at),
                _ => {}
            }
        }
        calls
    }

    /// Checks that only faults of links have changed what arrived.
    fn check_content(&self, corrupted: &Corrupted, found: &mut Vec<String>) {
        let mut links = HashMap::<usize, Vec<u16>>::new();
        for (at, fact) in &self.facts {
            match fact {
                Fact::Dialled { client, link, .. } => links.entry(*client).or_default().push(*link),
                Fact::AlteredCall { end } => {
                    let is_corrupted = match end {
                        End::Server(link) => corrupted.any(&[*link], Side::Client),
                        End::Client(client) => corrupted.any(&links[client], Side::Server),
                    };
                    if !is_corrupted {
                        found.push(format!("a handler of {end:?} got an altered call at {at} ms"));
                    }
                }
                Fact::UnknownPassword { link } if !corrupted.any(&[*link], Side::Client) => {
                    found.push(format!("link {link} had an unknown password at {at} ms"));
                }
                _ => {}
            }
        }
    }

    /// Checks the calls in flight of each end of each link, at the moment at which the proxy reads a call.
    ///
    /// The proxy may read a call late, and a caller sees the end of its call in the same moment. A call thus counts if
    /// the proxy has read it and it ends at a later time. A call to a station ends later at its caller: that of the
    /// server on the link counts, if it is known.
    fn check_in_flight(&self, calls: &BTreeMap<u64, Call>, found: &mut Vec<String>) {
        let mut limits = HashMap::<End, usize>::new();
        let mut clients = HashMap::<u16, usize>::new();
        let mut written = HashMap::<(u16, Side), Vec<u64>>::new();
        for (at, fact) in &self.facts {
            match fact {
                Fact::Dialled { client, link, .. } => drop(clients.insert(*link, *client)),
                // Calls in flight stay so when the limit falls. The highest limit of the past counts.
                Fact::Limits { end, in_flight, .. } => {
                    let limit = limits.entry(*end).or_default();
                    *limit = (*limit).max(*in_flight);
                }
                Fact::Wrote { call, link, from } if calls[call].kind == Some(Kind::Queued) => {
                    let all = written.entry((*link, *from)).or_default();
                    all.push(*call);
                    let is_in_flight = |call: &&u64| {
                        let call = &calls[call];
                        let is_later = |end: &u64| *end > at + self.slack;
                        if call.is_to_station {
                            call.ended_at_server.as_ref().is_some_and(is_later)
                        } else {
                            call.ends.iter().all(|(end, _)| is_later(end))
                        }
                    };
                    let in_flight = all.iter().filter(is_in_flight).count();
                    let end = match from {
                        Side::Server => End::Server(*link),
                        Side::Client => End::Client(clients[link]),
                    };
                    if limits.get(&end).is_some_and(|limit| in_flight > *limit) {
                        found.push(format!("{in_flight} calls of {end:?} are in flight on link {link} at {at} ms"));
                    }
                }
                _ => {}
            }
        }
    }

    /// Checks the running handlers of each connection of a server, of all connections of a client at each server, and of
    /// each client.
    fn check_handlers(&self, found: &mut Vec<String>) {
        let mut limits = HashMap::<End, usize>::new();
        let mut running = HashMap::<End, usize>::new();
        let mut clients = HashMap::<u16, (usize, usize)>::new();
        for (at, fact) in &self.facts {
            match fact {
                Fact::Limits { end, handlers, .. } => {
                    let limit = limits.entry(*end).or_default();
                    *limit = (*limit).max(*handlers);
                }
                Fact::Executed { end, .. } => {
                    let count = running.entry(*end).or_default();
                    *count += 1;
                    // The handlers of a client's lost connections count as well.
                    let times = if end.side() == Side::Client { 2 } else { 1 };
                    let limit = limits.get(end).map(|limit| limit * times);
                    if limit.is_some_and(|limit| *count > limit) {
                        found.push(format!("{count} handlers of {end:?} run at {at} ms"));
                    }
                    if let End::Server(link) = end {
                        let client = clients.get(link);
                        let is_same = |end: &End| matches!(end, End::Server(link) if clients.get(link) == client);
                        let all: usize = running.iter().filter(|(end, _)| is_same(end)).map(|(_, count)| count).sum();
                        let limit = limits.iter().filter(|(end, _)| is_same(end)).map(|(_, limit)| limit).max();
                        if limit.is_some_and(|limit| all > 2 * limit) {
                            found.push(format!("{all} handlers of (client, server) {client:?} run at {at} ms"));
                        }
                    }
                }
                Fact::Dialled { client, link, node } => drop(clients.insert(*link, (*client, *node))),
                Fact::Finished { end, .. } => *running.entry(*end).or_default() -= 1,
                _ => {}
            }
        }
        for (end, running) in running.into_iter().filter(|(_, running)| *running > 0) {
            found.push(format!("{running} handlers of {end:?} never ended"));
        }
    }

    /// Checks that queued calls are written in the order in which they were made: those of a client over all of its
    /// links, and those of a node on each link. A call that was requested again, because the station had moved, may come
    /// later, and one whose request was late.
    fn check_order(&self, calls: &BTreeMap<u64, Call>, found: &mut Vec<String>) {
        let mut dials = HashMap::new();
        let mut written = BTreeMap::<_, Vec<_>>::new();
        for (place, (_, fact)) in self.facts.iter().enumerate() {
            match fact {
                Fact::Dialled { link, node, .. } => drop(dials.insert(*link, (place, *node))),
                Fact::Wrote { call: number, link, .. } => {
                    let call = &calls[number];
                    let (Some(from), Some((_, called)), (dialled, node)) = (call.from, call.called, dials[link]) else {
                        continue;
                    };
                    let (group, requests) = match from {
                        Caller::Client(_) => (None, 0),
                        Caller::Node(own) => (Some(*link), usize::from(own != node)),
                    };
                    let is_in_order = call.requests == requests && !call.is_late;
                    if matches!(call.kind, Some(Kind::Queued | Kind::FireAndForget)) && is_in_order {
                        written.entry((from, group)).or_default().push((dialled, place, called, *number));
                    }
                }
                _ => {}
            }
        }
        for ((from, _), mut written) in written {
            // The proxy may read the end of an old link late.
            written.sort_unstable();
            for ((_, _, before, first), (_, _, after, second)) in written.iter().zip(written.iter().skip(1)) {
                if before > after {
                    found.push(format!("{from:?} made call {second} before call {first}, and it was written later"));
                }
            }
        }
    }

    /// Checks that no call is written after its end, as far as links without faults show. That includes requests that
    /// arrive after their cancellation, as b87 says.
    fn check_cancelled(&self, calls: &BTreeMap<u64, Call>, found: &mut Vec<String>) {
        /// The proxy reads this much later, in milliseconds.
        const PROXY: u64 = 3000;
        /// A node that does not get the cancellation may write a call this much later: a late request, and 4 s.
        const NOT_CANCELLED: u64 = 20_000;
        let networks = self.facts.iter().filter_map(|(at, fact)| match fact {
            Fact::Network { delay, is_lossy, .. } => Some((*at, *delay, *is_lossy)),
            _ => None,
        });
        let networks: Vec<_> = networks.collect();
        // Messages stay in order, so that one can wait for an earlier one that takes long.
        let cancelled_at = |ended: u64| {
            let now = networks.iter().rfind(|(at, ..)| *at <= ended);
            let relevant =
                || networks.iter().filter(|(at, ..)| (ended.saturating_sub(4000)..ended + 4000).contains(at));
            let is_lossy = now.into_iter().chain(relevant()).any(|(_, _, is_lossy)| *is_lossy);
            let delay = now.into_iter().chain(relevant()).map(|(_, delay, _)| *delay).max();
            if is_lossy { ended + NOT_CANCELLED } else { ended + delay.unwrap_or_default() }
        };
        let faulty = self.facts.iter().filter_map(|(_, fact)| match fact {
            Fact::Fault { link, .. } => Some(*link),
            _ => None,
        });
        let faulty: HashSet<_> = faulty.collect();
        for (at, fact) in &self.facts {
            if let Fact::Wrote { call, link, .. } = fact
                && let [(ended, outcome)] = &*calls[call].ends
                && *at > if calls[call].requests == 0 { *ended } else { cancelled_at(*ended) } + PROXY
                && !faulty.contains(link)
            {
                found.push(format!("call {call} is written at {at} ms, and ended at {ended} ms: {outcome:?}"));
            }
        }
    }

    /// Checks that each call ended within its timeouts. The timeout for the response counts from the moment at which the
    /// proxy read the call.
    fn check_deadlines(&self, calls: &BTreeMap<u64, Call>, found: &mut Vec<String>) {
        /// A call to another node ends this much later at most, as b86 says.
        const REMOTE: u64 = 250;
        /// The loss of a response from another node is noticed within this time, in milliseconds.
        const LOSS: u64 = 6000;
        let mut timeouts = HashMap::<End, u64>::new();
        let mut links = HashMap::new();
        for (_, fact) in &self.facts {
            match fact {
                Fact::Limits { end, timeout, .. } => {
                    let longest = timeouts.entry(*end).or_default();
                    *longest = (*longest).max(timeout.as_millis() as u64);
                }
                Fact::Wrote { call, link, .. } => _ = links.entry(*call).or_insert(*link),
                _ => {}
            }
        }
        // The clock has a resolution of a millisecond.
        let slack = 2 + 10 * self.slack;
        for (number, call) in calls {
            let (Some((called, _)), [(ended, outcome)]) = (call.called, &*call.ends) else { continue };
            if let Some(total) = call.limits.total {
                let latest = called + total.as_millis() as u64 + if call.is_to_station { REMOTE } else { 0 };
                if *ended > latest + slack {
                    found.push(format!("call {number} ended at {ended} ms, after its deadline at {latest} ms"));
                }
            }
            let (Some(from), Some(written), Some(Kind::Queued | Kind::BypassesQueue)) =
                (call.from, call.written, call.kind)
            else {
                continue;
            };
            let end = match from {
                Caller::Client(client) => End::Client(client),
                Caller::Node(_) => End::Server(links[number]),
            };
            let timeout = call.limits.timeout.map(|timeout| timeout.as_millis() as u64);
            let Some(timeout) = timeout.or_else(|| timeouts.get(&end).copied()) else { continue };
            let latest = written + timeout + if call.is_to_station { LOSS } else { 0 };
            if *ended > latest + slack {
                found.push(format!("call {number} ended at {ended} ms, its timeout at {latest} ms: {outcome:?}"));
            }
        }
    }
}

impl Call {
    fn check(&self, number: u64, slack: u64, corrupted: &Corrupted, found: &mut Vec<String>) {
        let Self { from, ends, executed, responses, written, .. } = self;
        let Some(from) = from else { return found.push(format!("call {number} was never made")) };
        let from = from.side();
        let [(ended, outcome)] = &**ends else {
            return found.push(format!("call {number} has ended {} times", ends.len()));
        };
        if executed.len() > 1 {
            found.push(format!("call {number} was executed {} times", executed.len()));
        }
        if executed.contains(&from) {
            found.push(format!("call {number} was executed by its own side"));
        }
        if !executed.is_empty() && written.is_none() {
            found.push(format!("call {number} was executed and never written"));
        }
        if responses.len() > 1 {
            found.push(format!("call {number} had {} responses", responses.len()));
        }
        let responder = match from {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        };
        match outcome {
            Outcome::Other(other) => found.push(format!("call {number} got the response to call {other}")),
            Outcome::Altered if !corrupted.any(responses, responder) => {
                found.push(format!("call {number} got an altered response"));
            }
            Outcome::Response if executed.is_empty() => {
                found.push(format!("call {number} has a response and was never executed"));
            }
            Outcome::Response if written.is_none_or(|written| written > ended + slack) => {
                found.push(format!("call {number} has a response and was written at {written:?} ms"));
            }
            Outcome::Failed { error, is_not_delivered: true } if !executed.is_empty() => {
                found.push(format!("call {number} was executed, but its error says that it was not: {error}"));
            }
            Outcome::Failed { error, is_not_delivered: true } if written.is_some() => {
                found.push(format!("call {number} was written, but its error says that it was not: {error}"));
            }
            _ => {}
        }
    }
}

/// The facts, one a line.
impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.facts.iter().try_for_each(|(at, fact)| writeln!(f, "{at:>9} ms  {fact:?}"))
    }
}

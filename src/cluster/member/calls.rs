//! The requests of this node to other nodes.

use std::{
    collections::BTreeMap,
    mem,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until, timeout_at},
};

use crate::{
    close::{info::CloseInfo, intent::Close},
    cluster::{
        epoch::NodeId,
        member::{Member, send_failure},
        metrics,
        outbox::Target,
        requests::{Ending, Owners, PROBE_INTERVAL, Pending},
        transport::Destination,
        wire::{self, Broadcast, CloseRequest, Control, Mode, Request, Response},
    },
    error::Error,
    info::StationInfo,
    message::payload::Payload,
    route::{Rejecter, RemoteCall, RemoteOutcome, RemoteResult},
};

/// The time within which another node must respond, or begin to carry out the request.
const TAKEN_TIMEOUT: Duration = Duration::from_secs(2);

/// The time after which this node looks if a request has arrived. A node reports before that it has begun to carry it out.
const LOOK_AFTER: Duration = Duration::from_millis(250);

/// A request is not carried out after this time, by the clocks of both nodes. They may differ by some seconds.
const EXPIRY: Duration = Duration::from_secs(12);

/// The caller ends a call by itself if no response has come this much later than the total timeout.
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(250);

/// A node that does not answer probes for this long is dead.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// The requests that a probe names at most.
const MAX_PROBED: usize = 1000;

/// The nodes that a request is sent to, one after the other, if they have no session of the station any more.
const MAX_ATTEMPTS: usize = 4;

/// The time between two attempts, in which a node ends its subscription.
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(20);

/// Returns the moment until which a request must be sent.
fn send_by(deadline: Option<Instant>) -> Instant {
    let latest = Instant::now() + TAKEN_TIMEOUT;
    deadline.map_or(latest, |deadline| deadline.min(latest))
}

/// Returns the destination of a request to a station, at the node that it is addressed to by name.
fn destination(key: &str, addressee: Option<NodeId>) -> Destination<'_> {
    match addressee {
        Some(node) => Destination::StationAt { node, key },
        None => Destination::Station(key),
    }
}

/// Cancels a request when dropped before its response.
struct Guard<'a> {
    member: &'a Member,
    key: &'a Arc<str>,
    number: u64,
    receiver: oneshot::Receiver<Ending>,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let pending = self.member.state().pending.remove(&self.number);
        if let Some(pending) = pending {
            self.member.cancel(self.number, &pending);
        }
    }
}

impl Guard<'_> {
    /// Returns `true` if the request waits for its response, and the condition holds.
    fn is_waiting(&self, condition: impl Fn(&Pending) -> bool) -> bool {
        self.member.state().pending.get(&self.number).is_some_and(condition)
    }

    /// Waits until the request ends.
    async fn end(&mut self, deadline: Option<Instant>) -> Result<Ending, Error> {
        let taken_by = Instant::now() + TAKEN_TIMEOUT;
        let first = deadline.map_or(taken_by, |deadline| deadline.min(taken_by));
        let lost = |_| Ending::Lost;
        let look_at = first.min(Instant::now() + LOOK_AFTER);
        if let Ok(ending) = timeout_at(look_at, &mut self.receiver).await {
            return Ok(ending.unwrap_or_else(lost));
        }
        // The broker may drop a request to a node that ends its subscription, or leaves, at that moment.
        if look_at < first && self.is_waiting(|pending| pending.owner.is_none()) {
            tokio::select! {
                biased;
                ending = &mut self.receiver => return Ok(ending.unwrap_or_else(lost)),
                is_lost = self.member.is_lost(self.key, self.number, first) => {
                    if is_lost && self.is_waiting(|pending| pending.owner.is_none()) {
                        return Ok(Ending::Lost);
                    }
                }
            }
        }
        if let Ok(ending) = timeout_at(first, &mut self.receiver).await {
            return Ok(ending.unwrap_or_else(lost));
        }
        if first < taken_by {
            return Err(Error::Timeout);
        }
        if self.is_waiting(|pending| pending.owner.is_none()) {
            return Err(Error::Disconnected { maybe_delivered: true });
        }
        let receiver = &mut self.receiver;
        match deadline {
            Some(deadline) => match timeout_at(deadline, receiver).await {
                Ok(ending) => Ok(ending.unwrap_or_else(lost)),
                Err(_) => Err(Error::Timeout),
            },
            None => Ok(receiver.await.unwrap_or_else(lost)),
        }
    }
}

impl Member {
    /// Calls a station that is connected to another node.
    pub(crate) async fn call(self: Arc<Self>, call: RemoteCall) -> RemoteOutcome {
        let started_at = Instant::now();
        let outcome = self.clone().call_unmeasured(call).await;
        metrics::call("out", outcome.as_ref().err(), started_at.elapsed());
        outcome
    }

    async fn call_unmeasured(self: Arc<Self>, call: RemoteCall) -> RemoteOutcome {
        let key = call.key.clone();
        let deadline = call.total_timeout.map(|timeout| Instant::now() + timeout + RESPONSE_TIMEOUT);
        let (number, response) = self.request(&key, Request::call(call, self.expiry()), deadline).await?;
        let payload = response.result.ok_or(Error::Disconnected { maybe_delivered: true })?;
        let rejecter = response.rejectable_at.map(|owner| -> Rejecter {
            Box::new(move |error| {
                let (from, request, error) = (self.id, number, error.into());
                self.control_about(&key, owner, &Control::CallResultError { from, request, error });
            })
        });
        Ok(RemoteResult { payload, rejecter })
    }

    /// Returns the information on a station that is connected to another node.
    pub(crate) async fn info(&self, key: &Arc<str>) -> Result<Option<StationInfo>, Error> {
        let deadline = Instant::now() + TAKEN_TIMEOUT;
        match self.request(key, Request::new(key, Mode::Info, self.expiry()), Some(deadline)).await {
            Ok((_, response)) => Ok(response.info),
            Err(Error::NotConnected) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Closes the session of a station that is connected to another node.
    pub(crate) async fn close(&self, key: &Arc<str>, close: &Close) -> Result<CloseInfo, Error> {
        let request =
            Request { close: Some(CloseRequest::from(close)), ..Request::new(key, Mode::Close, self.expiry()) };
        let (_, response) = self.request(key, request, None).await?;
        response.closed.ok_or(Error::Disconnected { maybe_delivered: true })
    }

    /// Returns the recorded messages of a station that is connected to another node. `None` if that node records none.
    pub(crate) async fn recorded(&self, key: &Arc<str>, query: Payload) -> Result<Option<Payload>, Error> {
        let deadline = Instant::now() + TAKEN_TIMEOUT;
        let request = Request { params: Some(query), ..Request::new(key, Mode::Recorded, self.expiry()) };
        let (_, response) = self.request(key, request, Some(deadline)).await?;
        Ok(response.recorded)
    }

    fn expiry(&self) -> SystemTime {
        self.transport.now() + EXPIRY
    }

    /// Sends a request to the node that a station is connected to, and waits for its response. Returns the number of the
    /// request as well.
    async fn request(
        &self,
        key: &Arc<str>,
        request: Request,
        deadline: Option<Instant>,
    ) -> Result<(u64, Response), Error> {
        let message = wire::encode(&request);
        let mut moved_to = self.state().moves.find(key, Instant::now().into_std());
        let mut attempts = MAX_ATTEMPTS;
        loop {
            if !self.transport.is_connected() {
                return Err(Error::Unreachable);
            }
            let mut guard = self.register(key, moved_to)?;
            let to = destination(key, moved_to);
            let sent =
                timeout_at(send_by(deadline), self.transport.send(to, Some(guard.number), message.clone())).await;
            match sent {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    // There is nothing to cancel.
                    self.state().pending.remove(&guard.number);
                    return Err(send_failure(error));
                }
                Err(_) => return Err(Error::Disconnected { maybe_delivered: true }),
            }
            let (error, is_free) = match guard.end(deadline).await? {
                Ending::Response(response) => match response.error {
                    None => return Ok((guard.number, *response)),
                    Some(error) => (Error::from(error), false),
                },
                Ending::NotPermitted => (Error::Unreachable, false),
                Ending::NotDelivered => (Error::NotConnected, moved_to.is_none()),
                Ending::Lost => (Error::Disconnected { maybe_delivered: true }, false),
            };
            // The node has no session any more, and has not begun to carry out the request: another node may have one,
            // unless none is subscribed.
            if !matches!(error, Error::NotConnected) || is_free || attempts == 0 {
                return Err(error);
            }
            attempts -= 1;
            moved_to = {
                let mut state = self.state();
                state.moves.forget_at(key, moved_to);
                state.moves.find(key, Instant::now().into_std())
            };
            if moved_to.is_none() {
                let next = Instant::now() + ATTEMPT_INTERVAL;
                if deadline.is_some_and(|deadline| deadline <= next) {
                    return Err(error);
                }
                sleep_until(next).await;
            }
        }
    }

    /// Asks the node that a request should have arrived at. Returns `true` if there is none, or if it does not have the
    /// request. Requests arrive in order, so that the node would have received it before.
    async fn is_lost(&self, key: &Arc<str>, number: u64, by: Instant) -> bool {
        let asking = async {
            let message = wire::encode(&Request::look(key, number, self.expiry()));
            let addressee = self.state().pending.get(&number)?.addressee;
            let mut guard = self.register(key, addressee).ok()?;
            self.transport.send(destination(key, addressee), Some(guard.number), message).await.ok()?;
            (&mut guard.receiver).await.ok()
        };
        match timeout_at(by, asking).await {
            Ok(Some(Ending::NotDelivered)) => true,
            Ok(Some(Ending::Response(response))) => {
                response.error.is_some_and(|error| matches!(Error::from(error), Error::NotConnected))
            }
            _ => false,
        }
    }

    fn register<'a>(&'a self, key: &'a Arc<str>, addressee: Option<NodeId>) -> Result<Guard<'a>, Error> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state();
        if state.has_left {
            return Err(Error::Unreachable);
        }
        let number = state.next_request();
        state.pending.insert(number, Pending { sender, key: key.clone(), addressee, owner: None, is_unknown: false });
        Ok(Guard { member: self, key, number, receiver })
    }

    /// Cancels a request at the node that carries it out.
    fn cancel(&self, request: u64, pending: &Pending) {
        let from = self.id;
        match pending.owner.or(pending.addressee) {
            Some(node) => self.control_about(&pending.key, node, &Control::Cancel { from, request }),
            None => {
                let cancel = wire::encode(&Broadcast::Cancel { from, request });
                self.post(Target::All(Some(pending.key.clone())), None, cancel);
            }
        }
    }

    /// Handles a response.
    pub(super) fn on_response(&self, number: u64, response: Response) {
        let mut state = self.state();
        if let Some(owner) = response.taken {
            if let Some(pending) = state.pending.get_mut(&number) {
                pending.owner = Some(owner);
                state.owners.add(owner);
                drop(state);
                self.outbox_changed.notify_one();
            }
            return;
        }
        if response.page.is_some() {
            drop(state);
            self.on_page(number, response);
            return;
        }
        let pending = state.pending.remove(&number);
        drop(state);
        if let Some(pending) = pending {
            let _ = pending.sender.send(Ending::Response(Box::new(response)));
        }
    }

    pub(super) fn on_not_delivered(&self, number: u64) {
        let mut state = self.state();
        let (pending, owner) = (state.pending.remove(&number), state.owners.probes.remove(&number));
        drop(state);
        if let Some(pending) = pending {
            let _ = pending.sender.send(Ending::NotDelivered);
        }
        if let Some((owner, _)) = owner {
            tracing::warn!(node = %owner, "a node is gone");
            self.on_lost_node(owner);
        }
    }

    /// Fails the requests to a station that the broker refuses.
    pub(super) fn on_not_permitted(&self, key: &str) {
        let refused = |pending: &Pending| *pending.key == *key && pending.owner.is_none();
        let refused: Vec<_> = self.state().pending.extract_if(|_, pending| refused(pending)).collect();
        for (_, pending) in refused {
            let _ = pending.sender.send(Ending::NotPermitted);
        }
    }

    /// Probes the nodes that carry out requests, and fails the requests of those that do not answer.
    pub(super) fn probe(&self, now: Instant) {
        let mut dead = Vec::new();
        let mut probes = Vec::new();
        {
            let mut state = self.state();
            if state.owners.probe_due.is_none_or(|due| due > now) {
                return;
            }
            let mut requests: BTreeMap<NodeId, (Arc<str>, Vec<u64>)> = BTreeMap::new();
            for (number, pending) in &state.pending {
                if let Some(owner) = pending.owner {
                    requests.entry(owner).or_insert_with(|| (pending.key.clone(), Vec::new())).1.push(*number);
                }
            }
            state.owners.unanswered.retain(|owner, _| requests.contains_key(owner));
            for (owner, (key, requests)) in requests {
                let unanswered = state.owners.unanswered.entry(owner).or_default();
                if unanswered.is_some_and(|since| now - since >= PROBE_TIMEOUT) {
                    dead.push(owner);
                    continue;
                }
                for requests in requests.chunks(MAX_PROBED) {
                    let number = state.next_request();
                    if !state.owners.watch(number, owner, now) {
                        break;
                    }
                    state.owners.unanswered.entry(owner).or_default().get_or_insert(now);
                    let probe = Control::Probe { from: self.id, probe: number, requests: requests.to_vec() };
                    probes.push((Target::Node(owner, Some(key.clone())), number, wire::encode(&probe)));
                }
            }
            let is_over = state.owners.unanswered.is_empty();
            state.owners.probe_due = (!is_over).then(|| now + PROBE_INTERVAL);
        }
        for (target, number, message) in probes {
            self.post(target, Some(number), message);
        }
        for owner in dead {
            tracing::warn!(node = %owner, "a node does not answer: its calls fail");
            self.fail_requests_of(owner);
        }
    }

    /// Handles the answer to a probe.
    pub(super) fn on_alive(&self, owner: NodeId, probe: u64, unknown: &[u64]) {
        let mut state = self.state();
        if !state.owners.answered(owner, probe) {
            return;
        }
        let mut lost = Vec::new();
        for number in unknown {
            match state.pending.get_mut(number) {
                // The answer may have overtaken the response. The next one cannot: it was probed for after this one.
                Some(pending) if pending.owner == Some(owner) && !pending.is_unknown => pending.is_unknown = true,
                Some(pending) if pending.owner == Some(owner) => lost.extend(state.pending.remove_entry(number)),
                _ => {}
            }
        }
        drop(state);
        self.fail(lost);
    }

    /// Fails the requests that a node carries out, or was to carry out.
    pub(super) fn fail_requests_of(&self, node: NodeId) {
        let mut state = self.state();
        state.owners.remove(node);
        let is_owned = |pending: &Pending| pending.owner.or(pending.addressee) == Some(node);
        let lost = state.pending.extract_if(|_, pending| is_owned(pending)).collect();
        drop(state);
        self.fail(lost);
    }

    pub(super) fn fail_all_requests(&self) {
        let mut state = self.state();
        state.owners = Owners::default();
        let lost = mem::take(&mut state.pending).into_iter().collect();
        drop(state);
        self.fail(lost);
    }

    /// Fails requests whose response is lost. Their nodes may be alive, and must not begin to carry them out any more.
    fn fail(&self, mut lost: Vec<(u64, Pending)>) {
        // So that a test that repeats itself sends the same messages in the same order.
        lost.sort_unstable_by_key(|(number, _)| *number);
        for (number, pending) in lost {
            tracing::debug!(key = &*pending.key, "the response to a request is lost");
            self.cancel(number, &pending);
            let _ = pending.sender.send(Ending::Lost);
        }
    }
}

//! The requests of other nodes to the stations of this one.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};

use crate::{
    call::{self, Call},
    close::intent::Close,
    cluster::{
        epoch::NodeId,
        member::Member,
        metrics,
        outbox::Target,
        recent::RequestId,
        serving::KeptResult,
        transport::{Destination, SendError},
        wire::{self, Control, Mode, Request, Response, WireError},
    },
    connection::{
        call_result::CallResult,
        calls_out::Kind,
        shared::{Command, Shared},
    },
    error::Error,
    unix_time,
};

/// A request that takes longer is reported as taken.
const TAKEN_AFTER: Duration = Duration::from_millis(100);

/// The requests that may be carried out at once. More fail with [`Error::QueueFull`].
const MAX_RUNNING: usize = 65_536;

/// The time for which the caller may reject a result with a CALLRESULTERROR.
const REJECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The results that the caller may reject. The oldest is forgotten for a new one.
const MAX_RESULTS: usize = 4096;

/// Ends a request in the list, even if its task is dropped.
struct Running {
    member: Arc<Member>,
    request: RequestId,
    key: Arc<str>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.member.state();
        state.serving.running.remove(&self.request);
        state.serving.ended.insert(self.request, Instant::now().into_std());
    }
}

impl Member {
    /// Carries out a request, and responds to it.
    pub(super) fn on_request(self: &Arc<Self>, from: NodeId, number: u64, request: Request) {
        let id = (from, number);
        let skew = {
            let state = self.state();
            // It was cancelled before it arrived, or arrives twice.
            if state.serving.has_arrived(id) {
                return;
            }
            state.members.skew(from)
        };
        if request.expires < unix_time::millis(self.transport.now()).saturating_add_signed(skew) {
            metrics::dropped();
            tracing::warn!(key = &*request.key, "a request of another node has expired");
            return self.respond_error(id, &request.key, &Error::Disconnected { maybe_delivered: false });
        }
        if let Some(earlier) = request.request {
            return self.on_look(id, &request.key, (from, earlier));
        }
        let Some(session) = self.home().and_then(|home| home.find(&request.key)) else {
            return self.respond_error(id, &request.key, &Error::NotConnected);
        };
        if request.mode == Mode::Info {
            if !session.is_open() {
                return self.respond_error(id, &request.key, &Error::NotConnected);
            }
            let info = Some(session.station_info(Some(&self.name)));
            return self.respond(id, &request.key, wire::encode(&Response { info, ..Response::default() }));
        }
        let (cancel, cancelled) = oneshot::channel();
        let key: Arc<str> = (&*request.key).into();
        {
            let mut state = self.state();
            // A cancellation may have arrived since.
            if state.serving.has_arrived(id) {
                return;
            }
            if state.serving.running.len() >= MAX_RUNNING {
                drop(state);
                return self.respond_error(id, &request.key, &Error::QueueFull);
            }
            state.serving.insert(id, key.clone(), cancel, Instant::now());
            if state.serving.running.len() == 1 {
                // The callers must be checked from now on.
                self.outbox_changed.notify_one();
            }
        }
        let running = Running { member: self.clone(), request: id, key };
        if request.mode == Mode::Recorded {
            let member = self.clone();
            self.spawn(running.run(cancelled, async move { Ok(member.encode_recorded(&request)) }));
            return;
        }
        if let Some(close) = request.close {
            let close = Close::from(close);
            self.spawn(running.run(cancelled, async move {
                let closed = Some(session.close(close).await);
                Ok(wire::encode(&Response { closed, ..Response::default() }))
            }));
            return;
        }
        let Some(kind) = request.kind() else { return self.respond_error(id, &request.key, &Error::Closed) };
        let mut call = remote_call(session.shared(), kind, request);
        // The first poll makes the call. Calls are therefore made in the order in which they arrive.
        match (&mut call).now_or_never() {
            Some(outcome) => {
                let outcome = self.encode_outcome(id, session.shared(), outcome);
                self.spawn(running.run(cancelled, async move { outcome }));
            }
            None => {
                let member = self.clone();
                let call = async move { member.encode_outcome(id, session.shared(), call.await) };
                self.spawn(running.run(cancelled, call));
            }
        }
    }

    /// Responds to a caller that looks for an earlier request.
    fn on_look(&self, id: RequestId, key: &str, earlier: RequestId) {
        let has_arrived = self.state().serving.has_arrived(earlier);
        if has_arrived {
            self.respond(id, key, wire::encode(&Response::default()));
        } else {
            self.respond_error(id, key, &Error::NotConnected);
        }
    }

    /// Spawns a task that must end before this node leaves.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(task, &self.runtime);
    }

    /// Returns the response to a call.
    fn encode_outcome(
        &self,
        id: RequestId,
        shared: &Arc<Shared>,
        outcome: Result<CallResult, Error>,
    ) -> Result<Bytes, Error> {
        let result = outcome?;
        // The result of a call that was only to be written has no action.
        let can_reject = !result.action.is_empty() && call::can_reject(shared);
        let response = wire::encode_result(&result.payload, can_reject.then_some(self.id));
        if can_reject {
            let at = Instant::now();
            let mut state = self.state();
            let results = &mut state.serving.results;
            while let Some(oldest) = results.front()
                && (results.len() >= MAX_RESULTS || at - oldest.at >= REJECT_TIMEOUT)
            {
                results.pop_front();
            }
            let (shared, action) = (Arc::downgrade(shared), result.action);
            // Neither the session nor its message stays in memory for it.
            results.push_back(KeptResult { request: id, at, shared, id: result.id.detached(), action });
        }
        Ok(response)
    }

    /// Returns the response with the recorded messages of a station.
    fn encode_recorded(&self, request: &Request) -> Bytes {
        /// The bytes around the messages.
        const REST: usize = r#"{"recorded":}"#.len();
        let query = request.params.clone().unwrap_or_default();
        let max_bytes = self.transport.max_message_size().saturating_sub(REST);
        let recorded = self.home().and_then(|home| home.recorded(&request.key, &query, max_bytes));
        wire::encode(&Response { recorded, ..Response::default() })
    }

    /// Sends the station the CALLRESULTERROR for a result that the caller cannot use.
    pub(super) fn on_call_result_error(&self, key: Option<&str>, from: NodeId, number: u64, error: WireError) {
        let Error::Rejected(error) = Error::from(error) else { return };
        let mut state = self.state();
        let results = &mut state.serving.results;
        let Some(place) = results.iter().position(|result| result.request == (from, number)) else { return };
        let found = results.remove(place);
        drop(state);
        if let Some(KeptResult { shared, id, action, .. }) = found
            && let Some(shared) = shared.upgrade()
            && key.is_none_or(|key| *key == **shared.run().key())
        {
            shared.send(Command::SendResultError(Box::new((id, action, error))));
        }
    }

    /// Cancels a request.
    pub(super) fn on_cancel(&self, key: Option<&str>, from: NodeId, number: u64) {
        let cancelled = self.state().serving.cancel((from, number), key, Instant::now());
        drop(cancelled);
    }

    /// Answers a probe.
    pub(super) fn on_probe(&self, key: Option<&str>, from: NodeId, probe: u64, requests: Vec<u64>) {
        let unknown = {
            let mut state = self.state();
            if requests.iter().any(|number| state.serving.running.contains_key(&(from, *number))) {
                state.serving.callers.insert(from, Instant::now());
            }
            requests.into_iter().filter(|number| !state.serving.running.contains_key(&(from, *number))).collect()
        };
        let alive = wire::encode(&Control::Alive { from: self.id, probe, unknown });
        self.post(Target::Node(from, key.map(Into::into)), None, alive);
    }

    /// Cancels the requests whose callers do not wait any more.
    pub(super) fn check_callers(&self, now: Instant) {
        let lost = self.state().serving.check_callers(now);
        if !lost.is_empty() {
            tracing::warn!(requests = lost.len(), "the callers of requests do not wait any more");
        }
    }

    /// Replies to a request that cannot be read: it was not carried out.
    pub(super) fn refuse_request(&self, from: NodeId, number: u64, key: &str) {
        self.respond_error((from, number), key, &Error::Disconnected { maybe_delivered: false });
    }

    fn respond_error(&self, id: RequestId, key: &str, error: &Error) {
        self.respond(id, key, encode_error(error));
    }

    fn respond(&self, (from, number): RequestId, key: &str, response: Bytes) {
        self.post(Target::Response(from, number, Some(key.into())), None, response);
    }
}

impl Running {
    /// Runs a request until it ends or is cancelled, and sends its response.
    async fn run(self, mut cancelled: oneshot::Receiver<()>, work: impl Future<Output = Result<Bytes, Error>>) {
        let started_at = Instant::now();
        let (from, number) = self.request;
        let mut work = std::pin::pin!(work);
        let mut is_taken = false;
        let outcome = loop {
            tokio::select! {
                biased;
                _ = &mut cancelled => {
                    metrics::call("in", Some(&Error::Cancelled), started_at.elapsed());
                    return;
                }
                outcome = &mut work => break outcome,
                () = sleep(TAKEN_AFTER), if !is_taken => {
                    is_taken = true;
                    let taken = Some(self.member.id);
                    self.member.respond(self.request, &self.key, wire::encode(&Response { taken, ..Response::default() }));
                }
            }
        };
        metrics::call("in", outcome.as_ref().err(), started_at.elapsed());
        self.send(from, number, outcome.unwrap_or_else(|error| encode_error(&error))).await;
    }

    async fn send(&self, from: NodeId, number: u64, response: Bytes) {
        let member = &self.member;
        let to = Destination::Response { node: from, request: number, key: Some(&self.key) };
        let mut sent = member.send(to, None, response).await;
        if sent == Err(SendError::TooLarge) {
            sent = member.send(to, None, encode_error(&Error::TooLarge { maybe_delivered: true })).await;
        }
        if let Err(error) = sent {
            tracing::debug!(%error, "a response to another node was not sent");
        }
    }
}

/// Returns the call that a request asks for.
fn remote_call(shared: &Arc<Shared>, kind: Kind, request: Request) -> Call<CallResult> {
    let params = request.params.unwrap_or_default();
    let action = request.action.unwrap_or_default();
    let mut call = Call::remote(shared, kind, &action, params);
    match request.timeout {
        None => {}
        Some(None) => call = call.timeout(None),
        Some(Some(timeout)) => call = call.timeout(Duration::from_millis(timeout)),
    }
    if let Some(timeout) = request.total_timeout {
        call = call.total_timeout(Duration::from_millis(timeout));
    }
    match request.id {
        Some(id) => call.id(id),
        None => call,
    }
}

fn encode_error(error: &Error) -> Bytes {
    wire::encode(&Response { error: Some(WireError::from(error)), ..Response::default() })
}

//! Properties of calling and responding that hold in any order of messages, drops, timeouts and reconnects.

use std::time::Duration;

use proptest::{collection::vec, option, prelude::*, sample::Index};
use serde_json::Value;

use crate::connection::exchange::*;
use crate::connection::{
    calls_out::{CallKey, Kind, Timeout},
    exchange::receive::Received,
};

/// An event of a random history.
#[derive(Debug, Clone)]
enum Step {
    /// Makes a call. The timeout and the deadline are in seconds; a timeout of zero never fires.
    Call(Kind, Option<u64>, Option<u64>),
    /// Writes at most this many messages.
    Write(usize),
    /// Responds to any earlier call with a result (`true`) or an error, if the call was written.
    Respond(Index, bool),
    /// Drops any earlier call, if it has not ended.
    Drop(Index),
    /// Lets this many seconds pass.
    Pass(u64),
    Disconnect,
    Reconnect,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kind = prop_oneof![6 => Just(Kind::Call), 1 => Just(Kind::FireAndForget), 1 => Just(Kind::Send), 1 => Just(Kind::Immediate), 1 => Just(Kind::ImmediateAndForget)];
    let call = (kind, option::weighted(0.3, 0_u64..20), option::weighted(0.3, 0_u64..20));
    let step = prop_oneof![
        5 => call.prop_map(|(kind, timeout, deadline)| Step::Call(kind, timeout, deadline)),
        5 => (1_usize..4).prop_map(Step::Write),
        4 => (any::<Index>(), any::<bool>()).prop_map(|(which, result)| Step::Respond(which, result)),
        2 => any::<Index>().prop_map(Step::Drop),
        2 => (1_u64..15).prop_map(Step::Pass),
        1 => Just(Step::Disconnect),
        2 => Just(Step::Reconnect),
    ];
    vec(step, 0..80)
}

/// A call from the view of its caller.
struct MadeCall {
    id: MessageId,
    kind: Kind,
    timeout: Option<u64>,
    deadline: Option<Instant>,
    written: Option<Instant>,
    /// The number of the connection that the call was written on.
    connection: usize,
    /// Set when the call has ended or was dropped.
    is_over: bool,
}

impl MadeCall {
    /// Returns the moment at which the call must have ended.
    fn expires(&self) -> Option<Instant> {
        let timeout = self.written.zip(self.timeout).map(|(written, timeout)| written + seconds(timeout));
        timeout.into_iter().chain(self.deadline).min()
    }

    /// Returns whether the call waits for its turn.
    fn waits_for_turn(&self) -> bool {
        matches!(self.kind, Kind::Call | Kind::FireAndForget)
    }

    /// Returns whether the call waits for its response.
    fn expects_response(&self) -> bool {
        matches!(self.kind, Kind::Call | Kind::Immediate)
    }

    fn is_in_flight(&self) -> bool {
        self.written.is_some() && !self.is_over && self.expects_response()
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const TIMEOUT: u64 = 10;

/// An exchange, and the calls that were made with it.
struct Model {
    exchange: Exchange<usize>,
    concurrency: usize,
    now: Instant,
    is_connected: bool,
    /// The number of the latest connection.
    connection: usize,
    ids: CallIds,
    calls: Vec<MadeCall>,
}

impl Model {
    fn new(concurrency: usize) -> Self {
        let options = Options::server().call_concurrency(concurrency).call_timeout(seconds(TIMEOUT));
        let ids = CallIds::random();
        let exchange = Exchange::new(None, Arc::new(options), ids, 0, false);
        let (now, calls) = (Instant::now(), Vec::new());
        Self { exchange, concurrency, now, is_connected: true, connection: 0, ids, calls }
    }

    fn end(&mut self, call: usize) {
        assert!(!self.calls[call].is_over, "call {call} ended twice, or was dropped");
        self.calls[call].is_over = true;
    }

    fn apply(&mut self, step: &Step) {
        match step {
            &Step::Call(kind, timeout, deadline) => self.call(kind, timeout, deadline),
            Step::Write(_) if !self.is_connected => {}
            Step::Write(messages) => _ = (0..*messages).take_while(|_| self.write()).count(),
            Step::Respond(which, is_result) if !self.calls.is_empty() => {
                self.respond(which.index(self.calls.len()), *is_result);
            }
            Step::Drop(which) if !self.calls.is_empty() => {
                let call = which.index(self.calls.len());
                if !self.calls[call].is_over {
                    self.exchange.calls_out.cancel(CallKey(call as u64));
                    self.calls[call].is_over = true;
                }
            }
            Step::Respond(..) | Step::Drop(_) => {}
            Step::Pass(time) => self.pass(*time),
            Step::Disconnect => self.disconnect(),
            Step::Reconnect => self.is_connected = true,
        }
    }

    fn call(&mut self, kind: Kind, timeout: Option<u64>, deadline: Option<u64>) {
        let n = self.calls.len();
        // Every third caller gives an id.
        let has_own_id = n % 3 == 2;
        let id = if has_own_id { MessageId::new(n.to_string()) } else { self.ids.id(n as u64) };
        let deadline = deadline.map(|deadline| self.now + seconds(deadline));
        let (set, timeout) = match timeout {
            None => (Timeout::Default, Some(TIMEOUT)),
            Some(0) => (Timeout::Never, None),
            Some(timeout) => (Timeout::After(seconds(timeout)), Some(timeout)),
        };
        let (written, connection) = (None, 0);
        self.calls.push(MadeCall { id: id.clone(), kind, timeout, deadline, written, connection, is_over: false });
        let call = Outgoing::new(kind, n.to_string().into(), Payload::default(), n);
        let call = Box::new(Outgoing { key: CallKey(n as u64), id, has_own_id, timeout: set, deadline, ..call });
        assert!(self.exchange.submit(call).is_none(), "nothing is validated, and the id is new");
    }

    /// Writes the next message. Returns whether there was one.
    fn write(&mut self) -> bool {
        let Some((message, sender)) = self.exchange.next_write(self.now) else { return false };
        let (number, id, action, _): (u8, String, String, Value) = serde_json::from_str(&message.text).expect("a call");
        let call: usize = action.parse().expect("a number");
        let made = &self.calls[call];
        assert!(!made.is_over, "call {call} was written after it ended or was dropped");
        assert!(made.written.is_none(), "call {call} was written twice");
        assert_eq!((id.as_str(), number), (made.id.as_str(), if made.kind == Kind::Send { 6 } else { 2 }));
        // Calls that wait for their turn have a queue of their own, and no call overtakes another in its queue.
        let is_queued_with =
            |earlier: &MadeCall| earlier.waits_for_turn() == made.waits_for_turn() && earlier.written.is_none();
        assert!(
            !self.calls[..call].iter().any(|earlier| is_queued_with(earlier) && !earlier.is_over),
            "call {call} overtook an earlier call"
        );
        let in_flight = self.calls.iter().filter(|call| call.is_in_flight()).count();
        assert!(
            !made.waits_for_turn() || in_flight < self.concurrency,
            "call {call} was written with {in_flight} others in flight"
        );
        self.calls[call].written = Some(self.now);
        self.calls[call].connection = self.connection;
        assert_eq!(sender, (!self.calls[call].expects_response()).then_some(call));
        if let Some(call) = sender {
            self.end(call);
        }
        true
    }

    fn respond(&mut self, call: usize, is_result: bool) {
        let made = &self.calls[call];
        if made.written.is_none() || !self.is_connected {
            return;
        }
        let text = if is_result {
            format!(r#"[3,"{}",{{"to":{call}}}]"#, made.id)
        } else {
            format!(r#"[4,"{}","GenericError","{call}",{{}}]"#, made.id)
        };
        let in_flight = made.is_in_flight();
        let is_of_this_connection = made.connection == self.connection;
        match self.exchange.receive(&text.into(), self.now) {
            Received::Response(sender, outcome, None) => {
                assert!(in_flight && sender == call, "call {sender} received the response to call {call}");
                match outcome {
                    Ok(result) => assert_eq!(result.payload.as_str(), format!(r#"{{"to":{call}}}"#)),
                    Err(Error::Rejected(error)) => assert_eq!(error.description(), call.to_string()),
                    Err(other) => panic!("{other}"),
                }
                self.end(call);
            }
            Received::Nothing => {
                assert!(!in_flight, "call {call} did not receive its response");
                match &self.exchange.take_events()[..] {
                    [EventKind::LateResponse(id)] => assert_eq!(*id, self.calls[call].id),
                    [EventKind::UnmatchedResponse(_)] if !is_of_this_connection => {}
                    other => panic!("{other:?}"),
                }
            }
            other => panic!("{other:?}"),
        }
    }

    fn pass(&mut self, time: u64) {
        self.now += seconds(time);
        let next = self.exchange.calls_out.next_deadline();
        for (call, error) in self.exchange.calls_out.expire(self.now) {
            assert!(self.calls[call].expires().is_some_and(|at| at <= self.now), "call {call} expired too early");
            assert_eq!(matches!(error, Error::Timeout), self.calls[call].written.is_some(), "{error}");
            assert!(next.is_some_and(|next| next <= self.now), "the next deadline is too late");
            self.end(call);
        }
        for (n, call) in self.calls.iter().enumerate() {
            assert!(call.is_over || call.expires().is_none_or(|at| at > self.now), "call {n} did not expire");
        }
    }

    fn disconnect(&mut self) {
        self.is_connected = false;
        self.connection += 1;
        for (call, error) in self.exchange.calls_out.fail_in_flight() {
            assert!(self.calls[call].is_in_flight() && error.maybe_delivered());
            self.end(call);
        }
        assert!(!self.calls.iter().any(MadeCall::is_in_flight), "a call is in flight without a connection");
    }

    fn close(mut self) {
        self.disconnect();
        for (call, error) in self.exchange.calls_out.fail_queued() {
            assert!(self.calls[call].written.is_none() && !error.maybe_delivered());
            self.end(call);
        }
        assert!(self.calls.iter().all(|call| call.is_over), "a call has not ended");
        assert!(self.exchange.is_settled(0) && !self.write());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every call ends exactly once and is written at most once. Calls are written in the order in which they were
    /// made, and never after they were dropped. The limit of calls in flight holds.
    #[test]
    fn b24_calls_in_any_order_of_events_end_exactly_once(steps in steps(), concurrency in 1_usize..4) {
        let mut model = Model::new(concurrency);
        for step in &steps {
            model.apply(step);
        }
        model.close();
    }
}

/// A step of the peer or of a handler. Indices choose among the requests so far.
#[derive(Debug, Clone)]
enum Serving {
    /// The peer sends a request with this id.
    Request(u8),
    /// The handler of a request responds before it finishes.
    RespondEarly(Index),
    /// The handler of a request finishes and returns a result, or nothing.
    Finish(Index, bool),
    /// The driver writes all queued messages.
    Write,
    /// The connection is lost and another one follows.
    Reconnect,
}

fn serving() -> impl Strategy<Value = Vec<Serving>> {
    let step = prop_oneof![
        6 => (0_u8..4).prop_map(Serving::Request),
        3 => any::<Index>().prop_map(Serving::RespondEarly),
        5 => (any::<Index>(), any::<bool>()).prop_map(|(which, result)| Serving::Finish(which, result)),
        2 => Just(Serving::Write),
        1 => Just(Serving::Reconnect),
    ];
    vec(step, 0..80)
}

/// A request as the peer and its handler know it.
struct Request {
    head: RequestHead,
    generation: u32,
    is_running: bool,
    /// Set when the request has its response, early or at the end of the handler.
    has_response: bool,
}

/// An exchange, and the requests that it received.
struct Server {
    exchange: Exchange<usize>,
    keep: bool,
    generation: u32,
    requests: Vec<Request>,
    /// The ids of the responses that were written on the current connection.
    written: Vec<String>,
}

impl Server {
    fn new(keep: bool) -> Self {
        let exchange = Exchange::new(None, Arc::new(Options::server()), CallIds::random(), 0, keep);
        Self { exchange, keep, generation: 0, requests: Vec::new(), written: Vec::new() }
    }

    fn apply(&mut self, step: &Serving) {
        match step {
            Serving::Request(id) => self.request(*id),
            Serving::RespondEarly(which) | Serving::Finish(which, _) if self.requests.is_empty() => _ = which,
            Serving::RespondEarly(which) => self.respond_early(which.index(self.requests.len())),
            Serving::Finish(which, result) => self.finish(which.index(self.requests.len()), *result),
            Serving::Write => {
                while let Some((message, _)) = self.exchange.next_write(Instant::now()) {
                    self.written(&message.text);
                }
            }
            Serving::Reconnect => {
                self.generation += 1;
                self.exchange.disconnect(self.generation, AfterDisconnect::Reconnect);
                self.written.clear();
            }
        }
    }

    /// Returns whether a request of the current connection with this id waits for its response.
    fn is_active(&self, id: &str) -> bool {
        self.requests.iter().any(|request| {
            request.head.id.as_str() == id && request.generation == self.generation && !request.has_response
        })
    }

    fn request(&mut self, id: u8) {
        let is_repeated = self.is_active(&id.to_string());
        match self.exchange.receive(&format!(r#"[2,"{id}","A",{{}}]"#).into(), Instant::now()) {
            Received::Request(request) => {
                assert!(!is_repeated, "request {id} is handled while another one has its id");
                self.exchange.handler_started(&request.head, &request.payload);
                let generation = self.generation;
                self.requests.push(Request { head: request.head, generation, is_running: true, has_response: false });
            }
            Received::Nothing => assert!(is_repeated, "the id {id} is not free"),
            other => panic!("{other:?}"),
        }
    }

    fn respond_early(&mut self, at: usize) {
        let Self { exchange, keep, generation, requests, .. } = self;
        let request = &mut requests[at];
        let response = Response::Result(Payload::default());
        let failed = exchange.respond_early(&request.head, &response, at);
        let counts = !request.has_response && (*keep || request.generation == *generation);
        assert_eq!(failed.is_none(), counts, "the first response that can be delivered counts, and no other");
        request.has_response = true;
    }

    fn finish(&mut self, at: usize, is_result: bool) {
        let Self { exchange, keep, generation, requests, .. } = self;
        let request = &mut requests[at];
        if !std::mem::take(&mut request.is_running) {
            return;
        }
        exchange.handler_finished(&request.head);
        let response = if is_result { Response::Result(Payload::default()) } else { Response::Nothing };
        let message = exchange.respond(&request.head, &response);
        let counts = is_result && !request.has_response && (*keep || request.generation == *generation);
        assert_eq!(message.is_some(), counts, "the first response that can be delivered counts, and no other");
        request.has_response = true;
        if let Some(message) = message {
            self.written(&message.text);
        }
    }

    /// Checks a response that was written. It must belong to a request of this connection unless responses are kept.
    fn written(&mut self, text: &str) {
        let (number, id, _): (u8, String, Value) = serde_json::from_str(text).expect("a result");
        assert_eq!(number, 3);
        self.written.push(id);
        let of_this = self.requests.iter().filter(|request| request.generation == self.generation).count();
        assert!(self.keep || self.written.len() <= of_this, "a response was written for an earlier connection");
        assert!(self.written.len() <= self.requests.len(), "a request has two responses");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every request gets at most one response, on its own connection unless responses are kept. Its id is reserved
    /// exactly until then. Handlers of earlier connections release nothing of the current connection.
    #[test]
    fn b33_first_response_counts_in_any_order_of_events(steps in serving(), keep in any::<bool>()) {
        let mut server = Server::new(keep);
        for step in &steps {
            server.apply(step);
        }
        let running = server.requests.iter().filter(|request| request.is_running).map(|request| request.head.clone());
        for head in running.collect::<Vec<_>>() {
            server.exchange.handler_finished(&head);
            server.exchange.respond(&head, &Response::Nothing);
        }
        while server.exchange.next_write(Instant::now()).is_some() {}
        assert!(server.exchange.is_settled(0), "a handler counts as running after all have finished");
    }
}

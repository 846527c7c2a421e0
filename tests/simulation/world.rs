//! The world of a simulation: its random choices, its history, and the handlers of both ends.

use std::{
    collections::HashMap,
    ops::Range,
    panic::panic_any,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ocpp_rpc::{
    Call, CallError, Error, ErrorCode, RpcRouter, Session, Station,
    extract::{Params, Responder, State},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::{
    task::{JoinHandle, yield_now},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::history::{Caller, End, Fact, History, Kind, Outcome, Side};

/// The medium of a simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// Streams in memory, with a paused clock.
    Memory,
    Sockets,
}

impl Medium {
    /// Returns the time that a handler takes if it never ends by itself.
    pub fn never(self) -> Duration {
        Duration::from_secs(if self == Self::Memory { 3600 } else { 5 })
    }

    /// Returns the time after which nothing of a simulation may be left.
    pub fn long(self) -> Duration {
        Duration::from_secs(if self == Self::Memory { 3 * 3600 } else { 60 })
    }
}

pub struct World {
    random: Mutex<StdRng>,
    history: Mutex<History>,
    /// The numbers of the calls by their message ids.
    calls: Mutex<HashMap<String, u64>>,
    /// The number of passwords that each client has had: `0`, `1` and so on.
    passwords: Mutex<HashMap<usize, usize>>,
    calls_made: AtomicU64,
    started: Instant,
    pub medium: Medium,
    /// Whether most handlers never end and links are short, so that handlers pile up.
    pub is_stuck: bool,
    /// Cuts all links.
    pub stop: CancellationToken,
}

impl World {
    pub fn new(seed: u64, medium: Medium) -> Arc<Self> {
        let slack = if medium == Medium::Memory { 0 } else { 200 };
        let mut random = StdRng::seed_from_u64(seed);
        Arc::new(Self {
            medium,
            is_stuck: random.random_ratio(1, 8),
            random: Mutex::new(random),
            history: Mutex::new(History { facts: Vec::new(), slack }),
            calls: Mutex::default(),
            passwords: Mutex::default(),
            calls_made: AtomicU64::new(0),
            started: Instant::now(),
            stop: CancellationToken::new(),
        })
    }

    pub fn roll(&self, range: Range<usize>) -> usize {
        lock(&self.random).random_range(range)
    }

    pub fn chance(&self, percent: usize) -> bool {
        self.roll(0..100) < percent
    }

    pub fn pick<T: Copy>(&self, values: &[T]) -> T {
        values[self.roll(0..values.len())]
    }

    pub fn milliseconds(&self, range: Range<usize>) -> Duration {
        Duration::from_millis(self.roll(range) as u64)
    }

    pub fn record(&self, fact: Fact) {
        let at = self.started.elapsed().as_millis() as u64;
        lock(&self.history).facts.push((at, fact));
    }

    pub fn step(&self, what: impl Into<String>) {
        self.record(Fact::Step(what.into()));
    }

    pub fn take_history(&self) -> History {
        std::mem::take(&mut lock(&self.history))
    }

    /// Returns what `read` finds in the history so far.
    pub fn so_far<T>(&self, read: impl FnOnce(&History) -> T) -> T {
        read(&lock(&self.history))
    }

    /// Returns the number of the call that was written with this message id.
    pub fn call_of_id(&self, id: &str) -> Option<u64> {
        lock(&self.calls).get(id).copied()
    }

    /// Returns another password of a client.
    pub fn next_password(&self, client: usize) -> String {
        let mut passwords = lock(&self.passwords);
        let count = passwords.entry(client).or_default();
        *count += 1;
        (*count - 1).to_string()
    }

    /// Returns whether the client has this password, or has had it.
    pub fn knows_password(&self, client: usize, password: &[u8]) -> bool {
        let count = lock(&self.passwords).get(&client).copied().unwrap_or_default();
        str::from_utf8(password).ok().and_then(|text| text.parse().ok()).is_some_and(|number: usize| number < count)
    }

    /// Records a message that `from` sent on a link.
    pub fn observe(&self, link: u16, from: Side, text: &str) {
        let Ok(Value::Array(message)) = serde_json::from_str(text) else {
            return self.record(Fact::Broken(format!("{from:?} wrote {text}")));
        };
        let id = message[1].as_str().unwrap_or_default();
        match message[0].as_u64() {
            Some(2 | 6) => {
                let Some(call) = message.get(3).and_then(|params| params["n"].as_u64()) else { return };
                let previous = lock(&self.calls).insert(id.to_owned(), call);
                if let Some(previous) = previous {
                    self.record(Fact::Broken(format!("calls {previous} and {call} have the same id")));
                }
                self.record(Fact::Wrote { call, link, from });
            }
            Some(3 | 4) => {
                let call = lock(&self.calls).get(id).copied();
                if let Some(call) = call {
                    self.record(Fact::Responded { call, link });
                }
            }
            _ => {}
        }
    }

    /// Makes a call in a task of its own.
    pub fn spawn_call(self: &Arc<Self>, peer: &Peer, from: Caller) -> JoinHandle<()> {
        let call = self.call(peer, from);
        tokio::spawn(call)
    }

    /// Makes a call that the peer responds to at once. Returns the error if it did not reach the peer.
    pub async fn reach(self: &Arc<Self>, station: Station, from: Caller) -> Option<Error> {
        let number = self.calls_made.fetch_add(1, Ordering::Relaxed);
        let guard = CallGuard { world: self.clone(), number, outcome: Some(Outcome::Dropped) };
        self.record(Fact::Made { call: number, from, kind: Kind::BypassesQueue, is_to_station: true });
        let limits = Limits { timeout: None, total: Some(REACH_TIMEOUT) };
        self.record(Fact::Called { call: number, limits });
        let params = json!({"n": number, "s": sum(number), "do": "now"});
        let call = station.call::<Value>("Work", &params).bypass_queue().total_timeout(REACH_TIMEOUT);
        let outcome = call.await;
        let is_lost = matches!(outcome, Err(Error::NotConnected | Error::Unreachable | Error::Disconnected { .. }));
        let error = outcome.as_ref().err().filter(|_| is_lost).cloned();
        guard.ended(outcome.map(|response| read_response(number, &response)));
        error
    }

    /// Makes a call of a random kind, with a random behaviour of its handler.
    fn call(self: &Arc<Self>, peer: &Peer, from: Caller) -> impl Future<Output = ()> + Send + use<> {
        const BEHAVIOURS: &[&str] = &[
            "now", "now", "now", "now", "yield", "soon", "soon", "soon", "late", "never", "error", "panic", "early",
            "large", "invalid", "back",
        ];
        let number = self.calls_made.fetch_add(1, Ordering::Relaxed);
        let speaks_21 = match peer {
            Peer::Session(session) => session.protocol().as_deref() == Some("ocpp2.1"),
            Peer::Station(_) => true,
        };
        let is_to_station = matches!(peer, Peer::Station(_));
        let kind = match self.roll(0..20) {
            0 => Kind::BypassesQueue,
            1 => Kind::FireAndForget,
            2 if speaks_21 => Kind::Send,
            _ => Kind::Queued,
        };
        let behaviour = if self.is_stuck && self.chance(70) { "never" } else { self.pick(BEHAVIOURS) };
        let mut params = json!({"n": number, "s": sum(number), "do": behaviour});
        if self.chance(5) {
            pad(&mut params, self.roll(1..20_000));
        }
        let guard = CallGuard { world: self.clone(), number, outcome: Some(Outcome::Dropped) };
        self.record(Fact::Made { call: number, from, kind, is_to_station });
        let action = self.pick(&["Work", "Work", "Work", "Work", "Unknown"]);
        let id = match self.roll(0..20) {
            0 | 1 => Some(format!("own-{number}")),
            2 => Some("x".repeat(self.pick(&[0, 37]))),
            _ => None,
        };
        let is_invalid = id.as_ref().is_some_and(|id| !(1..=36).contains(&id.len()));
        let mut limits = match self.roll(0..10) {
            0 => Limits { timeout: Some(self.milliseconds(0..1000)), total: None },
            1 => Limits { timeout: None, total: Some(self.milliseconds(1..2000)) },
            _ => Limits::default(),
        };
        let call = with_id(limits.set(peer.call::<Value>(action, &params)), &id);
        let written = match kind {
            Kind::Send => Some(with_id(peer.send("Work", &params), &id)),
            Kind::FireAndForget => Some(with_id(peer.call::<Value>(action, &params), &id).fire_and_forget()),
            Kind::BypassesQueue | Kind::Queued => None,
        };
        if written.is_some() {
            limits = Limits::default();
        }
        let call = if kind == Kind::BypassesQueue { call.bypass_queue() } else { call };
        let world = self.clone();
        async move {
            world.record(Fact::Called { call: number, limits });
            let outcome = match written {
                Some(written) => written.await.map(|()| Outcome::Written),
                None => call.await.map(|response| read_response(number, &response)),
            };
            let is_refused = matches!(outcome, Err(Error::InvalidMessageId { .. }));
            // A call to a station can fail before its id matters.
            let may_fail = is_to_station && outcome.is_err();
            if is_invalid != is_refused && !may_fail {
                world.record(Fact::Broken(format!("call {number} with the id {id:?} ended with {outcome:?}")));
            }
            guard.ended(outcome);
        }
    }
}

/// The time that a call has to reach a station in the end.
const REACH_TIMEOUT: Duration = Duration::from_secs(5);

/// The timeouts of a call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    pub timeout: Option<Duration>,
    pub total: Option<Duration>,
}

impl Limits {
    fn set<R>(self, call: Call<R>) -> Call<R> {
        let call = if let Some(timeout) = self.timeout { call.timeout(timeout) } else { call };
        if let Some(total) = self.total { call.total_timeout(total) } else { call }
    }
}

/// The handle that makes a call.
pub enum Peer {
    Session(Session),
    Station(Station),
}

impl Peer {
    fn call<R: serde::de::DeserializeOwned + 'static>(&self, action: &str, params: &Value) -> Call<R> {
        match self {
            Self::Session(session) => session.call(action, params),
            Self::Station(station) => station.call(action, params),
        }
    }

    fn send(&self, action: &str, params: &Value) -> Call<()> {
        match self {
            Self::Session(session) => session.send(action, params),
            Self::Station(station) => station.send(action, params),
        }
    }
}

/// Returns a number that proves that the number of a call is not the result of a fault.
fn sum(number: u64) -> u64 {
    (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40
}

fn with_id<R>(call: Call<R>, id: &Option<String>) -> Call<R> {
    match id {
        Some(id) => call.id(id),
        None => call,
    }
}

/// Makes a payload this much longer.
fn pad(payload: &mut Value, length: usize) {
    payload["length"] = length.into();
    payload["padding"] = "y".repeat(length).into();
}

/// Returns whether a payload has its whole padding.
fn is_padded(payload: &Value) -> bool {
    let padding = payload["padding"].as_str().unwrap_or_default();
    padding.bytes().all(|byte| byte == b'y') && payload["length"].as_u64().unwrap_or_default() == padding.len() as u64
}

fn read_response(number: u64, response: &Value) -> Outcome {
    match (response["r"].as_u64(), response["s"].as_u64()) {
        (Some(other), Some(checked)) if checked == sum(other) && is_padded(response) => {
            if other == number {
                Outcome::Response
            } else {
                Outcome::Other(other)
            }
        }
        _ => Outcome::Altered,
    }
}

/// Records the end of a call, and that it was dropped if it has none.
struct CallGuard {
    world: Arc<World>,
    number: u64,
    outcome: Option<Outcome>,
}

impl CallGuard {
    fn ended(mut self, outcome: Result<Outcome, Error>) {
        self.outcome = Some(outcome.unwrap_or_else(|error| Outcome::failed(&error)));
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        if let Some(outcome) = self.outcome.take() {
            self.world.record(Fact::Ended { call: self.number, outcome });
        }
    }
}

/// Records the end of a handler, however it ends.
struct HandlerGuard<'a>(&'a World, u64, End);

impl Drop for HandlerGuard<'_> {
    fn drop(&mut self) {
        let Self(world, call, end) = *self;
        world.record(Fact::Finished { call, end });
    }
}

/// The place of a router.
#[derive(Clone)]
pub struct Place {
    world: Arc<World>,
    /// The end of the router, which makes the calls of its handlers.
    own: Caller,
}

pub fn router(world: &Arc<World>, own: Caller) -> RpcRouter<Place> {
    RpcRouter::with_state(Place { world: world.clone(), own }).on("Work", work)
}

/// The payload of planned panics.
pub struct Planned;

/// Handles all calls of both ends, as the caller wants it.
async fn work(
    State(place): State<Place>,
    Params(params): Params<Value>,
    session: Session,
    responder: Responder,
    again: Responder,
) -> Result<Value, CallError> {
    let world = &place.world;
    let end = match (place.own, session.remote_address()) {
        (Caller::Client(client), _) => End::Client(client),
        (Caller::Node(_), address) => End::Server(address.map_or(0, |address| address.port())),
    };
    let (call, checked) = (params["n"].as_u64(), params["s"].as_u64());
    let Some(call) = call.filter(|call| checked == Some(sum(*call)) && is_padded(&params)) else {
        world.record(Fact::AlteredCall { end });
        return Err(CallError::new(ErrorCode::FORMAT_VIOLATION, "altered"));
    };
    world.record(Fact::Executed { call, end });
    let _guard = HandlerGuard(world, call, end);
    let response = json!({"r": call, "s": sum(call)});
    match params["do"].as_str() {
        Some("yield") => yield_now().await,
        Some("soon") => sleep(world.milliseconds(1..300)).await,
        Some("late") => sleep(world.milliseconds(1000..20_000)).await,
        Some("never") => sleep(world.medium.never()).await,
        Some("error") => return Err(CallError::new(ErrorCode::NOT_SUPPORTED, "as wanted")),
        Some("panic") => panic_any(Planned),
        Some("early") => {
            let _ = responder.send(response.clone()).await;
            // Only the first response to a call is sent.
            let _ = again.send(response.clone()).await;
            sleep(world.milliseconds(0..300)).await;
        }
        Some("large") => {
            let mut response = response;
            pad(&mut response, world.roll(1..40_000));
            return Ok(response);
        }
        Some("invalid") => return Ok(json!([call])),
        Some("back") => world.call(&Peer::Session(session), place.own).await,
        _ => {}
    }
    Ok(response)
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic under the lock")
}

//! A charging station in memory, for tests of a backend.
//!
//! It is a real client over a stream in memory: nothing of the server is replaced. It needs no port, and works with a
//! paused clock. A test answers the calls of the backend by hand, and decides what happens to the link.

use std::{
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use ocpp_rpc::{
    CallError, Close, Error, Options, RpcClient, RpcRouter, RpcServer,
    client::{ConnectError, Reconnect, Target},
    close::CloseInfo,
    event::{EventKind, Events},
    extract::{Action, Params, State},
    handler::{IntoResponse, Response},
    server::ConnectionInfo,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex},
    sync::{mpsc, oneshot},
    time::{Sleep, sleep, timeout},
};

/// The time that a station waits for what a test expects. With a paused clock it passes at once.
const PATIENCE: Duration = Duration::from_secs(60);

/// The bytes that a stream in memory holds in each direction.
const STREAM_BYTES: usize = 64 << 10;

/// A charging station. When it is dropped, its connection is closed.
#[derive(Debug)]
pub struct Station {
    client: RpcClient,
    calls: mpsc::UnboundedReceiver<ReceivedCall>,
    events: Events,
    link: Arc<Link>,
}

impl Station {
    /// Connects as `identity` and offers one protocol.
    ///
    /// # Panics
    /// Panics if the server refuses the connection. [`try_connect`](Self::try_connect) returns the error instead.
    pub async fn connect(server: &RpcServer, identity: &str, protocol: &str) -> Self {
        let connected = Self::try_connect(server, identity, protocol).await;
        connected.unwrap_or_else(|error| panic!("{identity} cannot connect: {error}"))
    }

    /// Connects as `identity` and offers one protocol.
    ///
    /// # Errors
    /// Fails if the server refuses the connection.
    pub async fn try_connect(server: &RpcServer, identity: &str, protocol: &str) -> Result<Self, ConnectError> {
        let (sender, calls) = mpsc::unbounded_channel();
        let link = Arc::<Link>::default();
        let client = RpcClient::builder("ws://memory/ocpp", identity)
            .protocols([protocol])
            .options(Options::client().ping_interval(None))
            .reconnect(Reconnect::never())
            .router(RpcRouter::with_state(sender).fallback(receive))
            .connector({
                let (server, link) = (server.clone(), link.clone());
                move |_: Target| std::future::ready(Ok(Stream::open(&server, &link)))
            })
            .build()?;
        let events = client.events();
        client.connect().await?;
        Ok(Self { client, calls, events, link })
    }

    /// Calls the backend, as [`RpcClient::call`] does.
    ///
    /// # Errors
    /// Fails like any call.
    pub async fn call<R: DeserializeOwned + 'static>(
        &self,
        action: &str,
        params: impl Serialize + Send,
    ) -> Result<R, Error> {
        self.client.call(action, &params).await
    }

    /// Sends a text as it is, whether or not it is a message of OCPP.
    ///
    /// # Errors
    /// Fails if the connection is closed.
    pub async fn send_raw(&self, text: impl Into<String>) -> Result<(), Error> {
        self.client.session().send_raw(text).await
    }

    /// Waits for the next call of the backend.
    ///
    /// # Panics
    /// Panics if the backend makes none in a minute.
    pub async fn next_call(&mut self) -> ReceivedCall {
        let call = timeout(PATIENCE, self.calls.recv()).await.expect("the backend makes a call");
        call.expect("the client keeps its router")
    }

    /// Waits for the next call of the backend, which must be of this action.
    ///
    /// # Panics
    /// Panics if the backend calls another action, or makes no call in a minute.
    pub async fn expect_call(&mut self, action: &str) -> ReceivedCall {
        let call = self.next_call().await;
        assert_eq!(call.action, action, "the backend calls another action, with {}", call.params);
        call
    }

    /// Waits for the next text that arrives, whatever it is.
    ///
    /// # Panics
    /// Panics if none arrives in a minute.
    pub async fn next_text(&mut self) -> String {
        let text = timeout(PATIENCE, self.received()).await.expect("a message arrives");
        text.expect("the connection is open")
    }

    /// Asserts that no message arrives for this time, and that the connection stays open.
    ///
    /// # Panics
    /// Panics if a message arrives, or if the connection is or gets closed.
    pub async fn expect_silence(&mut self, time: Duration) {
        if let Ok(Some(text)) = timeout(time, self.received()).await {
            panic!("a message arrived: {text}");
        }
        assert!(self.client.session().is_open(), "the connection is closed");
    }

    /// Waits for the next text. Returns `None` if the connection closes.
    async fn received(&mut self) -> Option<String> {
        loop {
            match self.events.next().await?.kind {
                EventKind::Received(text) => return Some(text.to_string()),
                EventKind::Closed(_) => return None,
                _ => {}
            }
        }
    }

    /// Sets how the station reads from its link.
    pub fn set_reading(&self, reading: Reading) {
        let mut state = self.link.state();
        state.reading = reading;
        state.wake();
    }

    /// Drops the link: neither end sends a close frame.
    pub fn drop_link(&self) {
        let mut state = self.link.state();
        state.is_dropped = true;
        state.wake();
    }

    /// Closes the connection.
    pub async fn close(&self, close: Close) -> CloseInfo {
        self.client.close(close).await
    }

    /// Waits for the end of the connection.
    pub async fn closed(&self) -> CloseInfo {
        self.client.session().closed().await
    }
}

/// The way in which a station reads from its link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reading {
    /// It reads all that arrives.
    #[default]
    All,
    /// It reads nothing.
    Nothing,
    /// It reads at most this many bytes in each interval.
    Slowly { bytes: usize, interval: Duration },
}

/// A call of the backend. If it is dropped, the backend gets no response.
#[derive(Debug)]
pub struct ReceivedCall {
    pub action: String,
    pub params: Value,
    response: oneshot::Sender<Response>,
}

impl ReceivedCall {
    /// Responds with a result.
    pub fn respond(self, result: impl Serialize) {
        self.send(result.into_response());
    }

    /// Rejects the call.
    pub fn reject(self, error: CallError) {
        self.send(Response::Error(error));
    }

    fn send(self, response: Response) {
        // The client drops a handler only if its connection is closed by force.
        let _ = self.response.send(response);
    }
}

/// A response that the test has chosen.
struct Chosen(Response);

impl IntoResponse for Chosen {
    fn into_response(self) -> Response {
        self.0
    }
}

/// Handles all calls of the backend.
async fn receive(
    State(calls): State<mpsc::UnboundedSender<ReceivedCall>>,
    action: Action,
    Params(params): Params<Value>,
) -> Result<Chosen, CallError> {
    let (response, chosen) = oneshot::channel();
    // The station may have been dropped.
    let _ = calls.send(ReceivedCall { action: action.to_string(), params, response });
    Ok(Chosen(chosen.await.unwrap_or(Response::Nothing)))
}

/// The state of a link, which the station and its stream share.
#[derive(Default)]
struct Link(Mutex<LinkState>);

#[derive(Default)]
struct LinkState {
    reading: Reading,
    is_dropped: bool,
    waker: Option<Waker>,
}

impl Link {
    fn state(&self) -> MutexGuard<'_, LinkState> {
        // No code under the lock can panic half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("reading", &self.state().reading).finish_non_exhaustive()
    }
}

impl LinkState {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The station's end of its link.
struct Stream {
    /// `None` after the link was dropped.
    io: Option<DuplexStream>,
    link: Arc<Link>,
    /// The wait for the next interval of a slow reader.
    interval: Option<Pin<Box<Sleep>>>,
}

impl Stream {
    fn open(server: &RpcServer, link: &Arc<Link>) -> Self {
        let (near, far) = duplex(STREAM_BYTES);
        let server = server.clone();
        tokio::spawn(async move { server.serve_connection(far, ConnectionInfo::new()).await });
        Self { io: Some(near), link: link.clone(), interval: None }
    }

    /// Returns the stream, unless the test has dropped the link.
    fn io(&mut self) -> io::Result<&mut DuplexStream> {
        if self.link.state().is_dropped {
            self.io = None;
        }
        self.io.as_mut().ok_or_else(|| io::ErrorKind::ConnectionReset.into())
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let reading = {
            let mut state = self.link.state();
            state.waker = Some(cx.waker().clone());
            state.reading
        };
        self.io()?;
        let limit = match reading {
            Reading::All => buffer.remaining(),
            Reading::Nothing => return Poll::Pending,
            Reading::Slowly { bytes, interval } => {
                ready!(self.interval.get_or_insert_with(|| Box::pin(sleep(interval))).as_mut().poll(cx));
                bytes.min(buffer.remaining())
            }
        };
        let mut part = [0; 4096];
        let mut part = ReadBuf::new(&mut part[..limit.min(4096)]);
        ready!(Pin::new(self.io()?).poll_read(cx, &mut part))?;
        self.interval = None;
        buffer.put_slice(part.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self.io()?).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.io()?).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.io()?).poll_shutdown(cx)
    }
}

//! One attempt to connect: dial, ask for the upgrade, check the answer.

use std::{
    borrow::Cow,
    error::Error as StdError,
    fmt, io, iter,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    FutureExt,
    future::{Either, select},
};
use headers::{HeaderMapExt, SecWebsocketAccept, SecWebsocketKey};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tower::ServiceExt;

use crate::{
    connection::socket::Io,
    handshake::{self, Unfit},
    options::BuildError,
};

/// Where a client dials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) secure: bool,
}

impl Target {
    /// A name or an address; an IPv6 address has no brackets.
    pub fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The port: 80 for `ws` and 443 for `wss` where the endpoint names none.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the endpoint is a `wss` one, so that the stream is to be TLS. A connector that TLS is put over is not
    /// asked for that.
    pub fn is_secure(&self) -> bool {
        self.secure
    }
}

/// Written as in a `Host` header, the port always there.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Makes streams to dial over: a proxy, a serial line. A closure will do.
///
/// A client without one dials TCP: every address of the host with a head start for its preferred family (RFC 8305),
/// Nagle off.
///
/// ```
/// use ocpp_rpc::{RpcClient, Target};
/// use tokio::{io::{AsyncReadExt, AsyncWriteExt}, net::TcpStream};
///
/// /// Through an HTTP proxy (RFC 9110 §9.3.6).
/// async fn through_proxy(target: Target) -> std::io::Result<TcpStream> {
///     let mut stream = TcpStream::connect("proxy.example:3128").await?;
///     stream.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes()).await?;
///     let mut head = Vec::new();
///     while !head.ends_with(b"\r\n\r\n") && head.len() < 8192 {
///         head.push(stream.read_u8().await?);
///     }
///     match head.starts_with(b"HTTP/1.1 200") {
///         true => Ok(stream),
///         false => Err(std::io::Error::other("the proxy refuses")),
///     }
/// }
///
/// let client = RpcClient::builder("ws://csms.example/ocpp", "CP-1").connector(through_proxy).build();
/// # assert!(client.is_ok());
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot dial",
    note = "a connector implements `Connector`, or is a closure `Fn(Target) -> impl Future<Output = io::Result<T>> + Send` where `T: AsyncRead + AsyncWrite + Send + Unpin + 'static`"
)]
pub trait Connector: Send + Sync + 'static {
    /// What it dials.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Dials. The future is dropped when the client closes or the
    /// [deadline](super::RpcClientBuilder::connect_deadline) has come.
    fn connect(&self, target: Target) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl<F, Fut, T> Connector for F
where
    F: Fn(Target) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = io::Result<T>> + Send,
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Stream = T;

    fn connect(&self, target: Target) -> impl Future<Output = io::Result<T>> + Send {
        self(target)
    }
}

/// Dials TCP.
pub(super) struct Tcp;

impl Connector for Tcp {
    type Stream = TcpStream;

    async fn connect(&self, target: Target) -> io::Result<TcpStream> {
        let address = format!("http://{target}").parse::<Uri>().map_err(io::Error::other)?;
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let stream = connector.oneshot(address).await.map_err(with_cause)?;
        Ok(stream.into_inner())
    }
}

/// An error that says where something went wrong, with the system's words for what did.
fn with_cause(error: impl StdError + Send + Sync + 'static) -> io::Error {
    let mut causes = iter::successors(error.source(), |cause| (**cause).source());
    let kind_and_cause = causes.find_map(|cause| Some((cause.downcast_ref::<io::Error>()?.kind(), cause)));
    match kind_and_cause {
        Some((kind, cause)) => io::Error::new(kind, format!("{error}: {cause}")),
        None => io::Error::other(error),
    }
}

/// A connector with its type forgotten.
pub(super) trait AnyConnector: Send + Sync {
    fn dial(&self, target: Target) -> Dialling<'_>;
}

type Dialling<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send + 'a>>;

impl<C: Connector> AnyConnector for C {
    fn dial(&self, target: Target) -> Dialling<'_> {
        Box::pin(async move { Ok(Box::new(self.connect(target).await?) as Box<dyn Io>) })
    }
}

/// Why a client did not get a connection.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ConnectError {
    /// The client's settings contradict each other or could never work.
    Settings(BuildError),
    /// Nobody answers at the address, or the connection broke.
    Io(Arc<io::Error>),
    /// The [deadline](super::RpcClientBuilder::connect_deadline) passed.
    Timeout,
    /// The server refuses over HTTP.
    #[non_exhaustive]
    Refused {
        /// The status.
        status: StatusCode,
        /// The headers.
        headers: Box<HeaderMap>,
        /// The body, or its first 64 KiB.
        body: Bytes,
    },
    /// What answers does not speak HTTP.
    Http(Arc<dyn StdError + Send + Sync>),
    /// The server upgrades in a way that RFC 6455 does not know.
    Handshake(&'static str),
    /// The server named no subprotocol, one that was not offered, or another than at the first connect.
    #[non_exhaustive]
    Protocol {
        /// What it named.
        named: Option<String>,
    },
    /// The client was closed meanwhile.
    Aborted,
    /// The client is closing, and can connect again when it has closed.
    Closing,
}

impl ConnectError {
    /// The HTTP status, where the server refused.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings(error) => error.fmt(f),
            Self::Io(error) => write!(f, "cannot connect: {error}"),
            Self::Timeout => f.write_str("no connection in time"),
            Self::Refused { status, .. } => write!(f, "refused with HTTP status {status}"),
            Self::Http(error) => write!(f, "the server does not speak HTTP: {error}"),
            Self::Handshake(why) => write!(f, "the server does not speak WebSocket: {why}"),
            Self::Protocol { named: Some(named) } => write!(f, "the server chose the subprotocol {named:?}"),
            Self::Protocol { named: None } => f.write_str("the server agreed to no subprotocol"),
            Self::Aborted => f.write_str("closed while connecting"),
            Self::Closing => f.write_str("the client is closing"),
        }
    }
}

/// What is within is a part of the message already, so that the source is what caused that.
impl StdError for ConnectError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Io(error) => error.source(),
            Self::Http(error) => error.source(),
            _ => None,
        }
    }
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

impl From<hyper::Error> for ConnectError {
    fn from(error: hyper::Error) -> Self {
        Self::Http(Arc::new(error))
    }
}

impl From<Unfit> for ConnectError {
    fn from(unfit: Unfit) -> Self {
        match unfit {
            Unfit::Handshake(why) => Self::Handshake(why),
            Unfit::Protocol(named) => Self::Protocol { named },
        }
    }
}

/// Everything that an attempt needs to know.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) connector: Arc<dyn AnyConnector>,
    pub(super) target: Target,
    pub(super) authority: HeaderValue,
    pub(super) path: Uri,
    /// The user's headers, and the credentials.
    pub(super) headers: HeaderMap,
    pub(super) protocols: Arc<[Arc<str>]>,
    pub(super) max_redirects: u32,
    pub(super) deadline: Duration,
}

/// A stream that became a WebSocket.
pub(super) struct Dialled {
    pub(super) io: Box<dyn Io>,
    /// What came in behind the handshake.
    pub(super) early: Bytes,
    pub(super) protocol: Option<Arc<str>>,
}

/// How much of the body of a refusal is kept.
const MAX_BODY: usize = 64 << 10;

impl Plan {
    pub(super) async fn dial(&self) -> Result<Dialled, ConnectError> {
        timeout(self.deadline, self.follow()).await.unwrap_or(Err(ConnectError::Timeout))
    }

    async fn follow(&self) -> Result<Dialled, ConnectError> {
        let mut plan = Cow::Borrowed(self);
        for _ in 0..self.max_redirects {
            let outcome = plan.try_dial().await;
            let Err(ConnectError::Refused { status, headers, .. }) = &outcome else { return outcome };
            let Some(next) = plan.redirected(*status, headers) else { return outcome };
            tracing::debug!(target = %next.target, "redirected");
            plan = Cow::Owned(next);
        }
        plan.try_dial().await
    }

    async fn try_dial(&self) -> Result<Dialled, ConnectError> {
        // A connector of the user's may panic, also before there is a future.
        let dialling = AssertUnwindSafe(async { self.connector.dial(self.target.clone()).await }).catch_unwind();
        let stream = dialling.await.unwrap_or_else(|_| Err(io::Error::other("the connector panicked")))?;
        let (mut sender, mut connection) = http1::handshake(TokioIo::new(stream)).await?;
        let key = SecWebsocketKey::from(rand::random::<[u8; 16]>());
        let expected = SecWebsocketAccept::from(key.clone());
        let request = self.request(key);
        // The connection is no task of its own: it is polled beside whatever waits for it.
        let mut transfer = pin!(std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)));
        let answer = pin!(async { judge(sender.send_request(request).await?).await });
        let response = match select(answer, transfer.as_mut()).await {
            Either::Left((response, _)) => response?,
            Either::Right((_, answer)) => answer.await?,
        };
        let (parts, _) = response.into_parts();
        let protocol = handshake::check_response(&parts, &expected, &self.protocols)?.cloned();
        transfer.await?;
        let http1::Parts { io, read_buf, .. } = connection.into_parts();
        Ok(Dialled { io: io.into_inner(), early: read_buf, protocol })
    }

    /// RFC 6455 §4.1
    fn request(&self, key: SecWebsocketKey) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.path.clone();
        let headers = request.headers_mut();
        *headers = self.headers.clone();
        headers.insert(header::HOST, self.authority.clone());
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        headers.typed_insert(key);
        let offer = HeaderValue::try_from(self.protocols.join(", "));
        if let (Ok(offer), false) = (offer, self.protocols.is_empty()) {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, offer);
        }
        request
    }
}

/// A response that upgrades, or else the refusal that it is.
async fn judge(response: Response<Incoming>) -> Result<Response<Incoming>, ConnectError> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response);
    }
    let (parts, mut body) = response.into_parts();
    let mut kept = Vec::new();
    // What is longer is cut, what breaks off is taken as it is.
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(data) = frame.data_ref() {
            kept.extend_from_slice(&data[..data.len().min(MAX_BODY - kept.len())]);
            if kept.len() == MAX_BODY {
                break;
            }
        }
    }
    Err(ConnectError::Refused { status: parts.status, headers: Box::new(parts.headers), body: kept.into() })
}

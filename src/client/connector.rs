//! The streams that a client connects over.

use std::{fmt, io, pin::Pin};

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tower::ServiceExt;

use crate::{client::error::into_io_error, io::Io};

/// The host and the port that a client connects to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) secure: bool,
}

impl Target {
    /// Returns the host, a name or an address. An IPv6 address has no brackets.
    pub fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Returns the port. If the endpoint has none, it is 80 for `ws` and 443 for `wss`.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns whether the connector must return a TLS stream.
    ///
    /// This is the case for `wss` with a [`secure_connector`](super::RpcClientBuilder::secure_connector). Any other
    /// connector gets `false`, because the client adds TLS itself.
    pub fn is_secure(&self) -> bool {
        self.secure
    }
}

/// Formats the target as `host:port`, with brackets around an IPv6 address.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A source of streams for a client, such as a proxy or a serial line. Closures implement it.
///
/// A client without a connector uses TCP. It tries all addresses of the host, with a head start for the preferred
/// address family (RFC 8305), and sets `TCP_NODELAY`.
///
/// ```
/// use ocpp_rpc::{RpcClient, client::Target};
/// use tokio::{io::{AsyncReadExt, AsyncWriteExt}, net::TcpStream};
///
/// /// Connects through an HTTP proxy (RFC 9110 §9.3.6).
/// async fn through_proxy(target: Target) -> std::io::Result<TcpStream> {
///     let mut stream = TcpStream::connect("proxy.example:3128").await?;
///     stream.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes()).await?;
///     let mut head = Vec::new();
///     while !head.ends_with(b"\r\n\r\n") && head.len() < 8192 {
///         head.push(stream.read_u8().await?);
///     }
///     if head.starts_with(b"HTTP/1.1 200") {
///         Ok(stream)
///     } else {
///         Err(std::io::Error::other("the proxy refused the connection"))
///     }
/// }
///
/// let client = RpcClient::builder("ws://csms.example/ocpp", "CP-1").connector(through_proxy).build();
/// # assert!(client.is_ok());
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a connector",
    note = "a connector implements `Connector`, or is a closure `Fn(Target) -> impl Future<Output = io::Result<T>> + Send` where `T: AsyncRead + AsyncWrite + Send + Unpin + 'static`"
)]
pub trait Connector: Send + Sync + 'static {
    /// The type of the streams.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Opens a stream to `target`.
    ///
    /// The client drops the future when it closes, or when the
    /// [`connect_timeout`](super::RpcClientBuilder::connect_timeout) has passed.
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

/// The default connector.
pub(super) struct Tcp;

impl Connector for Tcp {
    type Stream = TcpStream;

    async fn connect(&self, target: Target) -> io::Result<TcpStream> {
        let address = format!("http://{target}").parse::<Uri>().map_err(io::Error::other)?;
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let stream = connector.oneshot(address).await.map_err(into_io_error)?;
        Ok(stream.into_inner())
    }
}

/// A [`Connector`] of any type.
pub(super) trait DynConnector: Send + Sync {
    /// Opens a stream to `target`.
    fn open(&self, target: Target) -> Opening<'_>;
}

type Opening<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send + 'a>>;

impl<C: Connector> DynConnector for C {
    fn open(&self, target: Target) -> Opening<'_> {
        Box::pin(async move { Ok(Box::new(self.connect(target).await?) as Box<dyn Io>) })
    }
}

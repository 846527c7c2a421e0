//! Makes the streams that a client dials over.

use std::{error::Error as StdError, fmt, io, iter, pin::Pin};

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tower::ServiceExt;

use crate::io::Io;

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
/// use ocpp_rpc::{RpcClient, client::Target};
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
    /// [deadline](super::RpcClientBuilder::connect_timeout) has come.
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

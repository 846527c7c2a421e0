//! One attempt to connect: open a stream, request the upgrade, check the response.

use std::{borrow::Cow, io, panic::AssertUnwindSafe, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{
    FutureExt,
    future::{Either, select},
};
use headers::{HeaderMapExt, SecWebsocketAccept, SecWebsocketKey};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    backoff::MIN_WAIT,
    client::{
        connector::{DynConnector, Target},
        error::ConnectError,
        handshake::{self, HandshakeError},
    },
    header_case::header_case,
    io::Io,
    random::random,
    websocket::{
        compression::Compression,
        extension::{self, DeflateParams},
    },
};

/// The settings of an attempt, checked and encoded.
#[derive(Clone)]
pub(super) struct ConnectPlan {
    pub(super) connector: Arc<dyn DynConnector>,
    pub(super) endpoint: Endpoint,
    /// The headers of the application, `User-Agent` and the credentials.
    pub(super) headers: HeaderMap,
    pub(super) protocols: Arc<[Arc<str>]>,
    pub(super) compression: Option<Compression>,
    pub(super) max_redirects: u32,
    pub(super) connect_timeout: Duration,
}

/// An endpoint with the identity and the query of the client.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) target: Target,
    pub(super) authority: HeaderValue,
    pub(super) path: Uri,
}

/// A stream after the WebSocket handshake.
pub(super) struct Connected {
    pub(super) io: Box<dyn Io>,
    /// The bytes that the server sent after its response.
    pub(super) read_buf: Bytes,
    pub(super) protocol: Option<Arc<str>>,
    /// The compression, if the server accepted it.
    pub(super) deflate: Option<DeflateParams>,
}

/// The bytes that are kept of the body of a refusal.
const MAX_BODY: usize = 64 << 10;

/// The longest time from the head of a refusal to the end of its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

impl ConnectPlan {
    /// Connects within the timeout, and follows as many redirects as allowed.
    pub(super) async fn connect(&self) -> Result<Connected, ConnectError> {
        let deadline = Instant::now() + self.connect_timeout;
        let mut plan = Cow::Borrowed(self);
        for _ in 0..self.max_redirects {
            let outcome = plan.try_connect(deadline).await;
            let Err(ConnectError::Refused { status, headers, .. }) = &outcome else { return outcome };
            let Some(next) = plan.redirect(*status, headers) else { return outcome };
            tracing::debug!(target = %next.endpoint.target, "following a redirect");
            plan = Cow::Owned(next);
            // Redirects may lead in a circle.
            sleep(MIN_WAIT).await;
        }
        plan.try_connect(deadline).await
    }

    /// Connects without following redirects.
    async fn try_connect(&self, deadline: Instant) -> Result<Connected, ConnectError> {
        // A connector of the application may panic, even before it returns its future.
        let opening =
            AssertUnwindSafe(async { self.connector.open(self.endpoint.target.clone()).await }).catch_unwind();
        let opened = timeout_at(deadline, opening).await?;
        let stream = opened.unwrap_or_else(|_| Err(io::Error::other("the connector panicked")))?;
        let (mut sender, mut connection) = http1::handshake(TokioIo::new(stream)).await?;
        let key = SecWebsocketKey::from(random::<[u8; 16]>());
        let expected = SecWebsocketAccept::from(key.clone());
        let request = self.request(key);
        // The attempt polls the HTTP connection itself, so that dropping the attempt leaves no task behind.
        let mut transfer = pin!(std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)));
        let response = pin!(async {
            let response = timeout_at(deadline, sender.send_request(request)).await??;
            check_status(response, deadline).await
        });
        let response = match select(response, transfer.as_mut()).await {
            Either::Left((response, _)) => response?,
            Either::Right((transferred, response)) => {
                let response = response.await;
                if let Err(ConnectError::Io(_)) = response {
                    // The request ended with the connection, which knows why.
                    transferred?;
                }
                response?
            }
        };
        let (parts, _) = response.into_parts();
        let protocol = handshake::check_response(&parts, &expected, &self.protocols)?.cloned();
        let deflate = extension::check_response(&parts.headers, self.compression.as_ref());
        let deflate = deflate.map_err(HandshakeError::InvalidResponse)?;
        timeout_at(deadline, transfer).await??;
        let http1::Parts { io, read_buf, .. } = connection.into_parts();
        Ok(Connected { io: io.into_inner(), read_buf, protocol, deflate })
    }

    /// Returns the request of the handshake (RFC 6455 §4.1).
    fn request(&self, key: SecWebsocketKey) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.endpoint.path.clone();
        *request.extensions_mut() = header_case();
        let headers = request.headers_mut();
        *headers = self.headers.clone();
        headers.insert(header::HOST, self.endpoint.authority.clone());
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        headers.typed_insert(key);
        let offer = HeaderValue::try_from(self.protocols.join(", "));
        if let (Ok(offer), false) = (offer, self.protocols.is_empty()) {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, offer);
        }
        if let Some(compression) = &self.compression {
            headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, extension::offer(compression));
        }
        request
    }
}

/// Returns the response if it has the status of an upgrade, and an error with its head and body otherwise.
async fn check_status(response: Response<Incoming>, deadline: Instant) -> Result<Response<Incoming>, ConnectError> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response);
    }
    let (parts, mut body) = response.into_parts();
    let mut kept = Vec::new();
    // The body only helps to explain the refusal, so an incomplete one will do.
    let deadline = deadline.min(Instant::now() + BODY_TIMEOUT);
    while let Ok(Some(Ok(frame))) = timeout_at(deadline, body.frame()).await {
        if let Some(data) = frame.data_ref() {
            kept.extend_from_slice(&data[..data.len().min(MAX_BODY - kept.len())]);
            if kept.len() == MAX_BODY {
                break;
            }
        }
    }
    Err(ConnectError::Refused { status: parts.status, headers: Box::new(parts.headers), body: kept.into() })
}

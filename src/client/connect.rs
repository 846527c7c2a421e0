//! One attempt to connect: dial, ask for the upgrade, check the answer.

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
use tokio::time::timeout;

use crate::{
    client::{
        connector::{AnyConnector, Target},
        error::ConnectError,
    },
    handshake,
    io::Io,
};

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
    pub(super) connect_timeout: Duration,
}

/// A stream that became a WebSocket.
pub(super) struct Dialled {
    pub(super) io: Box<dyn Io>,
    /// What came in behind the handshake.
    pub(super) read_buf: Bytes,
    pub(super) protocol: Option<Arc<str>>,
}

/// How much of the body of a refusal is kept.
const MAX_BODY: usize = 64 << 10;

impl Plan {
    pub(super) async fn dial(&self) -> Result<Dialled, ConnectError> {
        timeout(self.connect_timeout, self.follow()).await.unwrap_or(Err(ConnectError::Timeout))
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
        Ok(Dialled { io: io.into_inner(), read_buf, protocol })
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

//! A server on codetics-ocpp-ws behind hyper, without anything around it: no limits, no pings, no calls to stations.

use std::{convert::Infallible, error::Error, io};

use codetics_ocpp_ws::{Message, WsConfig, handshake};
use compare::PROTOCOL;
use http_body_util::Empty;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE},
    server::conn::http1,
    service::service_fn,
    upgrade::{OnUpgrade, on},
};
use hyper_util::rt::TokioIo;

fn main() -> io::Result<()> {
    compare::serve(async |stream| {
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(upgrade));
        // A connection ends with its first error.
        let _ = connection.with_upgrades().await;
    })
}

async fn upgrade(mut request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let mut response = Response::new(Empty::new());
    let key = request.headers().get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok());
    let accept = key.filter(|key| handshake::valid_client_key(key)).map(handshake::accept_key);
    let Some(accept) = accept.and_then(|accept| HeaderValue::try_from(accept).ok()) else {
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(response);
    };
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().extend([
        (CONNECTION, HeaderValue::from_static("Upgrade")),
        (UPGRADE, HeaderValue::from_static("websocket")),
        (SEC_WEBSOCKET_ACCEPT, accept),
        (SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL)),
    ]);
    let upgraded = on(&mut request);
    tokio::spawn(async move {
        // As above.
        let _ = talk(upgraded).await;
    });
    Ok(response)
}

async fn talk(upgraded: OnUpgrade) -> Result<(), Box<dyn Error + Send + Sync>> {
    let stream = TokioIo::new(upgraded.await?);
    let (mut reader, mut writer) = codetics_ocpp_ws::server(stream, WsConfig::default(), None);
    while let Some(message) = reader.recv().await? {
        if let Message::Text(call) = message {
            writer.send_text(&compare::respond(&call)?).await?;
        }
    }
    Ok(())
}

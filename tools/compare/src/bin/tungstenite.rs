//! A server on tokio-tungstenite, without anything around it: no limits, no pings, no calls to stations.

use std::{error::Error, io};

use compare::PROTOCOL;
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    accept_hdr_async_with_config,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response},
        http::{HeaderValue, header::SEC_WEBSOCKET_PROTOCOL},
        protocol::WebSocketConfig,
    },
};

fn main() -> io::Result<()> {
    compare::serve(async |stream| {
        // A connection ends with its first error.
        let _ = talk(stream).await;
    })
}

async fn talk(stream: TcpStream) -> Result<(), Box<dyn Error + Send + Sync>> {
    // The default is 128 KiB for each connection, too much for many stations.
    let config = WebSocketConfig::default().read_buffer_size(4096);
    let mut websocket = accept_hdr_async_with_config(stream, select_protocol, Some(config)).await?;
    while let Some(message) = websocket.next().await {
        if let Message::Text(call) = message? {
            websocket.send(Message::text(compare::respond(&call)?)).await?;
        }
    }
    Ok(())
}

#[expect(clippy::result_large_err, reason = "the type of the library's callback")]
fn select_protocol(_: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    Ok(response)
}

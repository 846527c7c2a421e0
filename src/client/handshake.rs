//! Writes the request of a WebSocket handshake, and checks the response.

use std::{borrow::Cow, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use headers::{HeaderMapExt, SecWebsocketAccept};
use http::{HeaderValue, header, response};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{
    error::BuildError,
    handshake::{has_token, has_websocket_upgrade, single_value},
};

/// Checks the response to a WebSocket handshake, and returns the selected subprotocol (RFC 6455 §4.1).
///
/// The protocol must be one of `offered`. The result is `None` only if `offered` is empty.
pub(crate) fn check_response<'a>(
    parts: &response::Parts,
    expected: &SecWebsocketAccept,
    offered: &'a [Arc<str>],
) -> Result<Option<&'a Arc<str>>, HandshakeError> {
    let headers = &parts.headers;
    if !has_websocket_upgrade(headers) || !has_token(headers, &header::CONNECTION, "upgrade") {
        return Err(HandshakeError::InvalidResponse("the response does not upgrade to websocket".into()));
    }
    if headers.typed_get::<SecWebsocketAccept>().as_ref() != Some(expected) {
        return Err(HandshakeError::InvalidResponse("the Sec-WebSocket-Accept does not match the key".into()));
    }
    let selected = single_value(headers, &header::SEC_WEBSOCKET_PROTOCOL);
    match selected.and_then(|selected| offered.iter().find(|offer| selected == &***offer)) {
        Some(selected) => Ok(Some(selected)),
        None if offered.is_empty() && !headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) => Ok(None),
        None => Err(HandshakeError::UnexpectedProtocol(
            selected.map(|selected| String::from_utf8_lossy(selected.as_bytes()).into_owned()),
        )),
    }
}

/// The error of a response that does not open a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HandshakeError {
    /// The response does not conform to RFC 6455.
    InvalidResponse(Cow<'static, str>),
    /// The response names no subprotocol, or one that was not offered.
    UnexpectedProtocol(Option<String>),
}

/// Returns the path of an identity below an endpoint's path.
pub(crate) fn identity_path(endpoint: &str, identity: &str) -> String {
    /// All characters except the unreserved ones (RFC 3986 §2.3).
    const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    format!("{}/{}", endpoint.trim_end_matches('/'), utf8_percent_encode(identity, SEGMENT))
}

/// Creates the header of Basic credentials. The password may be any bytes.
pub(crate) fn basic_credentials(identity: &str, password: &[u8]) -> Result<HeaderValue, BuildError> {
    let encoded = BASE64_STANDARD.encode([identity.as_bytes(), b":", password].concat());
    let credentials = HeaderValue::try_from(format!("Basic {encoded}"));
    let mut credentials = credentials.map_err(|_| BuildError::settings("the password is too long for a header"))?;
    credentials.set_sensitive(true);
    Ok(credentials)
}

#[cfg(test)]
mod tests {
    use headers::SecWebsocketKey;

    use super::*;

    #[cfg(feature = "server")]
    #[test]
    fn server_reads_the_path_and_credentials_that_the_client_writes() {
        use http::HeaderMap;

        use crate::server::handshake::{credentials::basic_password, request::split_identity};

        for name in ["CP-1", "a/b", "a:b ü🔌", "100%", "..", "?#"] {
            assert_eq!(split_identity(&identity_path("/ocpp/", name)), Ok(("/ocpp", name.to_owned())));
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, basic_credentials(name, b"\xff:\0").expect("short"));
            assert_eq!(basic_password(&headers, name).as_deref(), Some(&b"\xff:\0"[..]));
        }
    }

    #[test]
    fn response_is_checked_header_by_header() {
        let expected = SecWebsocketAccept::from(SecWebsocketKey::from([7; 16]));
        let offered: [Arc<str>; 2] = ["ocpp2.0.1".into(), "ocpp1.6".into()];
        let response = |change: (&'static str, Option<&'static str>)| {
            let mut parts = http::Response::new(()).into_parts().0;
            parts.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("ocpp1.6"));
            parts.headers.typed_insert(expected.clone());
            match change {
                (name, Some(value)) => parts.headers.insert(name, HeaderValue::from_static(value)),
                (name, None) => parts.headers.remove(name),
            };
            check_response(&parts, &expected, &offered).map(|selected| selected.cloned())
        };
        assert_eq!(response(("x-none", None)), Ok(Some("ocpp1.6".into())));
        for (name, value) in [
            ("upgrade", None),
            ("connection", None),
            ("sec-websocket-accept", None),
            ("sec-websocket-accept", Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")),
        ] {
            assert!(matches!(response((name, value)), Err(HandshakeError::InvalidResponse(_))), "{name}");
        }
        assert_eq!(response(("sec-websocket-protocol", None)), Err(HandshakeError::UnexpectedProtocol(None)));
        let other = Err(HandshakeError::UnexpectedProtocol(Some("ocpp2.1".into())));
        assert_eq!(response(("sec-websocket-protocol", Some("ocpp2.1"))), other);
    }
}

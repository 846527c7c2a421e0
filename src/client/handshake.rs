//! Writes the request of a WebSocket handshake, and checks the response.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use headers::{HeaderMapExt, SecWebsocketAccept};
use http::{HeaderValue, header, response};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{
    error::BuildError,
    handshake::{has_token, sole, wants_upgrade},
};

/// Checks that this answers a WebSocket handshake of ours (RFC 6455 §4.1), and gives the subprotocol that was
/// agreed on: one of those that were offered, and none where none was.
pub(crate) fn check_response<'a>(
    parts: &response::Parts,
    expected: &SecWebsocketAccept,
    offered: &'a [Arc<str>],
) -> Result<Option<&'a Arc<str>>, HandshakeError> {
    let headers = &parts.headers;
    if !wants_upgrade(headers) || !has_token(headers, &header::CONNECTION, "upgrade") {
        return Err(HandshakeError::InvalidResponse("the answer upgrades to something else"));
    }
    if headers.typed_get::<SecWebsocketAccept>().as_ref() != Some(expected) {
        return Err(HandshakeError::InvalidResponse("the Sec-WebSocket-Accept does not fit the key"));
    }
    if headers.contains_key(header::SEC_WEBSOCKET_EXTENSIONS) {
        return Err(HandshakeError::InvalidResponse("the answer has an extension that was not offered"));
    }
    let agreed = sole(headers, &header::SEC_WEBSOCKET_PROTOCOL);
    match agreed.and_then(|agreed| offered.iter().find(|offer| agreed == &***offer)) {
        Some(agreed) => Ok(Some(agreed)),
        None if offered.is_empty() && !headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) => Ok(None),
        None => Err(HandshakeError::UnexpectedProtocol(
            agreed.map(|agreed| String::from_utf8_lossy(agreed.as_bytes()).into_owned()),
        )),
    }
}

/// Why an answer to our handshake opens no connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HandshakeError {
    /// It is none that RFC 6455 knows.
    InvalidResponse(&'static str),
    /// It names no subprotocol, or one that was not offered.
    UnexpectedProtocol(Option<String>),
}

/// The path of an identity below an endpoint's.
pub(crate) fn path_of(endpoint: &str, identity: &str) -> String {
    /// What may stand in a path segment as it is (RFC 3986 §2.3).
    const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    format!("{}/{}", endpoint.trim_end_matches('/'), utf8_percent_encode(identity, SEGMENT))
}

/// The header of Basic credentials: identity and password, which may be any bytes.
pub(crate) fn basic_credentials(identity: &str, password: &[u8]) -> Result<HeaderValue, BuildError> {
    let encoded = BASE64_STANDARD.encode([identity.as_bytes(), b":", password].concat());
    let credentials = HeaderValue::try_from(format!("Basic {encoded}"));
    let mut credentials = credentials.map_err(|_| BuildError("the password is too long for a header".into()))?;
    credentials.set_sensitive(true);
    Ok(credentials)
}

#[cfg(test)]
mod tests {
    use headers::SecWebsocketKey;

    use super::*;

    #[cfg(feature = "server")]
    #[test]
    fn paths_and_credentials_come_back_as_they_were_sent() {
        use http::HeaderMap;

        use crate::server::handshake::{credentials::basic_password, request::split_identity};

        for name in ["CP-1", "a/b", "a:b ü🔌", "100%", "..", "?#"] {
            assert_eq!(split_identity(&path_of("/ocpp/", name)), Ok(("/ocpp", name.to_owned())));
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, basic_credentials(name, b"\xff:\0").expect("short"));
            assert_eq!(basic_password(&headers, name).as_deref(), Some(&b"\xff:\0"[..]));
        }
    }

    #[test]
    fn an_answer_is_checked_header_by_header() {
        let expected = SecWebsocketAccept::from(SecWebsocketKey::from([7; 16]));
        let offered: [Arc<str>; 2] = ["ocpp2.0.1".into(), "ocpp1.6".into()];
        let answer = |change: (&'static str, Option<&'static str>)| {
            let mut parts = http::Response::new(()).into_parts().0;
            parts.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("ocpp1.6"));
            parts.headers.typed_insert(expected.clone());
            match change {
                (name, Some(value)) => parts.headers.insert(name, HeaderValue::from_static(value)),
                (name, None) => parts.headers.remove(name),
            };
            check_response(&parts, &expected, &offered).map(|agreed| agreed.cloned())
        };
        assert_eq!(answer(("x-none", None)), Ok(Some("ocpp1.6".into())));
        for (name, value) in [
            ("upgrade", None),
            ("connection", None),
            ("sec-websocket-accept", None),
            ("sec-websocket-accept", Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")),
            ("sec-websocket-extensions", Some("permessage-deflate")),
        ] {
            assert!(matches!(answer((name, value)), Err(HandshakeError::InvalidResponse(_))), "{name}");
        }
        assert_eq!(answer(("sec-websocket-protocol", None)), Err(HandshakeError::UnexpectedProtocol(None)));
        let other = Err(HandshakeError::UnexpectedProtocol(Some("ocpp2.1".into())));
        assert_eq!(answer(("sec-websocket-protocol", Some("ocpp2.1"))), other);
    }
}

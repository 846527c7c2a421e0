//! Reads and checks the HTTP request of a WebSocket handshake.

use base64::{Engine, prelude::BASE64_STANDARD};
use headers::{HeaderMapExt, SecWebsocketAccept, SecWebsocketKey};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header, request::Parts};
use percent_encoding::percent_decode_str;

use crate::{
    handshake::{has_token, is_token, sole, wants_upgrade},
    message::tolerance::{Deviation, Deviations},
};

/// Why a request opens no connection: a status and a reason to tell the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) reason: &'static str,
}

const fn refusal(status: StatusCode, reason: &'static str) -> Refusal {
    Refusal { status, reason }
}

/// Checks that this is a WebSocket handshake (RFC 6455 §4.2.1); gives what proves that it was understood.
pub(crate) fn check_http1(parts: &Parts) -> Result<SecWebsocketAccept, Refusal> {
    let headers = &parts.headers;
    if parts.version == Version::HTTP_2 {
        return Err(refusal(StatusCode::BAD_REQUEST, "a WebSocket over HTTP/2 is asked for by CONNECT"));
    }
    if !wants_upgrade(headers) {
        return Err(refusal(StatusCode::UPGRADE_REQUIRED, "this is a WebSocket endpoint"));
    }
    if parts.method != Method::GET {
        return Err(refusal(StatusCode::BAD_REQUEST, "a WebSocket handshake is a GET"));
    }
    if parts.version != Version::HTTP_11 {
        return Err(refusal(StatusCode::BAD_REQUEST, "a WebSocket handshake needs HTTP/1.1"));
    }
    if !has_token(headers, &header::CONNECTION, "upgrade") {
        return Err(refusal(StatusCode::BAD_REQUEST, "the Connection header does not name Upgrade"));
    }
    if sole(headers, &header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(refusal(StatusCode::UPGRADE_REQUIRED, "the WebSocket version is not 13"));
    }
    // What would follow the head is no body of ours, and perhaps no frame of the client's.
    let is_empty = |length: &HeaderValue| length == "0";
    if headers.contains_key(header::TRANSFER_ENCODING) || !headers.get_all(header::CONTENT_LENGTH).iter().all(is_empty)
    {
        return Err(refusal(StatusCode::BAD_REQUEST, "a WebSocket handshake has no body"));
    }
    let key_is_valid = sole(headers, &header::SEC_WEBSOCKET_KEY)
        .is_some_and(|key| BASE64_STANDARD.decode(key).is_ok_and(|key| key.len() == 16));
    match headers.typed_get::<SecWebsocketKey>() {
        Some(key) if key_is_valid => Ok(key.into()),
        _ => Err(refusal(StatusCode::BAD_REQUEST, "the Sec-WebSocket-Key is not 16 bytes in base64")),
    }
}

/// Another version of WebSocket than 13, on a stream of HTTP/2, which knows no 426.
pub(crate) const UNSUPPORTED_VERSION: Refusal = refusal(StatusCode::BAD_REQUEST, "the WebSocket version is not 13");

/// Checks that this is a WebSocket handshake on a stream of HTTP/2, whose `:protocol` is this (RFC 8441 §5). There is no
/// key, and nothing to prove.
pub(crate) fn check_http2(parts: &Parts, protocol: &str) -> Result<(), Refusal> {
    let headers = &parts.headers;
    if parts.method != Method::CONNECT {
        return Err(refusal(StatusCode::BAD_REQUEST, "a WebSocket over HTTP/2 is asked for by CONNECT"));
    }
    if !protocol.eq_ignore_ascii_case("websocket") {
        return Err(refusal(StatusCode::NOT_IMPLEMENTED, "this is a WebSocket endpoint"));
    }
    if sole(headers, &header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(UNSUPPORTED_VERSION);
    }
    Ok(())
}

/// Endpoint and identity: the identity is the last segment of the path that is not empty, decoded once, after it
/// was split off (OCPP-J 1.6 §3.1.1). The endpoint is the raw path in front of it.
pub(crate) fn split_identity(path: &str) -> Result<(&str, String), Refusal> {
    const NONE: Refusal = refusal(StatusCode::NOT_FOUND, "the path ends in no identity");
    const UNDECODABLE: Refusal = refusal(StatusCode::NOT_FOUND, "the identity is not percent-encoded UTF-8");
    let trimmed = path.trim_end_matches('/');
    let start = trimmed.rfind('/').map_or(0, |slash| slash + 1);
    let (before, segment) = trimmed.split_at(start);
    if segment.is_empty() {
        return Err(NONE);
    }
    // The decoder lets bad escapes through as they are.
    let is_escape = |escape: &[u8]| matches!(escape, [_, a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit());
    if !segment.match_indices('%').all(|(at, _)| is_escape(&segment.as_bytes()[at..])) {
        return Err(UNDECODABLE);
    }
    let identity = percent_decode_str(segment).decode_utf8().map_err(|_| UNDECODABLE)?;
    check_identity(&identity)?;
    Ok((before.trim_end_matches('/'), identity.into_owned()))
}

/// Refuses an identity that nobody could have.
pub(crate) fn check_identity(identity: &str) -> Result<(), Refusal> {
    const INVALID: Refusal = refusal(StatusCode::NOT_FOUND, "the identity is empty or has control characters");
    if identity.is_empty() || identity.chars().any(char::is_control) {
        return Err(INVALID);
    }
    Ok(())
}

/// Notes slashes that say nothing in a path.
pub(crate) fn note_extra_slashes(path: &str, deviations: &mut Deviations) {
    if path.ends_with('/') || path.contains("//") {
        deviations.add(Deviation::ExtraSlashes);
    }
}

/// The subprotocols that the client offers, in its order: the lines of the header are one list, empty elements are
/// skipped.
pub(crate) fn offered_protocols(headers: &HeaderMap, deviations: &mut Deviations) -> Result<Vec<String>, Refusal> {
    const MALFORMED: Refusal = refusal(StatusCode::BAD_REQUEST, "the Sec-WebSocket-Protocol header is malformed");
    let mut offered = Vec::new();
    for line in headers.get_all(header::SEC_WEBSOCKET_PROTOCOL) {
        for element in line.to_str().map_err(|_| MALFORMED)?.split(',') {
            let token = element.trim();
            if token.is_empty() {
                deviations.add(Deviation::EmptyProtocolElement);
                continue;
            }
            if !is_token(token) {
                return Err(MALFORMED);
            }
            offered.push(token.to_owned());
        }
    }
    Ok(offered)
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn headers(lines: &[(&'static str, &[u8])]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &[u8])| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value).expect("a value"))
        };
        lines.iter().map(line).collect()
    }

    #[test]
    fn the_identity_is_the_last_segment_decoded_once() {
        for (path, endpoint, name) in [
            ("/ocpp/CP-1", "/ocpp", "CP-1"),
            ("/CP-1", "", "CP-1"),
            ("//CP-1", "", "CP-1"),
            ("/ocpp///CP-1//", "/ocpp", "CP-1"),
            ("/ocpp/a%2Fb", "/ocpp", "a/b"),
            ("/ocpp/a%252Fb", "/ocpp", "a%2Fb"),
            ("/o%2Fc/CP%20%C3%BC", "/o%2Fc", "CP ü"),
            ("/ocpp/%F0%9F%94%8C", "/ocpp", "🔌"),
            ("/ocpp/a:b", "/ocpp", "a:b"),
            ("/ocpp/..", "/ocpp", ".."),
        ] {
            assert_eq!(split_identity(path), Ok((endpoint, name.to_owned())), "{path}");
        }
    }

    #[test]
    fn what_is_no_identity_is_not_found() {
        for path in ["", "/", "///", "/ocpp/%E0%A4%A", "/ocpp/%", "/ocpp/%zz", "/ocpp/%ff", "/ocpp/%00"] {
            assert_eq!(split_identity(path).map_err(|refusal| refusal.status), Err(StatusCode::NOT_FOUND), "{path}");
        }
    }

    #[test]
    fn offers_are_one_list_over_all_lines() {
        const NAME: &str = "sec-websocket-protocol";
        for (lines, offered) in [
            (&[][..], &[][..]),
            (&[(NAME, &b"ocpp2.0.1, ocpp1.6"[..])], &["ocpp2.0.1", "ocpp1.6"]),
            (&[(NAME, b",ocpp2.0.1,,"), (NAME, b"ocpp1.6")], &["ocpp2.0.1", "ocpp1.6"]),
            (&[(NAME, b"")], &[]),
        ] {
            assert_eq!(offered_protocols(&headers(lines), &mut Deviations::default()).expect("sound"), offered);
        }
        for malformed in [&b"ocpp 1.6"[..], b"ocpp1.6;q=1", b"\xff"] {
            assert!(offered_protocols(&headers(&[(NAME, malformed)]), &mut Deviations::default()).is_err());
        }
    }

    #[test]
    fn a_handshake_is_checked_header_by_header() {
        let sound = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let parts = |change: (&str, Option<&'static str>)| {
            let mut request = http::Request::get("/CP").body(()).expect("a request").into_parts().0;
            for (name, value) in sound {
                request.headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            match change {
                (name, Some(value)) => request
                    .headers
                    .insert(HeaderName::from_bytes(name.as_bytes()).expect("a name"), HeaderValue::from_static(value)),
                (name, None) => request.headers.remove(name),
            };
            request
        };
        let mut answer = HeaderMap::new();
        answer.typed_insert(check_http1(&parts(("x-none", None))).expect("sound"));
        // RFC 6455 §1.3
        assert_eq!(answer[header::SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        for (name, value, status) in [
            ("upgrade", None, 426),
            ("upgrade", Some("h2c"), 426),
            ("connection", None, 400),
            ("connection", Some("close"), 400),
            ("sec-websocket-version", None, 426),
            ("sec-websocket-version", Some("8"), 426),
            ("sec-websocket-key", None, 400),
            ("sec-websocket-key", Some("c2hvcnQ="), 400),
            ("sec-websocket-key", Some("not base64"), 400),
        ] {
            let refused = check_http1(&parts((name, value))).expect_err(name);
            assert_eq!(refused.status, status, "{name}: {value:?}");
        }
        let mut post = parts(("x-none", None));
        post.method = Method::POST;
        assert_eq!(check_http1(&post).expect_err("POST").status, 400);
        let mut old = parts(("x-none", None));
        old.version = Version::HTTP_10;
        assert_eq!(check_http1(&old).expect_err("HTTP/1.0").status, 400);
    }

    #[test]
    fn a_handshake_by_connect_needs_no_key() {
        let request = |method: Method, version: Option<&'static str>| {
            let mut request = http::Request::new(()).into_parts().0;
            (request.method, request.version) = (method, Version::HTTP_2);
            if let Some(version) = version {
                request.headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static(version));
            }
            request
        };
        assert_eq!(check_http2(&request(Method::CONNECT, Some("13")), "WebSocket"), Ok(()));
        for (method, protocol, version, status) in [
            (Method::GET, "websocket", Some("13"), 400),
            (Method::CONNECT, "connect-udp", Some("13"), 501),
            (Method::CONNECT, "websocket", Some("8"), 400),
            (Method::CONNECT, "websocket", None, 400),
        ] {
            let refused = check_http2(&request(method, version), protocol).expect_err(protocol);
            assert_eq!(refused.status, status, "{protocol} {version:?}");
        }
        assert_eq!(check_http1(&request(Method::GET, Some("13"))).expect_err("no CONNECT").status, 400);
    }
}

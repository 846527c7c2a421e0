//! Reads and checks the HTTP request of a WebSocket handshake.

use base64::Engine;
use headers::{HeaderMapExt, SecWebsocketAccept, SecWebsocketKey};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header, request::Parts};
use percent_encoding::percent_decode_str;

use crate::{
    handshake::{LENIENT_BASE64, has_token, has_websocket_upgrade, is_token, single_value},
    message::tolerance::{Deviation, Deviations},
};

/// The response to an invalid handshake: a status, and a reason for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) reason: &'static str,
}

const fn refusal(status: StatusCode, reason: &'static str) -> Refusal {
    Refusal { status, reason }
}

/// Returns `true` if a request of HTTP/1.1 lacks its `Host` header, or has several (RFC 9112 §3.2).
pub(crate) fn lacks_single_host(parts: &Parts) -> bool {
    parts.version == Version::HTTP_11 && single_value(&parts.headers, &header::HOST).is_none()
}

/// The refusal of a request of HTTP/1.1 that lacks its `Host` header, or has several.
pub(crate) const NO_SINGLE_HOST: Refusal =
    refusal(StatusCode::BAD_REQUEST, "the request does not have exactly one Host header");

/// Checks a WebSocket handshake over HTTP/1.1, and returns the response to its key (RFC 6455 §4.2.1).
pub(crate) fn check_http1(parts: &Parts, deviations: &mut Deviations) -> Result<SecWebsocketAccept, Refusal> {
    let headers = &parts.headers;
    if lacks_single_host(parts) {
        return Err(NO_SINGLE_HOST);
    }
    if parts.version == Version::HTTP_2 {
        return Err(refusal(StatusCode::BAD_REQUEST, "a WebSocket handshake over HTTP/2 must be a CONNECT request"));
    }
    if !has_websocket_upgrade(headers) {
        return Err(refusal(StatusCode::UPGRADE_REQUIRED, "this is a WebSocket endpoint"));
    }
    if parts.method != Method::GET {
        return Err(refusal(StatusCode::BAD_REQUEST, "a WebSocket handshake must be a GET request"));
    }
    if parts.version != Version::HTTP_11 {
        return Err(refusal(StatusCode::BAD_REQUEST, "a WebSocket handshake must use HTTP/1.1"));
    }
    if !has_token(headers, &header::CONNECTION, "upgrade") {
        deviations.add(Deviation::MissingConnectionUpgrade);
    }
    if single_value(headers, &header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(refusal(StatusCode::UPGRADE_REQUIRED, "the Sec-WebSocket-Version is not 13"));
    }
    // Bytes after the head could be read as a body or as frames, so a request with a body is ambiguous.
    let is_empty = |length: &HeaderValue| length == "0";
    if headers.contains_key(header::TRANSFER_ENCODING) || !headers.get_all(header::CONTENT_LENGTH).iter().all(is_empty)
    {
        return Err(refusal(StatusCode::BAD_REQUEST, "a WebSocket handshake must not have a body"));
    }
    let key = single_value(headers, &header::SEC_WEBSOCKET_KEY).and_then(|key| LENIENT_BASE64.decode(key).ok());
    let (Some(bytes @ 1..), Some(key)) = (key.map(|key| key.len()), headers.typed_get::<SecWebsocketKey>()) else {
        return Err(refusal(StatusCode::BAD_REQUEST, "the Sec-WebSocket-Key is missing or not base64"));
    };
    if bytes != 16 {
        deviations.add(Deviation::KeyLength);
    }
    Ok(key.into())
}

/// The refusal of a WebSocket version over HTTP/2, which does not have the status 426.
pub(crate) const UNSUPPORTED_VERSION: Refusal = refusal(StatusCode::BAD_REQUEST, "the Sec-WebSocket-Version is not 13");

/// Checks a WebSocket handshake over HTTP/2 with this `:protocol`. It has no key (RFC 8441 §5).
pub(crate) fn check_http2(parts: &Parts, protocol: &str) -> Result<(), Refusal> {
    let headers = &parts.headers;
    if parts.method != Method::CONNECT {
        return Err(refusal(StatusCode::BAD_REQUEST, "a WebSocket handshake over HTTP/2 must be a CONNECT request"));
    }
    if !protocol.eq_ignore_ascii_case("websocket") {
        return Err(refusal(StatusCode::NOT_IMPLEMENTED, "this is a WebSocket endpoint"));
    }
    if single_value(headers, &header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(UNSUPPORTED_VERSION);
    }
    Ok(())
}

/// Splits a path into endpoint and identity (OCPP-J 1.6 §3.1.1).
///
/// The identity is the last segment that is not empty. It is decoded once, after the split. The endpoint is the path
/// in front of it, not decoded.
pub(crate) fn split_identity(path: &str) -> Result<(&str, String), Refusal> {
    const MISSING: Refusal = refusal(StatusCode::NOT_FOUND, "the path does not end with an identity");
    const UNDECODABLE: Refusal = refusal(StatusCode::NOT_FOUND, "the identity is not percent-encoded UTF-8");
    let trimmed = path.trim_end_matches('/');
    let start = trimmed.rfind('/').map_or(0, |slash| slash + 1);
    let (before, segment) = trimmed.split_at(start);
    if segment.is_empty() {
        return Err(MISSING);
    }
    // The decoder keeps invalid escapes as they are.
    let is_escape = |escape: &[u8]| matches!(escape, [_, a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit());
    if !segment.match_indices('%').all(|(at, _)| is_escape(&segment.as_bytes()[at..])) {
        return Err(UNDECODABLE);
    }
    let identity = percent_decode_str(segment).decode_utf8().map_err(|_| UNDECODABLE)?;
    check_identity(&identity)?;
    Ok((before.trim_end_matches('/'), identity.into_owned()))
}

/// Checks that an identity is neither empty nor has control characters.
pub(crate) fn check_identity(identity: &str) -> Result<(), Refusal> {
    const INVALID: Refusal = refusal(StatusCode::NOT_FOUND, "the identity is empty or has control characters");
    if identity.is_empty() || identity.chars().any(char::is_control) {
        return Err(INVALID);
    }
    Ok(())
}

/// Adds a deviation if the path has redundant slashes.
pub(crate) fn note_extra_slashes(path: &str, deviations: &mut Deviations) {
    if path.ends_with('/') || path.contains("//") {
        deviations.add(Deviation::ExtraSlashes);
    }
}

/// Returns the subprotocols that the client offers, in its order.
///
/// All lines of the header are one list. Empty elements are skipped and added to the deviations.
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
    fn identity_is_the_last_segment_decoded_once() {
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
    fn path_without_a_valid_identity_is_not_found() {
        for path in ["", "/", "///", "/ocpp/%E0%A4%A", "/ocpp/%", "/ocpp/%zz", "/ocpp/%ff", "/ocpp/%00"] {
            assert_eq!(split_identity(path).map_err(|refusal| refusal.status), Err(StatusCode::NOT_FOUND), "{path}");
        }
    }

    #[test]
    fn offered_protocols_are_one_list_over_all_lines() {
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
    fn http1_handshake_is_checked_header_by_header() {
        let check = |parts: &Parts| {
            let mut deviations = Deviations::default();
            check_http1(parts, &mut deviations).map(|accept| (accept, deviations))
        };
        let sound = [
            ("host", "test"),
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
        let mut headers = HeaderMap::new();
        let (accept, deviations) = check(&parts(("x-none", None))).expect("sound");
        headers.typed_insert(accept);
        assert_eq!(deviations, Deviations::default());
        // RFC 6455 §1.3
        assert_eq!(headers[header::SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        for (name, value, status) in [
            ("host", None, 400),
            ("upgrade", None, 426),
            ("upgrade", Some("h2c"), 426),
            ("sec-websocket-version", None, 426),
            ("sec-websocket-version", Some("8"), 426),
            ("sec-websocket-key", None, 400),
            ("sec-websocket-key", Some("not base64"), 400),
        ] {
            let refused = check(&parts((name, value))).expect_err(name);
            assert_eq!(refused.status, status, "{name}: {value:?}");
        }
        for (name, value, deviation) in [
            ("connection", None, Deviation::MissingConnectionUpgrade),
            ("connection", Some("close"), Deviation::MissingConnectionUpgrade),
            ("sec-websocket-key", Some("c2hvcnQ="), Deviation::KeyLength),
        ] {
            let (_, deviations) = check(&parts((name, value))).expect(name);
            assert_eq!(deviations, deviation.into(), "{name}: {value:?}");
        }
        let mut post = parts(("x-none", None));
        post.method = Method::POST;
        assert_eq!(check(&post).expect_err("POST").status, 400);
        let mut old = parts(("x-none", None));
        old.version = Version::HTTP_10;
        assert_eq!(check(&old).expect_err("HTTP/1.0").status, 400);
    }

    #[test]
    fn http2_handshake_needs_no_key() {
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
        let refused = check_http1(&request(Method::GET, Some("13")), &mut Deviations::default());
        assert_eq!(refused.expect_err("no CONNECT").status, 400);
    }
}

//! What the opening handshake says, read out of its HTTP parts: is it one, who calls, and what does it offer.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use headers::{HeaderMapExt, SecWebsocketAccept, SecWebsocketKey};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header, request::Parts};
use percent_encoding::percent_decode_str;

use crate::options::BuildError;

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
pub(crate) fn check(parts: &Parts) -> Result<SecWebsocketAccept, Refusal> {
    let headers = &parts.headers;
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
    let key_is_sound = sole(headers, &header::SEC_WEBSOCKET_KEY)
        .is_some_and(|key| BASE64_STANDARD.decode(key).is_ok_and(|key| key.len() == 16));
    match headers.typed_get::<SecWebsocketKey>() {
        Some(key) if key_is_sound => Ok(key.into()),
        _ => Err(refusal(StatusCode::BAD_REQUEST, "the Sec-WebSocket-Key is not 16 bytes in base64")),
    }
}

/// Whether a request asks for a WebSocket at all.
pub(crate) fn wants_upgrade(headers: &HeaderMap) -> bool {
    has_token(headers, &header::UPGRADE, "websocket")
}

/// Endpoint and identity: the identity is the last segment of the path that is not empty, decoded once, after it
/// was split off (OCPP-J 1.6 §3.1.1). The endpoint is the raw path in front of it.
pub(crate) fn identity(path: &str, max_length: usize) -> Result<(&str, String), Refusal> {
    const NONE: Refusal = refusal(StatusCode::NOT_FOUND, "the path ends in no identity");
    const UNDECODABLE: Refusal = refusal(StatusCode::NOT_FOUND, "the identity is not percent-encoded UTF-8");
    const UNFIT: Refusal = refusal(StatusCode::NOT_FOUND, "the identity is too long or has control characters");
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
    if identity.len() > max_length || identity.chars().any(char::is_control) {
        return Err(UNFIT);
    }
    Ok((before.trim_end_matches('/'), identity.into_owned()))
}

/// The subprotocols that the client offers, in its order: the lines of the header are one list, empty elements are
/// skipped.
pub(crate) fn offered_protocols(headers: &HeaderMap) -> Result<Vec<String>, Refusal> {
    const MALFORMED: Refusal = refusal(StatusCode::BAD_REQUEST, "the Sec-WebSocket-Protocol header is malformed");
    let mut offered = Vec::new();
    for line in headers.get_all(header::SEC_WEBSOCKET_PROTOCOL) {
        for element in line.to_str().map_err(|_| MALFORMED)?.split(',') {
            let token = element.trim();
            if token.is_empty() {
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

/// The password of Basic credentials whose user name is the identity (OCPP-J 1.6 security whitepaper §2.3).
///
/// The user name is a literal prefix, so that colons are safe on both sides; the password is bytes. Anything else
/// is no password, and never an error.
pub(crate) fn basic_password(headers: &HeaderMap, identity: &str) -> Option<Vec<u8>> {
    let credentials = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, encoded) = credentials.split_at_checked("Basic ".len())?;
    if !scheme.eq_ignore_ascii_case(b"Basic ") {
        return None;
    }
    let decoded = BASE64_STANDARD.decode(encoded.trim_ascii()).ok()?;
    Some(decoded.strip_prefix(identity.as_bytes())?.strip_prefix(b":")?.to_vec())
}

/// Refuses protocols that could never be named in a handshake, or that are named twice.
pub(crate) fn check_protocols(protocols: &[Arc<str>]) -> Result<(), BuildError> {
    for (at, protocol) in protocols.iter().enumerate() {
        if !is_token(protocol) {
            return Err(BuildError(format!("the protocol {protocol:?} is not a token (RFC 9110 §5.6.2)")));
        }
        if protocols[..at].contains(protocol) {
            return Err(BuildError(format!("the protocol {protocol:?} is named twice")));
        }
    }
    Ok(())
}

/// Whether a text is a token as HTTP has it (RFC 9110 §5.6.2).
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Whether one of a header's elements, over all of its lines, is this token.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let elements = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok()).flat_map(|l| l.split(','));
    elements.map(str::trim).any(|element| element.eq_ignore_ascii_case(token))
}

/// A header's value, where there is exactly one.
fn sole<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).into_iter();
    values.next().filter(|_| values.next().is_none())
}

#[cfg(test)]
mod tests {
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
            assert_eq!(identity(path, 255), Ok((endpoint, name.to_owned())), "{path}");
        }
    }

    #[test]
    fn what_is_no_identity_is_not_found() {
        let long = format!("/ocpp/{}", "x".repeat(256));
        for path in ["", "/", "///", "/ocpp/%E0%A4%A", "/ocpp/%", "/ocpp/%zz", "/ocpp/%ff", "/ocpp/%00", &long] {
            assert_eq!(identity(path, 255).map_err(|refusal| refusal.status), Err(StatusCode::NOT_FOUND), "{path}");
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
            assert_eq!(offered_protocols(&headers(lines)).expect("sound"), offered);
        }
        for malformed in [&b"ocpp 1.6"[..], b"ocpp1.6;q=1", b"\xff"] {
            assert!(offered_protocols(&headers(&[(NAME, malformed)])).is_err());
        }
    }

    #[test]
    fn passwords_are_bytes_behind_the_identity() {
        let basic = |value: &str| headers(&[("authorization", value.as_bytes())]);
        let encode = |text: &[u8]| format!("Basic {}", BASE64_STANDARD.encode(text));
        // The example of the 1.6 security whitepaper's predecessor: a key that is not UTF-8.
        let key = [0, 1, 2, 3, 4, 5, 6, 7, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255];
        let example = basic("Basic QUwxMDAwOgABAgMEBQYH////////////////");
        assert_eq!(basic_password(&example, "AL1000").as_deref(), Some(&key[..]));
        for (value, name, password) in [
            (encode(b"CP:secret"), "CP", Some(&b"secret"[..])),
            (encode(b"a:b:c:d"), "a:b", Some(b"c:d")),
            (encode(b"CP:"), "CP", Some(b"")),
            (encode(b"CP:secret").replace("Basic", "bAsIc"), "CP", Some(b"secret")),
            (encode(b"other:secret"), "CP", None),
            (encode(b"CP"), "CP", None),
            ("Basic !!!".to_owned(), "CP", None),
            ("Basic".to_owned(), "CP", None),
            ("Bearer Q1A6c2VjcmV0".to_owned(), "CP", None),
        ] {
            assert_eq!(basic_password(&basic(&value), name).as_deref(), password, "{value}");
        }
        assert_eq!(basic_password(&HeaderMap::new(), "CP"), None);
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
        answer.typed_insert(check(&parts(("x-none", None))).expect("sound"));
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
            let refused = check(&parts((name, value))).expect_err(name);
            assert_eq!(refused.status, status, "{name}: {value:?}");
        }
        let mut post = parts(("x-none", None));
        post.method = Method::POST;
        assert_eq!(check(&post).expect_err("POST").status, 400);
        let mut old = parts(("x-none", None));
        old.version = Version::HTTP_10;
        assert_eq!(check(&old).expect_err("HTTP/1.0").status, 400);
    }
}

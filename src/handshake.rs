//! What the opening handshake says, read out of its HTTP parts: is it one, who calls, and what does it offer.

use std::{borrow::Cow, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use headers::{HeaderMapExt, SecWebsocketAccept, SecWebsocketKey};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header, request::Parts, response};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq, ConstantTimeLess};

use crate::{
    error::BuildError,
    message::{
        dialect::Dialect,
        tolerance::{Deviation, Deviations},
    },
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
pub(crate) fn check(parts: &Parts) -> Result<SecWebsocketAccept, Refusal> {
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
    let key_is_sound = sole(headers, &header::SEC_WEBSOCKET_KEY)
        .is_some_and(|key| BASE64_STANDARD.decode(key).is_ok_and(|key| key.len() == 16));
    match headers.typed_get::<SecWebsocketKey>() {
        Some(key) if key_is_sound => Ok(key.into()),
        _ => Err(refusal(StatusCode::BAD_REQUEST, "the Sec-WebSocket-Key is not 16 bytes in base64")),
    }
}

/// Another version of WebSocket than 13, on a stream of HTTP/2, which knows no 426.
pub(crate) const OTHER_VERSION: Refusal = refusal(StatusCode::BAD_REQUEST, "the WebSocket version is not 13");

/// Checks that this is a WebSocket handshake on a stream of HTTP/2, whose `:protocol` is this (RFC 8441 §5). There is no
/// key, and nothing to prove.
pub(crate) fn check_connect(parts: &Parts, protocol: &str) -> Result<(), Refusal> {
    let headers = &parts.headers;
    if parts.method != Method::CONNECT {
        return Err(refusal(StatusCode::BAD_REQUEST, "a WebSocket over HTTP/2 is asked for by CONNECT"));
    }
    if !protocol.eq_ignore_ascii_case("websocket") {
        return Err(refusal(StatusCode::NOT_IMPLEMENTED, "this is a WebSocket endpoint"));
    }
    if sole(headers, &header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(OTHER_VERSION);
    }
    Ok(())
}

/// Whether a request asks for a WebSocket at all.
pub(crate) fn wants_upgrade(headers: &HeaderMap) -> bool {
    has_token(headers, &header::UPGRADE, "websocket")
}

/// Checks that this answers a WebSocket handshake of ours (RFC 6455 §4.1), and gives the subprotocol that was
/// agreed on: one of those that were offered, and none where none was.
pub(crate) fn check_response<'a>(
    parts: &response::Parts,
    expected: &SecWebsocketAccept,
    offered: &'a [Arc<str>],
) -> Result<Option<&'a Arc<str>>, Unfit> {
    let headers = &parts.headers;
    if !wants_upgrade(headers) || !has_token(headers, &header::CONNECTION, "upgrade") {
        return Err(Unfit::Handshake("the answer upgrades to something else"));
    }
    if headers.typed_get::<SecWebsocketAccept>().as_ref() != Some(expected) {
        return Err(Unfit::Handshake("the Sec-WebSocket-Accept does not fit the key"));
    }
    if headers.contains_key(header::SEC_WEBSOCKET_EXTENSIONS) {
        return Err(Unfit::Handshake("the answer has an extension that was not offered"));
    }
    let agreed = sole(headers, &header::SEC_WEBSOCKET_PROTOCOL);
    match agreed.and_then(|agreed| offered.iter().find(|offer| agreed == &***offer)) {
        Some(agreed) => Ok(Some(agreed)),
        None if offered.is_empty() && !headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) => Ok(None),
        None => Err(Unfit::Protocol(agreed.map(|agreed| String::from_utf8_lossy(agreed.as_bytes()).into_owned()))),
    }
}

/// Why an answer to our handshake opens no connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// It is none that RFC 6455 knows.
    Handshake(&'static str),
    /// It names no subprotocol, or one that was not offered.
    Protocol(Option<String>),
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
    let mut credentials = credentials.map_err(|_| BuildError::settings("the password is too long for a header"))?;
    credentials.set_sensitive(true);
    Ok(credentials)
}

/// Endpoint and identity: the identity is the last segment of the path that is not empty, decoded once, after it
/// was split off (OCPP-J 1.6 §3.1.1). The endpoint is the raw path in front of it.
pub(crate) fn identity(path: &str) -> Result<(&str, String), Refusal> {
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
    const UNFIT: Refusal = refusal(StatusCode::NOT_FOUND, "the identity is empty or has control characters");
    match identity.is_empty() || identity.chars().any(char::is_control) {
        true => Err(UNFIT),
        false => Ok(()),
    }
}

/// Notes slashes that say nothing in a path.
pub(crate) fn note_untidiness(path: &str, deviations: &mut Deviations) {
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

/// Whether two passwords are the same, either as bytes or as the forty hexadecimal digits of twenty bytes.
///
/// How long that takes tells no more than their lengths, and whether they are such digits.
pub(crate) fn is_same_password(one: &[u8], other: &[u8]) -> bool {
    key(one).ct_eq(&key(other)).into()
}

/// The bytes that a password stands for.
fn key(password: &[u8]) -> Cow<'_, [u8]> {
    /// The value of a hexadecimal digit, found without a branch or a table.
    fn digit(byte: u8) -> (u8, Choice) {
        let (number, letter) = (byte.wrapping_sub(b'0'), (byte | 0x20).wrapping_sub(b'a'));
        let (is_number, is_letter) = (number.ct_lt(&10), letter.ct_lt(&6));
        (u8::conditional_select(&letter.wrapping_add(10), &number, is_number), is_number | is_letter)
    }
    let mut key = Vec::with_capacity(20);
    let mut is_spelled = Choice::from(u8::from(password.len() == 40));
    for pair in password.chunks_exact(2).take(20) {
        let [(high, is_high), (low, is_low)] = [digit(pair[0]), digit(pair[1])];
        key.push(high << 4 | low);
        is_spelled &= is_high & is_low;
    }
    match is_spelled.into() {
        true => Cow::Owned(key),
        false => Cow::Borrowed(password),
    }
}

/// Refuses protocols that could never be named in a handshake, or that are named twice, and dialects of others.
pub(crate) fn check_protocols(protocols: &[Arc<str>], dialects: &[(Arc<str>, Dialect)]) -> Result<(), BuildError> {
    for (at, protocol) in protocols.iter().enumerate() {
        if !is_token(protocol) {
            return Err(BuildError::settings(format!("the protocol {protocol:?} is not a token (RFC 9110 §5.6.2)")));
        }
        if protocols[..at].contains(protocol) {
            return Err(BuildError::settings(format!("the protocol {protocol:?} is named twice")));
        }
    }
    for (at, (protocol, _)) in dialects.iter().enumerate() {
        if !protocols.contains(protocol) {
            return Err(BuildError::settings(format!(
                "there is a dialect for {protocol:?}, which is none of the protocols"
            )));
        }
        if dialects[..at].iter().any(|(earlier, _)| earlier == protocol) {
            return Err(BuildError::settings(format!("there are two dialects for {protocol:?}")));
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
            assert_eq!(identity(path), Ok((endpoint, name.to_owned())), "{path}");
        }
    }

    #[test]
    fn what_is_no_identity_is_not_found() {
        for path in ["", "/", "///", "/ocpp/%E0%A4%A", "/ocpp/%", "/ocpp/%zz", "/ocpp/%ff", "/ocpp/%00"] {
            assert_eq!(identity(path).map_err(|refusal| refusal.status), Err(StatusCode::NOT_FOUND), "{path}");
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
    fn passwords_are_the_same_as_bytes_and_as_forty_digits() {
        let key = [0, 1, 2, 3, 4, 5, 6, 7, 0xab, 0xcd, 0xef, 255, 255, 255, 255, 255, 255, 255, 255, 255];
        let digits = b"0001020304050607abcdefFFFFFFFFffffffffff";
        for (one, other, same) in [
            (&b"secret"[..], &b"secret"[..], true),
            (b"secret", b"Secret", false),
            (b"secret", b"secret ", false),
            (b"", b"", true),
            (&key, &key, true),
            (&key, digits, true),
            (digits, &key, true),
            (digits, &digits.to_ascii_uppercase(), true),
            (digits, &digits[..39], false),
            (&digits[..38], &key[..19], false),
            (b"g001020304050607abcdefFFFFFFFFffffffffff", &key, false),
            (b"/001020304050607abcdefFFFFFFFFffffffffff", &key, false),
            (b":001020304050607abcdefFFFFFFFFffffffffff", &key, false),
            (b"`001020304050607abcdefFFFFFFFFffffffffff", &key, false),
            (b"1001020304050607abcdefFFFFFFFFffffffffff", &key, false),
        ] {
            assert_eq!(is_same_password(one, other), same, "{one:?} {other:?}");
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
        assert_eq!(check_connect(&request(Method::CONNECT, Some("13")), "WebSocket"), Ok(()));
        for (method, protocol, version, status) in [
            (Method::GET, "websocket", Some("13"), 400),
            (Method::CONNECT, "connect-udp", Some("13"), 501),
            (Method::CONNECT, "websocket", Some("8"), 400),
            (Method::CONNECT, "websocket", None, 400),
        ] {
            let refused = check_connect(&request(method, version), protocol).expect_err(protocol);
            assert_eq!(refused.status, status, "{protocol} {version:?}");
        }
        assert_eq!(check(&request(Method::GET, Some("13"))).expect_err("no CONNECT").status, 400);
    }

    #[test]
    fn paths_and_credentials_come_back_as_they_were_sent() {
        for name in ["CP-1", "a/b", "a:b ü🔌", "100%", "..", "?#"] {
            assert_eq!(identity(&path_of("/ocpp/", name)), Ok(("/ocpp", name.to_owned())));
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
            assert!(matches!(answer((name, value)), Err(Unfit::Handshake(_))), "{name}");
        }
        assert_eq!(answer(("sec-websocket-protocol", None)), Err(Unfit::Protocol(None)));
        let other = Err(Unfit::Protocol(Some("ocpp2.1".into())));
        assert_eq!(answer(("sec-websocket-protocol", Some("ocpp2.1"))), other);
    }
}

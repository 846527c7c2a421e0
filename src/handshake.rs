//! Rules of the WebSocket handshake that both ends share: protocol names and header tokens.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::{error::BuildError, message::dialect::Dialect};

/// Whether a request asks for a WebSocket at all.
pub(crate) fn wants_upgrade(headers: &HeaderMap) -> bool {
    has_token(headers, &header::UPGRADE, "websocket")
}

/// Refuses protocols that could never be named in a handshake, or that are named twice, and dialects of others.
pub(crate) fn check_protocols(protocols: &[Arc<str>], dialects: &[(Arc<str>, Dialect)]) -> Result<(), BuildError> {
    for (at, protocol) in protocols.iter().enumerate() {
        if !is_token(protocol) {
            return Err(BuildError(format!("the protocol {protocol:?} is not a token (RFC 9110 §5.6.2)")));
        }
        if protocols[..at].contains(protocol) {
            return Err(BuildError(format!("the protocol {protocol:?} is named twice")));
        }
    }
    for (at, (protocol, _)) in dialects.iter().enumerate() {
        if !protocols.contains(protocol) {
            return Err(BuildError(format!("there is a dialect for {protocol:?}, which is none of the protocols")));
        }
        if dialects[..at].iter().any(|(earlier, _)| earlier == protocol) {
            return Err(BuildError(format!("there are two dialects for {protocol:?}")));
        }
    }
    Ok(())
}

/// Whether a text is a token as HTTP has it (RFC 9110 §5.6.2).
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Whether one of a header's elements, over all of its lines, is this token.
pub(crate) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let elements = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok()).flat_map(|l| l.split(','));
    elements.map(str::trim).any(|element| element.eq_ignore_ascii_case(token))
}

/// A header's value, where there is exactly one.
pub(crate) fn sole<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).into_iter();
    values.next().filter(|_| values.next().is_none())
}

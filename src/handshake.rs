//! The rules of the WebSocket handshake that both ends share: header tokens and protocol names.

use std::sync::Arc;

use base64::{
    alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::{error::BuildError, message::dialect::Dialect, text::is_token_byte};

/// Base64 as other servers read it: missing padding and unused bits of the last symbol are no errors.
pub(crate) const LENIENT_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Returns `true` if the `Upgrade` header names `websocket`.
pub(crate) fn has_websocket_upgrade(headers: &HeaderMap) -> bool {
    has_token(headers, &header::UPGRADE, "websocket")
}

/// Checks that protocols are distinct tokens, and that each dialect is of one of them.
pub(crate) fn check_protocols(protocols: &[Arc<str>], dialects: &[(Arc<str>, Dialect)]) -> Result<(), BuildError> {
    for (at, protocol) in protocols.iter().enumerate() {
        if !is_token(protocol) {
            return Err(BuildError::settings(format!("the protocol {protocol:?} is not a token (RFC 9110 §5.6.2)")));
        }
        if protocols[..at].contains(protocol) {
            return Err(BuildError::settings(format!("duplicate protocol {protocol:?}")));
        }
    }
    for (at, (protocol, _)) in dialects.iter().enumerate() {
        if !protocols.contains(protocol) {
            return Err(BuildError::settings(format!("dialect for {protocol:?}, which is not in protocols")));
        }
        if dialects[..at].iter().any(|(earlier, _)| earlier == protocol) {
            return Err(BuildError::settings(format!("duplicate dialect for {protocol:?}")));
        }
    }
    Ok(())
}

/// Returns `true` if a text is an HTTP token (RFC 9110 §5.6.2).
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token_byte)
}

/// Returns `true` if a list header contains this token on any of its lines. Ignores case.
pub(crate) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let is_match = |element: &[u8]| element.trim_ascii().eq_ignore_ascii_case(token.as_bytes());
    headers.get_all(name).into_iter().any(|line| line.as_bytes().split(|byte| *byte == b',').any(is_match))
}

/// Returns the value of a header that occurs exactly once.
pub(crate) fn single_value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).into_iter();
    values.next().filter(|_| values.next().is_none())
}

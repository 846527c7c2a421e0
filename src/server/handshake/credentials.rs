//! Reads the Basic credentials of a handshake, and compares passwords.

use std::{borrow::Cow, fmt};

use base64::Engine;
use http::{HeaderMap, header};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq, ConstantTimeLess};

use crate::handshake::LENIENT_BASE64;

/// The user name and the password of Basic credentials, as the client sent them (RFC 7617).
///
/// Both are bytes, because clients also send text that is not UTF-8. The `Debug` output does not contain the password.
///
/// ```
/// use ocpp_rpc::{Handshake, server::Credentials};
///
/// /// Returns the user name, for stations that have one of their own.
/// fn user_name(handshake: &Handshake) -> Option<String> {
///     let credentials: Credentials = handshake.credentials()?;
///     String::from_utf8(credentials.user_name().to_owned()).ok()
/// }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    user_name: Vec<u8>,
    password: Vec<u8>,
}

impl Credentials {
    /// Returns the user name.
    pub fn user_name(&self) -> &[u8] {
        &self.user_name
    }

    /// Returns the password.
    pub fn password(&self) -> &[u8] {
        &self.password
    }

    /// Reads Basic credentials.
    ///
    /// The identity is the user name if the credentials begin with it and a colon, because both it and the password may
    /// contain colons. Otherwise, the user name ends at the first colon.
    pub(crate) fn read(headers: &HeaderMap, identity: &str) -> Result<Self, CredentialsError> {
        let header = headers.get(header::AUTHORIZATION).ok_or(CredentialsError::Missing)?.as_bytes();
        let (scheme, encoded) = header.split_at_checked("Basic ".len()).ok_or(CredentialsError::OtherScheme)?;
        if !scheme.eq_ignore_ascii_case(b"Basic ") {
            return Err(CredentialsError::OtherScheme);
        }
        let mut decoded = LENIENT_BASE64.decode(encoded.trim_ascii()).map_err(|_| CredentialsError::NotBase64)?;
        let is_of_identity = decoded.strip_prefix(identity.as_bytes()).is_some_and(|rest| rest.starts_with(b":"));
        let colon = if is_of_identity { Some(identity.len()) } else { decoded.iter().position(|byte| *byte == b':') };
        let colon = colon.ok_or(CredentialsError::NoColon)?;
        let password = decoded.split_off(colon + 1);
        decoded.truncate(colon);
        Ok(Self { user_name: decoded, password })
    }
}

/// Returns the password of Basic credentials if their user name is the identity (1.6 security whitepaper §2.3).
pub(crate) fn basic_password(headers: &HeaderMap, identity: &str) -> Option<Vec<u8>> {
    let credentials = Credentials::read(headers, identity).ok()?;
    (credentials.user_name == identity.as_bytes()).then_some(credentials.password)
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user_name = String::from_utf8_lossy(&self.user_name);
        f.debug_struct("Credentials").field("user_name", &user_name).finish_non_exhaustive()
    }
}

/// The reason why a request has no Basic credentials.
///
/// The texts contain no part of the header, because a client may send its password in any form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CredentialsError {
    #[error("the request has no Authorization header")]
    Missing,
    #[error("the Authorization header has another scheme than Basic")]
    OtherScheme,
    #[error("the Basic credentials are not base64")]
    NotBase64,
    #[error("the Basic credentials have no colon behind the user name")]
    NoColon,
}

/// Says why a handshake was refused with 401.
pub(crate) fn explain_unauthorized(headers: &HeaderMap, identity: &str) -> String {
    match Credentials::read(headers, identity) {
        Err(error) => error.to_string(),
        Ok(credentials) if credentials.user_name != identity.as_bytes() => {
            // Without the name: a station that swaps both sends its password there.
            "the user name is not the identity".to_owned()
        }
        Ok(_) => "the authenticator refused the password".to_owned(),
    }
}

/// Returns `true` if two passwords are equal, each as bytes or as the 40 hexadecimal digits of 20 bytes.
///
/// The duration reveals only the lengths, and whether the passwords are such digits.
pub(crate) fn is_same_password(one: &[u8], other: &[u8]) -> bool {
    decode_key(one).ct_eq(&decode_key(other)).into()
}

/// Decodes a password of 40 hexadecimal digits. Returns other passwords unchanged.
fn decode_key(password: &[u8]) -> Cow<'_, [u8]> {
    /// Returns the value of a hexadecimal digit. Uses neither branch nor table, so that it takes constant time.
    fn digit(byte: u8) -> (u8, Choice) {
        let (number, letter) = (byte.wrapping_sub(b'0'), (byte | 0x20).wrapping_sub(b'a'));
        let (is_number, is_letter) = (number.ct_lt(&10), letter.ct_lt(&6));
        (u8::conditional_select(&letter.wrapping_add(10), &number, is_number), is_number | is_letter)
    }
    let mut key = Vec::with_capacity(20);
    let mut is_hex = Choice::from(u8::from(password.len() == 40));
    for pair in password.chunks_exact(2).take(20) {
        let [(high, is_high), (low, is_low)] = [digit(pair[0]), digit(pair[1])];
        key.push(high << 4 | low);
        is_hex &= is_high & is_low;
    }
    if is_hex.into() { Cow::Owned(key) } else { Cow::Borrowed(password) }
}

#[cfg(test)]
mod tests {
    use base64::prelude::BASE64_STANDARD;
    use http::HeaderValue;

    use super::*;

    fn basic(value: &str) -> HeaderMap {
        let value = HeaderValue::from_str(value).expect("a value");
        HeaderMap::from_iter([(header::AUTHORIZATION, value)])
    }

    fn encode(text: &[u8]) -> String {
        format!("Basic {}", BASE64_STANDARD.encode(text))
    }

    #[test]
    fn user_name_and_password_are_as_they_were_sent() {
        for (text, identity, user_name, password) in [
            (&b"CP:secret"[..], "CP", &b"CP"[..], &b"secret"[..]),
            (b"operator:secret", "CP", b"operator", b"secret"),
            (b"operator:a:b", "CP", b"operator", b"a:b"),
            (b"a:b:c:d", "a:b", b"a:b", b"c:d"),
            (b"a:b:c:d", "x", b"a", b"b:c:d"),
            (b"CP1:secret", "CP", b"CP1", b"secret"),
            (b":", "CP", b"", b""),
            (b"\xff:\xfe", "CP", b"\xff", b"\xfe"),
        ] {
            let credentials = Credentials::read(&basic(&encode(text)), identity).expect("credentials");
            assert_eq!((credentials.user_name(), credentials.password()), (user_name, password), "{text:?}");
            assert!(!format!("{credentials:?}").contains("secret"), "{credentials:?}");
        }
    }

    #[test]
    fn missing_credentials_are_explained_without_the_header() {
        assert_eq!(explain_unauthorized(&HeaderMap::new(), "CP"), "the request has no Authorization header");
        for (value, expected) in [
            ("Bearer c2VjcmV0".to_owned(), "the Authorization header has another scheme than Basic"),
            ("c2VjcmV0".to_owned(), "the Authorization header has another scheme than Basic"),
            ("Basic".to_owned(), "the Authorization header has another scheme than Basic"),
            ("Basic !secret!".to_owned(), "the Basic credentials are not base64"),
            (encode(b"secret"), "the Basic credentials have no colon behind the user name"),
            (encode(b"cp:secret"), "the user name is not the identity"),
            (encode(b"CP:secret"), "the authenticator refused the password"),
        ] {
            assert_eq!(explain_unauthorized(&basic(&value), "CP"), expected, "{value}");
        }
    }

    #[test]
    fn password_is_the_bytes_after_the_identity() {
        // The example of the 1.6 security whitepaper's predecessor: a key that is not UTF-8.
        let key = [0, 1, 2, 3, 4, 5, 6, 7, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255];
        let example = basic("Basic QUwxMDAwOgABAgMEBQYH////////////////");
        assert_eq!(basic_password(&example, "AL1000").as_deref(), Some(&key[..]));
        for (value, name, password) in [
            (encode(b"CP:secret"), "CP", Some(&b"secret"[..])),
            (encode(b"a:b:c:d"), "a:b", Some(b"c:d")),
            (encode(b"CP:"), "CP", Some(b"")),
            (encode(b"CP:secret").replace("Basic", "bAsIc"), "CP", Some(b"secret")),
            // Without padding, and with bits that no byte uses.
            ("Basic Q1A6c2VjcmV0cw".to_owned(), "CP", Some(b"secrets")),
            ("Basic Q1A6c2VjcmV0cx==".to_owned(), "CP", Some(b"secrets")),
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
    fn password_equals_its_forty_hexadecimal_digits() {
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
}

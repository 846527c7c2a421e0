//! Reads the Basic credentials of a handshake, and compares passwords.

use std::borrow::Cow;

use base64::Engine;
use http::{HeaderMap, header};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq, ConstantTimeLess};

use crate::handshake::LENIENT_BASE64;

/// Returns the password of Basic credentials if their user name is the identity (1.6 security whitepaper §2.3).
///
/// The identity must be a literal prefix, because both it and the password may contain colons. The password is bytes.
/// Other or malformed credentials return `None`.
pub(crate) fn basic_password(headers: &HeaderMap, identity: &str) -> Option<Vec<u8>> {
    let credentials = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, encoded) = credentials.split_at_checked("Basic ".len())?;
    if !scheme.eq_ignore_ascii_case(b"Basic ") {
        return None;
    }
    let decoded = LENIENT_BASE64.decode(encoded.trim_ascii()).ok()?;
    Some(decoded.strip_prefix(identity.as_bytes())?.strip_prefix(b":")?.to_vec())
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

    #[test]
    fn password_is_the_bytes_after_the_identity() {
        let basic = |value: &str| {
            let value = HeaderValue::from_str(value).expect("a value");
            HeaderMap::from_iter([(header::AUTHORIZATION, value)])
        };
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

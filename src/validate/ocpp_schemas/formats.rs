//! The string formats in the official schemas.

use std::borrow::Cow;

/// Checks a date and time of RFC 3339 §5.6, which must have an offset.
///
/// Returns the text, or the nearest one that a timestamp with nanoseconds before the year 10,000 can represent. Returns
/// `None` if the text is invalid.
pub(super) fn date_time(text: &str) -> Option<Cow<'_, str>> {
    let bytes = text.as_bytes();
    let (date, rest) = bytes.split_at_checked(10)?;
    let (time, rest) = rest.split_at_checked(9)?;
    let &[_, _, _, _, b'-', _, _, b'-', _, _] = date else { return None };
    let &[b'T' | b't', _, _, b':', _, _, b':', _, _] = time else { return None };
    let (year, month, day) = (number(&date[..4])?, number(&date[5..7])?, number(&date[8..])?);
    let (hour, minute, second) = (number(&time[1..3])?, number(&time[4..6])?, number(&time[7..])?);

    let (digits, offset) = match rest.split_first()? {
        (b'.', fraction) => match fraction.iter().take_while(|byte| byte.is_ascii_digit()).count() {
            0 => return None,
            digits => (digits, &fraction[digits..]),
        },
        _ => (0, rest),
    };
    // Minutes of local time ahead of UTC.
    let ahead = match offset {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), offset @ ..] => {
            let &[_, _, b':', _, _] = offset else { return None };
            let (hours, minutes) = (number(&offset[..2])?, number(&offset[3..])?);
            let size = (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)?;
            if *sign == b'+' { size } else { -size }
        }
        _ => return None,
    };

    let utc = hour * 60 + minute - ahead;
    // A leap second must be the last second of a day in UTC.
    let is_leap = second == 60 && utc.rem_euclid(24 * 60) == 24 * 60 - 1;
    let is_time = hour < 24 && minute < 60 && (second < 60 || is_leap);
    let is_date = (1..=12).contains(&month) && (1..=days(year, month)).contains(&day);
    if !is_time || !is_date {
        return None;
    }
    // Peers often send the end of the year 9999 for *never*, which exceeds a timestamp.
    let (latest, latest_minute) = LATEST;
    Some(match (year, month) {
        (9999, 12) if day * 24 * 60 + utc >= latest_minute => Cow::Borrowed(latest),
        _ if digits > 9 => Cow::Owned([&text[..29], &text[20 + digits..]].concat()),
        _ => Cow::Borrowed(text),
    })
}

/// The latest timestamp, and its minute in the month.
const LATEST: (&str, i32) = ("9999-12-30T22:00:00Z", (30 * 24 + 22) * 60);

fn number(digits: &[u8]) -> Option<i32> {
    digits.iter().try_fold(0, |number, byte| byte.is_ascii_digit().then(|| number * 10 + i32::from(byte - b'0')))
}

fn days(year: i32, month: i32) -> i32 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Returns `true` if the text is a URI of RFC 3986 with a scheme.
pub(super) fn is_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (hierarchy, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = match hierarchy.strip_prefix("//") {
        Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        None => ("", hierarchy),
    };
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        && is_authority(authority)
        && consists_of(path, b":@/")
        && consists_of(query, b":@/?")
        && consists_of(fragment, b":@/?")
}

fn is_authority(authority: &str) -> bool {
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    // The colon of a port comes after the brackets around an address.
    let (host, port) = match host.rfind(':') {
        Some(colon) if !host[colon..].contains(']') => (&host[..colon], &host[colon + 1..]),
        _ => (host, ""),
    };
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok() || is_future_address(address),
        None => consists_of(host, b""),
    };
    is_host && consists_of(user, b":") && port.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns `true` for an address of a future version, such as `v1.fe80`.
fn is_future_address(address: &str) -> bool {
    let Some((version, address)) = address.strip_prefix(['v', 'V']).and_then(|rest| rest.split_once('.')) else {
        return false;
    };
    let is_version = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_version && !address.is_empty() && !address.contains('%') && consists_of(address, b":")
}

/// Returns `true` if the text contains only unreserved characters, sub-delims, percent-encoded bytes, and `others`.
fn consists_of(text: &str, others: &[u8]) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let fits = match byte {
            b'%' => {
                let digits = [bytes.next(), bytes.next()];
                digits.iter().all(|digit| digit.is_some_and(|digit| digit.is_ascii_hexdigit()))
            }
            _ => byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte) || others.contains(&byte),
        };
        if !fits {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn date_time_follows_rfc_3339() {
        for text in [
            "2024-02-29T12:00:00Z",
            "2023-01-01t00:00:00z",
            "2023-12-31T23:59:59.1+01:00",
            "2023-12-31T23:59:59.123456789-23:59",
            "9999-12-30T21:59:59Z",
            "9999-12-31T00:00:00+23:59",
            "0000-01-01T00:00:00Z",
            "2016-12-31T23:59:60Z",
            "2017-01-01T00:59:60+01:00",
        ] {
            assert_eq!(date_time(text).as_deref(), Some(text));
        }
        for text in [
            "",
            "2023-01-01",
            "2023-01-01T00:00:00",
            "2023-01-01 00:00:00Z",
            "2023-01-01T00:00Z",
            "2023-01-01T00:00:00.Z",
            "2023-01-01T00:00:00,5Z",
            "2023-01-01T00:00:00+01",
            "2023-01-01T00:00:00+0100",
            "2023-01-01T00:00:00+24:00",
            "2023-01-01T00:00:00Z[UTC]",
            "2023-01-01T24:00:00Z",
            "2023-01-01T12:00:60Z",
            "2023-02-29T12:00:00Z",
            "2023-13-01T12:00:00Z",
            "2023-00-01T12:00:00Z",
            "2023-01-00T12:00:00Z",
            "+002023-01-01T12:00:00Z",
            "20230101T120000Z",
            "2023-01-01T12:00:0éZ",
        ] {
            assert_eq!(date_time(text), None);
        }
        for (text, read) in [
            ("2023-12-31T23:59:59.1234567890Z", "2023-12-31T23:59:59.123456789Z"),
            ("2023-12-31T23:59:59.12345678999999-01:00", "2023-12-31T23:59:59.123456789-01:00"),
            ("9999-12-31T23:59:59.9999999Z", "9999-12-30T22:00:00Z"),
            ("9999-12-29T23:00:00-23:59", "9999-12-30T22:00:00Z"),
        ] {
            assert_eq!(date_time(text).as_deref(), Some(read));
        }
    }

    #[test]
    fn uri_follows_rfc_3986() {
        for text in [
            "ftp://user:secret@example.com:21/in/firmware%20a.bin",
            "https://example.com",
            "https://[2001:db8::1]:8443/?a=b/c?d#e",
            "https://[v1.a:b]/",
            "urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
            "file:///tmp/x",
            "a:",
        ] {
            assert!(is_uri(text), "{text}");
        }
        for text in [
            "",
            "example.com/a",
            "//example.com/a",
            "1http://example.com",
            "http://example.com/a b",
            "http://example.com/%zz",
            "http://example.com/%4",
            "http://example.com:a/",
            "http://[2001:db8::1/",
            "http://[::g]/",
            "http://a[b]/",
            "http://example.com/#a#b",
            "http://example.com/é",
            "http://example.com/<a>",
        ] {
            assert!(!is_uri(text), "{text}");
        }
    }
}

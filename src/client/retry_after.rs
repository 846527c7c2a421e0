//! The wait that a server asks for in a refusal.

use std::{
    iter,
    time::{Duration, SystemTime},
};

use headers::{Date, Header, HeaderMapExt};
use http::{HeaderMap, header};

/// The longest wait that a server can ask for.
const LONGEST: Duration = Duration::from_secs(3600);

/// Returns the wait of `Retry-After` (RFC 9110 §10.2.3), at most an hour. `now` replaces a missing `Date`.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?;
    let bytes = value.as_bytes();
    let wait = if !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit) {
        // More digits than fit are more than an hour.
        Duration::from_secs(value.to_str().ok()?.parse().unwrap_or(u64::MAX))
    } else {
        let until = SystemTime::from(Date::decode(&mut iter::once(value)).ok()?);
        // The clock of a charging station may be wrong, so the server's counts.
        let now = headers.typed_get::<Date>().map_or(now, SystemTime::from);
        until.duration_since(now).unwrap_or_default()
    };
    Some(wait.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn retry_after_is_read_in_seconds_and_as_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (value, seconds) in [
            ("0", Some(0)),
            ("120", Some(120)),
            ("86400", Some(3600)),
            ("99999999999999999999999", Some(3600)),
            ("Sun, 06 Nov 1994 08:51:07 GMT", Some(90)),
            ("Sunday, 06-Nov-94 08:51:07 GMT", Some(90)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("Sat, 06 Nov 2094 08:51:07 GMT", Some(3600)),
            ("", None),
            ("-1", None),
            ("+5", None),
            ("1.5", None),
            ("soon", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(value));
            assert_eq!(retry_after(&headers, now).map(|wait| wait.as_secs()), seconds, "{value}");
            headers.insert(header::DATE, HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT"));
            assert_eq!(retry_after(&headers, SystemTime::UNIX_EPOCH).map(|wait| wait.as_secs()), seconds, "{value}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}

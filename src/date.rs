//! Dates of OCPP with exactly three decimals, for the types of [`ocpp_kit`].
//!
//! OCPP 2.0.1 limits dates to three decimals, and some stations can only parse dates that have exactly three. The types of
//! `ocpp-kit` print as many decimals as a date has, without zeros at the end.
//!
//! ```
//! use std::convert::Infallible;
//!
//! use ocpp_rpc::{
//!     RpcRouter, date,
//!     extract::Params,
//!     ocpp_kit::v1_6::{HeartbeatRequest, HeartbeatResponse},
//! };
//!
//! async fn heartbeat(Params(_): Params<HeartbeatRequest>) -> Result<HeartbeatResponse, Infallible> {
//!     Ok(HeartbeatResponse::new(date::now()))
//! }
//!
//! let router = RpcRouter::new().on_action::<HeartbeatRequest, _>(heartbeat);
//! ```

use std::time::{Duration, SystemTime};

use ocpp_kit::types::DateTime;

const MILLISECOND: Duration = Duration::from_millis(1);

/// Returns the current time. Its text has three decimals.
pub fn now() -> DateTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let epoch = DateTime::UNIX_EPOCH.timestamp();
    with_millis(DateTime::from_timestamp(epoch.checked_add(since).unwrap_or(epoch)))
}

/// Returns the date without its microseconds and nanoseconds. Its text has three decimals.
///
/// If the last of the three would be a zero, the returned date is one millisecond later, because the type leaves out
/// zeros at the end. Do not use this for dates that must be exact, such as the start of an hour.
///
/// ```
/// use ocpp_rpc::{date, ocpp_kit::types::DateTime};
///
/// # fn main() -> Result<(), ocpp_rpc::ocpp_kit::types::DateTimeError> {
/// let date = date::with_millis(DateTime::parse("2026-01-31T12:00:00.123456789Z")?);
/// assert_eq!(date.to_string(), "2026-01-31T12:00:00.123Z");
/// let date = date::with_millis(DateTime::parse("2026-01-31T12:00:00Z")?);
/// assert_eq!(date.to_string(), "2026-01-31T12:00:00.001Z");
/// # Ok(())
/// # }
/// ```
pub fn with_millis(date: DateTime) -> DateTime {
    let at = date.timestamp();
    let below = at.as_nanosecond().rem_euclid(1_000_000);
    // Below a million, so it fits. The earliest and the latest date stay as they are.
    let below = Duration::from_nanos(u64::try_from(below).unwrap_or_default());
    let at = at.checked_sub(below).unwrap_or(at);
    let ends_in_zero = at.as_millisecond().rem_euclid(10) == 0;
    let at = if ends_in_zero { at.checked_add(MILLISECOND).unwrap_or(at) } else { at };
    DateTime::from_timestamp(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns the decimals of a date's text.
    fn decimals(date: DateTime) -> usize {
        let text = date.to_string();
        let (_, fraction) = text.split_once('.').expect("a fraction");
        fraction.trim_end_matches('Z').len()
    }

    #[test]
    fn extreme_dates_do_not_panic() {
        for date in ["-009999-01-02T01:59:59Z", "9999-12-30T22:00:00.999999999Z", "1969-12-31T23:59:59.9999Z"] {
            with_millis(DateTime::parse(date).expect(date));
        }
    }

    proptest! {
        #[test]
        fn every_date_gets_three_decimals_within_a_millisecond(seconds in -4_000_000_000_i64..9_000_000_000, nanos in 0..1_000_000_000_u64) {
            let date = DateTime::UNIX_EPOCH.timestamp() + Duration::from_nanos(nanos);
            let date = if seconds < 0 { date - Duration::from_secs(seconds.unsigned_abs()) } else { date + Duration::from_secs(seconds.unsigned_abs()) };
            let date = DateTime::from_timestamp(date);
            let rounded = with_millis(date);
            prop_assert_eq!(decimals(rounded), 3, "{}", rounded);
            let moved = rounded.timestamp().as_nanosecond() - date.timestamp().as_nanosecond();
            prop_assert!(moved.abs() <= 1_000_000, "{date} became {rounded}");
        }
    }
}

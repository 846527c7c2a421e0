//! Dates as text in UTC with three decimals. Some stations cannot parse more, and equal dates must be equal text.

use std::time::SystemTime;

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use serde::{Deserialize, Deserializer, de};

/// Returns the current time.
pub(crate) fn now() -> String {
    text(Timestamp::now())
}

pub(crate) fn of(time: SystemTime) -> String {
    text(Timestamp::try_from(time).unwrap_or_default())
}

fn text(at: Timestamp) -> String {
    format!("{at:.3}")
}

/// A date of a station. Some stations leave out the time zone and mean UTC.
pub(crate) struct Date(pub(crate) String);

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let received = String::deserialize(deserializer)?;
        let utc = |date: DateTime| Ok(date.to_zoned(TimeZone::UTC)?.timestamp());
        let parsed = received.parse().or_else(|error| received.parse().map_or(Err(error), utc));
        parsed.map(|at| Self(text(at))).map_err(de::Error::custom)
    }
}

//! The time of day, for people.

use chrono::DateTime;

/// Seconds since 1970, by the clock of this machine.
pub fn unix_seconds() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// The present day and time, in UTC.
pub fn now() -> String {
    at(unix_seconds() as u64)
}

/// The present moment, for programs: RFC 3339 in UTC, with milliseconds.
pub fn now_exactly() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let time = i64::try_from(since.as_millis()).ok().and_then(DateTime::from_timestamp_millis);
    time.unwrap_or_default().format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// A number of seconds since 1970 as ISO 8601 has it, in UTC, to the second.
pub fn second(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    time.unwrap_or_default().format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Day and time of a number of seconds since 1970, in UTC; of one that is no time the number.
pub fn at(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    time.map_or(format!("{seconds} s after 1970"), |time| time.format("%Y-%m-%d %H:%M UTC").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_dates() {
        assert_eq!(at(0), "1970-01-01 00:00 UTC");
        assert_eq!(second(951_782_400 + 3_660), "2000-02-29T01:01:00Z");
        assert_eq!(at(951_782_400 + 3_660), "2000-02-29 01:01 UTC");
        assert_eq!(at(u64::MAX), format!("{} s after 1970", u64::MAX));
    }
}

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
        assert_eq!(at(951_782_400 + 3_660), "2000-02-29 01:01 UTC");
        assert_eq!(at(u64::MAX), format!("{} s after 1970", u64::MAX));
    }
}

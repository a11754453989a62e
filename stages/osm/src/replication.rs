//! Where replication keeps its diffs, and the moments that it writes down.

use std::fmt;

use crate::OsmError;

/// Largest number of a diff: nine digits name a file.
const MOST_SEQUENCE: u64 = 999_999_999;

/// What a `state.txt` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicationState {
    /// Number of the diff.
    pub sequence: u64,
    /// The moment up to which it tells what was edited, seconds since 1970.
    pub timestamp: i64,
}

impl ReplicationState {
    /// Reads the text of a `state.txt`.
    ///
    /// # Errors
    /// [`OsmError::Content`] with the line that is missing or wrong.
    pub fn parse(text: &str) -> Result<ReplicationState, OsmError> {
        let lines = || text.lines().filter_map(|line| line.trim_start_matches('\u{feff}').split_once('='));
        let of =
            |key: &str| lines().find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim().replace('\\', ""));
        let lacks = |what: &str| OsmError::Content(format!("a state.txt lacks {what}, or says something else"));
        let sequence = of("sequenceNumber").and_then(|text| text.parse().ok()).filter(|n| *n <= MOST_SEQUENCE);
        let timestamp = of("timestamp").and_then(|text| moment_of(&text));
        Ok(ReplicationState {
            sequence: sequence.ok_or_else(|| lacks("sequenceNumber=N"))?,
            timestamp: timestamp.ok_or_else(|| lacks("timestamp=2026-11-27T10\\:30\\:00Z"))?,
        })
    }

    /// As replication writes it.
    pub fn text(&self) -> String {
        format!(
            "sequenceNumber={}\ntimestamp={}\n",
            self.sequence,
            Moment(self.timestamp).to_string().replace(':', "\\:")
        )
    }
}

fn folders(sequence: u64) -> String {
    format!("{:03}/{:03}/{:03}", sequence / 1_000_000, sequence / 1000 % 1000, sequence % 1000)
}

/// Where a diff lies below a replication folder: `000/001/234.osc.gz`.
pub fn diff_path(sequence: u64) -> String {
    format!("{}.osc.gz", folders(sequence))
}

/// Where its state lies: `000/001/234.state.txt`.
pub fn state_path(sequence: u64) -> String {
    format!("{}.state.txt", folders(sequence))
}

/// A moment, shown in UTC: `2026-11-27T10:30:00Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub i64);

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, seconds) = (self.0.div_euclid(86_400), self.0.rem_euclid(86_400));
        let (year, month, day) = civil(days);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

/// The date of a day since 1970, in years of 365.2425 days that begin in March.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let from_march = (month + 9) % 12;
    let of_year = (153 * from_march + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year - 719_468
}

/// Seconds since 1970 of `2026-11-27T10:30:00Z`, of the same with an offset such as `+02:00`, and of a date alone.
/// Without a zone it is UTC, as OpenStreetMap's own times are. A leap second counts as the one after it.
pub fn moment_of(text: &str) -> Option<i64> {
    let text = text.trim();
    let (date, time) = match text.split_once(['T', ' ']) {
        Some((date, time)) => (date, Some(time)),
        None => (text, None),
    };
    let part = |text: &str, digits: usize, least: i64, most: i64| {
        let fits = text.len() == digits && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<i64>().ok().filter(|number| fits && (least..=most).contains(number))
    };
    let mut parts = date.split('-');
    let (year, month, day) =
        (part(parts.next()?, 4, 1970, 9999)?, part(parts.next()?, 2, 1, 12)?, part(parts.next()?, 2, 1, 31)?);
    let days = days_of(year, month, day);
    if parts.next().is_some() || civil(days) != (year, month, day) {
        return None;
    }
    let Some(time) = time else { return Some(days * 86_400) };
    let (clock, offset) = match time.find(['Z', '+', '-']) {
        Some(at) if time[at..].eq("Z") => (&time[..at], 0),
        Some(at) => {
            let sign = if time[at..].starts_with('-') { -1 } else { 1 };
            let (hours, minutes) = time[at..].get(1..)?.split_once(':')?;
            (&time[..at], sign * (part(hours, 2, 0, 14)? * 3600 + part(minutes, 2, 0, 59)? * 60))
        }
        None => (time, 0),
    };
    // fractions of a second say nothing here
    let clock = clock.split_once('.').map_or(clock, |(whole, _)| whole);
    let mut parts = clock.split(':');
    let (hour, minute) = (part(parts.next()?, 2, 0, 23)?, part(parts.next()?, 2, 0, 59)?);
    let second = parts.next().map_or(Some(0), |text| part(text, 2, 0, 60))?;
    if parts.next().is_some() {
        return None;
    }
    Some(days * 86_400 + hour * 3600 + minute * 60 + second - offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn diffs_lie_where_replication_puts_them() {
        assert_eq!(diff_path(1234), "000/001/234.osc.gz");
        assert_eq!(state_path(6_123_456), "006/123/456.state.txt");
    }

    #[test]
    fn states_are_read_as_replication_writes_them() {
        let text = "#Fri Nov 27 10:31:02 UTC 2026\nsequenceNumber=4821\ntimestamp=2026-11-27T10\\:30\\:00Z\n";
        let state = ReplicationState::parse(text).unwrap();
        assert_eq!((state.sequence, Moment(state.timestamp).to_string().as_str()), (4821, "2026-11-27T10:30:00Z"));
        assert_eq!(ReplicationState::parse(&state.text()).unwrap(), state);
        for bad in
            ["", "sequenceNumber=-1\ntimestamp=2026-11-27T10:30:00Z", "sequenceNumber=5\ntimestamp=soon", "<html>"]
        {
            assert!(ReplicationState::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn zones_clocks_and_calendars() {
        let noon = moment_of("2026-11-27T12:00:00Z").unwrap();
        for same in
            ["2026-11-27T14:00:00+02:00", "2026-11-27 12:00", "2026-11-27T12:00:00.5Z", "2026-11-27T06:30:00-05:30"]
        {
            assert_eq!(moment_of(same), Some(noon), "{same}");
        }
        assert_eq!(moment_of("2016-12-31T23:59:60Z"), moment_of("2017-01-01T00:00:00Z"), "a leap second");
        assert!(moment_of("2024-02-29").is_some());
        for bad in [
            "2026-02-29",
            "2026-13-01",
            "2026-11-27T24:00:00Z",
            "27.11.2026",
            "2026-11-27T12",
            "1969-01-01",
            "2026-11-27T12:00:00+99:00",
            "２０２６-11-27",
        ] {
            assert_eq!(moment_of(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn moments_are_read_as_they_are_written(seconds in 0i64..250_000_000_000) {
            prop_assert_eq!(moment_of(&Moment(seconds).to_string()), Some(seconds));
        }

        #[test]
        fn no_text_is_too_much(text in ".{0,40}") {
            _ = (moment_of(&text), ReplicationState::parse(&text));
        }
    }
}

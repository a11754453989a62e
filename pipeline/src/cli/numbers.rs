//! Numeric arguments with bounds.

use std::fmt::Debug;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Reads a number within bounds, or says what would be one.
pub(super) fn within<T: FromStr + PartialOrd + Debug>(
    what: &'static str,
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone
where
    RangeInclusive<T>: Clone,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("it must be {what} between {:?} and {:?}", range.start(), range.end()))
    }
}

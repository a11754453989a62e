//! Numbers as people read them.

/// What stands for a value that is missing, infinite or not a number.
pub(crate) const MISSING: &str = "–";

/// `12345.678` → "12,345.68" at two decimals; without `decimals`, whole numbers have none and others about
/// three significant digits. Not finite: "–".
pub fn format_number(value: f64, decimals: Option<u8>) -> String {
    if !value.is_finite() {
        return MISSING.to_owned();
    }
    let magnitude = value.abs();
    let decimals = match decimals {
        Some(decimals) => usize::from(decimals.min(12)),
        None if value.fract() == 0.0 && magnitude < 1e15 => 0,
        None if !(1e-4..1e15).contains(&magnitude) => return minus(format!("{value:.2e}")),
        None if magnitude >= 100.0 => 1,
        None if magnitude >= 1.0 => 2,
        None => (2 - magnitude.log10().floor() as i32).clamp(3, 7) as usize,
    };
    if magnitude >= 1e15 {
        return minus(format!("{value:.2e}"));
    }
    let text = format!("{magnitude:.decimals$}");
    let (whole, fraction) = text.split_at(text.find('.').unwrap_or(text.len()));
    let is_zero = text.bytes().all(|byte| matches!(byte, b'0' | b'.'));
    let sign = if value < 0.0 && !is_zero { "−" } else { "" };
    format!("{sign}{}{fraction}", group_thousands(whole))
}

/// "0.42 s", "12.3 s", "2 m 05 s", "1 h 03 m". Not finite: "–".
pub fn format_duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return MISSING.to_owned();
    }
    let seconds = seconds.max(0.0);
    // Rounded before the unit is chosen: 59.96 s is a minute.
    let whole = seconds.round() as u64;
    match whole {
        _ if seconds < 9.995 => format!("{seconds:.2} s"),
        _ if seconds < 59.95 => format!("{seconds:.1} s"),
        0..3_600 => format!("{} m {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} m", group_thousands(&(whole / 3_600).to_string()), whole % 3_600 / 60),
    }
}

/// The short form of an axis: "20k", "1.5M", "0.001", "1e-6".
pub(crate) fn format_tick(value: f64) -> String {
    let magnitude = value.abs();
    let short = |scaled: f64, unit: &str| minus(format!("{}{unit}", (scaled * 1e6).round() / 1e6));
    match magnitude {
        _ if !value.is_finite() => MISSING.to_owned(),
        0.0 => "0".to_owned(),
        _ if !(1e-3..1e15).contains(&magnitude) => minus(format!("{value:e}").chars().take(24).collect()),
        _ if magnitude >= 1e9 => short(value / 1e9, "G"),
        _ if magnitude >= 1e6 => short(value / 1e6, "M"),
        _ if magnitude >= 1e4 => short(value / 1e3, "k"),
        _ => short(value, ""),
    }
}

fn minus(text: String) -> String {
    match text.strip_prefix('-') {
        Some(rest) => format!("−{rest}"),
        None => text,
    }
}

fn group_thousands(digits: &str) -> String {
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A number of things with its noun: `1 row`, `2 rows`.
pub fn format_count(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", format_number(number as f64, Some(0)), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_rounded() {
        for (value, decimals, text) in [
            (0.0, None, "0"),
            (-0.0, None, "0"),
            (-0.001, Some(1), "0.0"),
            (1_518_888.0, None, "1,518,888"),
            (999.0, None, "999"),
            (36.8, Some(1), "36.8"),
            (-1234.5, Some(1), "−1,234.5"),
            (0.012345, None, "0.0123"),
            (1.23456, None, "1.23"),
            (1e-6, None, "1.00e-6"),
            (f64::MAX, Some(2), "1.80e308"),
            (f64::NAN, Some(2), "–"),
            (f64::NEG_INFINITY, None, "–"),
        ] {
            assert_eq!(format_number(value, decimals), text, "{value}");
        }
    }

    #[test]
    fn durations_take_the_unit_that_fits() {
        for (seconds, text) in [
            (0.416, "0.42 s"),
            (12.34, "12.3 s"),
            (59.96, "1 m 00 s"),
            (125.0, "2 m 05 s"),
            (3_780.0, "1 h 03 m"),
            (-1.0, "0.00 s"),
            (f64::NAN, "–"),
        ] {
            assert_eq!(format_duration(seconds), text);
        }
    }

    #[test]
    fn ticks_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.30000000000000004, "0.3"),
            (-0.5, "−0.5"),
            (2_000.0, "2000"),
            (20_000.0, "20k"),
            (1_500_000.0, "1.5M"),
            (0.001, "0.001"),
            (1e-4, "1e-4"),
        ] {
            assert_eq!(format_tick(value), text);
        }
    }
}

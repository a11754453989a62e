//! Amounts of memory, as a profile writes them for every engine.

/// Mebibytes of an amount such as `16G` or `16Gi`. As for Slurm, a `G` is a gibibyte.
pub(crate) fn mebibytes(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    match unit.strip_suffix('i').unwrap_or(unit) {
        "M" => Some(number),
        "G" => number.checked_mul(1 << 10),
        "T" => number.checked_mul(1 << 20),
        _ => None,
    }
}

/// An amount divided among `parts`, as Kubernetes reads it; what cannot be read stays, for the rules to name it.
pub(crate) fn share(text: &str, parts: u32) -> String {
    match mebibytes(text).map(|all| all / u64::from(parts.max(1))) {
        Some(part) if part.is_multiple_of(1 << 10) => format!("{}Gi", part >> 10),
        Some(part) => format!("{part}Mi"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gigabyte_of_slurm_is_a_gibibyte() {
        assert_eq!(mebibytes("16G"), Some(16384));
        assert_eq!(
            [share("16G", 1), share("16Gi", 8), share("1G", 8), share("2T", 1)],
            ["16Gi", "2Gi", "128Mi", "2048Gi"]
        );
        for wrong in ["", "G", "16", "16 G", "-1G", "1.5G", "16GB", "99999999999999999999G", "18446744073709551615T"] {
            assert_eq!(mebibytes(wrong), None, "{wrong}");
            assert_eq!(share(wrong, 2), wrong);
        }
    }
}

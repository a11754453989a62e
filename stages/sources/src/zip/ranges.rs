//! A plan of requests for many ranges.

use std::ops::Range;

/// Joins ranges into requests: sorted by start, neighbours at most `max_gap` bytes apart become
/// one, unless it would be longer than `max_request`. Every given range lies whole within at
/// least one request (a range longer than `max_request` is a request of its own); empty ranges
/// are left out.
pub fn coalesce(ranges: &[Range<u64>], max_gap: u64, max_request: u64) -> Vec<Range<u64>> {
    let mut sorted: Vec<_> = ranges.iter().filter(|r| !r.is_empty()).cloned().collect();
    sorted.sort_unstable_by_key(|range| (range.start, range.end));
    let mut requests: Vec<Range<u64>> = Vec::new();
    for range in sorted {
        match requests.last_mut() {
            Some(last) if range.end <= last.end => {}
            Some(last) if range.start <= last.end.saturating_add(max_gap) && range.end - last.start <= max_request => {
                last.end = range.end;
            }
            _ => requests.push(range),
        }
    }
    requests
}

#[cfg(test)]
mod tests {
    use super::coalesce;

    #[test]
    fn neighbours_join_within_gap_and_size() {
        let ranges = [30..40, 0..10, 12..20, 100..400, 35..38, 7..7];
        assert_eq!(coalesce(&ranges, 2, 1000), [0..20, 30..40, 100..400]);
        assert_eq!(coalesce(&ranges, 10, 1000), [0..40, 100..400]);
        assert_eq!(coalesce(&ranges, 10, 25), [0..20, 30..40, 100..400]);
        assert_eq!(coalesce(&ranges, u64::MAX, u64::MAX), vec![0..400; 1]);
        assert!(coalesce(&[], 1, 1).is_empty());
    }

    #[test]
    fn overlapping_ranges_stay_whole_when_too_long_to_join() {
        assert_eq!(coalesce(&[0..10, 5..15], 0, 12), [0..10, 5..15]);
    }
}

use super::super::real::{Real, max_of, sum_of, vectorised};
use rayon::prelude::*;

/// Turns logits into log-probabilities, row by row of `width` elements.
pub fn log_softmax_rows(rows: &mut [f32], width: usize) {
    rows.par_chunks_mut(width.max(1)).for_each(|row| {
        vectorised(
            #[inline(always)]
            || {
                let max = max_of(row);
                let log_sum = sum_of(row, |x| Real::exp(x - max)).ln();
                row.iter_mut().for_each(|x| *x = *x - max - log_sum);
            },
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one_in_every_row() {
        let mut rows: Vec<f32> = (0..300).map(|i| ((i * 37) % 100) as f32 - 80.0).collect();
        let raw = rows.clone();
        log_softmax_rows(&mut rows, 100);
        for (row, raw) in rows.chunks(100).zip(raw.chunks(100)) {
            let total: f64 = row.iter().map(|x| (*x as f64).exp()).sum();
            assert!((total - 1.0).abs() < 1e-5, "{total}");
            assert!(((row[3] - row[4]) - (raw[3] - raw[4])).abs() < 1e-4);
        }
    }
}

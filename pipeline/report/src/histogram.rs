//! Counts over ranges of a value: caption lengths, similarity scores.

use maud::{Markup, html};
use serde::{Deserialize, Serialize};

use crate::axis::Axis;
use crate::figure::{Plot, Px, figure, nothing};
use crate::number::{format_count, format_number, format_tick};

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 224.0;
const PLOT: Plot = Plot { left: 48.0, right: 458.0, top: 28.0, bottom: 178.0 };
const MAX_BINS: usize = 200;

/// Counts of values by bins, which need not be of one width.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Shown below the figure; may be empty.
    pub caption: String,
    /// What the values are, with their unit.
    pub x_label: String,
    /// What is counted.
    pub y_label: String,
    /// Ascending bounds, one more than `counts`; bin `i` is `[edges[i], edges[i + 1])`, the last one closed.
    pub edges: Vec<f64>,
    /// One for each bin.
    pub counts: Vec<u64>,
}

impl Histogram {
    /// Counts the finite `values` in `bins` (1 to 200) equal ranges.
    pub fn from_values(values: &[f64], bins: usize) -> Self {
        Self::from_counts(values.iter().map(|value| (*value, 1)), bins)
    }

    /// The same for values that were counted already.
    pub fn from_counts(counted: impl Iterator<Item = (f64, u64)> + Clone, bins: usize) -> Self {
        let bins = bins.clamp(1, MAX_BINS);
        let finite = || counted.clone().filter(|(value, _)| value.is_finite());
        let low = finite().fold(f64::INFINITY, |low, (value, _)| low.min(value));
        let high = finite().fold(f64::NEG_INFINITY, |high, (value, _)| high.max(value));
        if low > high {
            return Self::default();
        }
        let high = if high > low { high } else { low + 1.0 };
        // Scaled before subtracting: the span of two huge values stays finite.
        let edge = |index: usize| {
            let share = index as f64 / bins as f64;
            low * (1.0 - share) + high * share
        };
        let mut counts = vec![0; bins];
        for (value, count) in finite() {
            let share = (value / 2.0 - low / 2.0) / (high / 2.0 - low / 2.0);
            counts[((share * bins as f64) as usize).min(bins - 1)] += count;
        }
        Self { edges: (0..=bins).map(edge).collect(), counts, ..Self::default() }
    }

    pub(crate) fn html(&self) -> Markup {
        let edges = self.edges.iter().copied();
        let counts = self.counts.iter().map(|count| *count as f64).chain([0.0]);
        let (Some(x), Some(y)) = (Axis::linear(edges, PLOT.x_range()), Axis::linear(counts, PLOT.y_range())) else {
            return figure("chart", &self.caption, nothing());
        };
        if self.counts.is_empty() {
            return figure("chart", &self.caption, nothing());
        }
        let total: u64 = self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count));
        let summary = format!("histogram of {}, {}", self.x_label, format_count(total, "value"));
        let body = html! {
            div.scroll {
                svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(summary) {
                    (PLOT.frame(&x, &y, &self.x_label, &self.y_label))
                    g.bins.s1 {
                        @for (range, count) in self.edges.windows(2).zip(&self.counts) {
                            @if let (Some(left), Some(right), Some(top)) =
                                (x.place(range[0]), x.place(range[1]), y.place(*count as f64)) {
                                rect x=(Px(left + 0.5)) y=(Px(top)) width=(Px((right - left - 1.0).max(0.5)))
                                    height=(Px(PLOT.bottom - top)) {
                                    title {
                                        (format_tick(range[0])) " – " (format_tick(range[1])) ": "
                                        (format_number(*count as f64, None))
                                    }
                                }
                            }
                        }
                    }
                }
            }
        };
        figure("chart", &self.caption, body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finite_value_is_counted_once() {
        let values = [0.0, 0.1, 0.5, 0.9, 1.0, f64::NAN, f64::INFINITY];
        let histogram = Histogram::from_values(&values, 2);
        assert_eq!(histogram.edges, [0.0, 0.5, 1.0]);
        assert_eq!(histogram.counts, [2, 3]);
    }

    #[test]
    fn strange_values_do_not_break_it() {
        assert_eq!(Histogram::from_values(&[], 10), Histogram::default());
        assert_eq!(Histogram::from_values(&[f64::NAN], 10), Histogram::default());
        assert_eq!(Histogram::from_values(&[3.0, 3.0], 0).counts, [2]);
        let huge = Histogram::from_values(&[f64::MIN, 0.0, f64::MAX], 3);
        assert_eq!(huge.counts.iter().sum::<u64>(), 3);
        assert!(huge.edges.iter().all(|edge| edge.is_finite()));
    }
}

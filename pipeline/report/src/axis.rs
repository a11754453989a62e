//! Scales: data values to pixels, with ticks at round numbers.

/// Values beyond this are drawn at the edge: spans must stay finite.
const MAX_MAGNITUDE: f64 = 1e300;

/// One axis of a chart.
pub struct Axis {
    low: f64,
    high: f64,
    log: bool,
    start_px: f64,
    end_px: f64,
    /// Round values inside the axis, ascending.
    pub ticks: Vec<f64>,
}

impl Axis {
    /// A linear axis over the finite `values`, widened to round numbers; `None` when there are none.
    pub fn linear(values: impl Iterator<Item = f64>, (start_px, end_px): (f64, f64)) -> Option<Axis> {
        let (low, high) = extent(values)?;
        let (low, high) = widen_if_flat(low, high);
        let step = round_step((high - low) / 5.0);
        let (first, last) = ((low / step).floor(), (high / step).ceil());
        let count = (last - first).clamp(1.0, 20.0) as usize;
        let ticks: Vec<f64> = (0..=count).map(|index| (first + index as f64) * step).collect();
        let (low, high) = (ticks[0].min(low), ticks[count].max(high));
        Some(Axis { low, high, log: false, start_px, end_px, ticks })
    }

    /// A logarithmic axis over the positive finite `values`; `None` when there are none.
    pub fn logarithmic(values: impl Iterator<Item = f64>, (start_px, end_px): (f64, f64)) -> Option<Axis> {
        let (low, high) = extent(values.filter(|value| *value > 0.0))?;
        let (first, last) = (low.log10().floor(), high.log10().ceil());
        let last = if last > first { last } else { first + 1.0 };
        let decades_per_tick = ((last - first) / 8.0).ceil();
        let multiples: &[f64] = if last - first <= 2.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let (low, high) = (10f64.powf(first), 10f64.powf(last));
        let ticks = (0..=((last - first) / decades_per_tick) as i32)
            .map(|index| 10f64.powf(first + f64::from(index) * decades_per_tick))
            .flat_map(|decade| multiples.iter().map(move |multiple| decade * multiple))
            .filter(|tick| *tick <= high * 1.000_001)
            .collect();
        Some(Axis { low, high, log: true, start_px, end_px, ticks })
    }

    /// The pixel of a value; `None` for values that the axis cannot show.
    pub fn place(&self, value: f64) -> Option<f64> {
        if !value.is_finite() || (self.log && value <= 0.0) {
            return None;
        }
        let scale = |value: f64| if self.log { value.log10() } else { value };
        let share = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low));
        Some(self.start_px + share.clamp(0.0, 1.0) * (self.end_px - self.start_px))
    }
}

fn extent(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|value| value.is_finite()).map(|value| value.clamp(-MAX_MAGNITUDE, MAX_MAGNITUDE)).fold(
        None,
        |extent, value| match extent {
            None => Some((value, value)),
            Some((low, high)) => Some((f64::min(low, value), f64::max(high, value))),
        },
    )
}

/// A span too small to be divided is centred in a wider one.
fn widen_if_flat(low: f64, high: f64) -> (f64, f64) {
    let magnitude = low.abs().max(high.abs());
    if high - low > magnitude * 1e-9 && high - low > 1e-290 {
        return (low, high);
    }
    let half = if magnitude > 1e-290 { magnitude * 0.1 } else { 0.5 };
    (low - half, high + half)
}

/// The next of 1, 2, 5 × 10^n.
fn round_step(step: f64) -> f64 {
    let decade = 10f64.powf(step.log10().floor());
    let factor = step / decade;
    let rounded = [1.0, 2.0, 5.0].into_iter().find(|round| factor <= round * 1.000_001);
    rounded.unwrap_or(10.0) * decade
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linear(values: &[f64]) -> Axis {
        Axis::linear(values.iter().copied(), (0.0, 100.0)).expect("finite values")
    }

    #[test]
    fn ticks_are_round_and_cover_the_values() {
        let axis = linear(&[0.0, 97.0]);
        assert_eq!(axis.ticks, [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(axis.place(50.0), Some(50.0));
        assert_eq!(axis.place(f64::NAN), None);
    }

    #[test]
    fn strange_ranges_still_give_an_axis() {
        for values in [
            &[5.0][..],
            &[0.0],
            &[1e-300, 2e-300],
            &[-1e308, f64::MAX],
            &[1.0, 1.0 + 1e-15],
            &[1e15, 1e15 + 1.0],
            &[f64::NAN, 3.0, f64::INFINITY],
        ] {
            let axis = linear(values);
            assert!((2..=22).contains(&axis.ticks.len()), "{values:?}: {:?}", axis.ticks);
            for value in values.iter().filter(|value| value.is_finite()) {
                let place = axis.place(*value).expect("finite");
                assert!((0.0..=100.0).contains(&place), "{value}: {place}");
            }
        }
        assert!(Axis::linear([f64::NAN].into_iter(), (0.0, 1.0)).is_none());
        assert!(Axis::linear(std::iter::empty(), (0.0, 1.0)).is_none());
    }

    #[test]
    fn logarithms_have_a_tick_at_each_decade() {
        let axis = Axis::logarithmic([1e-6, 1e-2].into_iter(), (0.0, 100.0)).expect("positive");
        assert_eq!(axis.ticks.len(), 5);
        assert!((axis.place(1e-4).expect("inside") - 50.0).abs() < 1e-9);
        assert_eq!(axis.place(0.0), None);
        assert!(Axis::logarithmic([0.0, -1.0].into_iter(), (0.0, 1.0)).is_none());
        let wide = Axis::logarithmic([1e-300, 1e300].into_iter(), (0.0, 1.0)).expect("positive");
        assert!(wide.ticks.len() <= 10, "{:?}", wide.ticks);
    }
}

use candle_core::WithDType;

/// A floating-point type that the CPU kernels are written for.
///
/// The methods are branch-free for `f32`, so that a loop over them becomes vector code.
pub(crate) trait Real: WithDType {
    fn mul_add(self, factor: Self, summand: Self) -> Self;
    fn sqrt(self) -> Self;
    fn exp(self) -> Self;
    fn erf(self) -> Self;
    fn larger(self, other: Self) -> Self;

    #[inline(always)]
    fn of(value: f64) -> Self {
        Self::from_f64(value)
    }
}

impl Real for f64 {
    #[inline(always)]
    fn mul_add(self, factor: Self, summand: Self) -> Self {
        f64::mul_add(self, factor, summand)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }
    #[inline(always)]
    fn exp(self) -> Self {
        f64::exp(self)
    }
    #[inline(always)]
    fn erf(self) -> Self {
        candle_core::cpu::erf::erf_f64(self)
    }
    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
}

impl Real for f32 {
    #[inline(always)]
    fn mul_add(self, factor: Self, summand: Self) -> Self {
        f32::mul_add(self, factor, summand)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }

    /// 2^n * exp(r) with |r| <= ln 2 / 2 (Cephes `expf`); about one unit in the last place, NaN stays NaN.
    #[inline(always)]
    fn exp(self) -> Self {
        const LOG2_E: f32 = std::f32::consts::LOG2_E;
        const LN_2_HIGH: f32 = 0.693_359_4;
        const LN_2_LOW: f32 = -2.121_944_4e-4;
        // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
        const ROUND: f32 = 12_582_912.0;
        let x = self.clamp(-87.336_54, 88.0);
        let shifted = f32::mul_add(x, LOG2_E, ROUND);
        let n = shifted - ROUND;
        let r = f32::mul_add(n, -LN_2_LOW, f32::mul_add(n, -LN_2_HIGH, x));
        let mut p = 1.987_569_1e-4;
        p = f32::mul_add(p, r, 1.398_199_9e-3);
        p = f32::mul_add(p, r, 8.333_452e-3);
        p = f32::mul_add(p, r, 4.166_579_6e-2);
        p = f32::mul_add(p, r, 1.666_666_5e-1);
        p = f32::mul_add(p, r, 0.5);
        p = f32::mul_add(p, r * r, r) + 1.0;
        let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
        p * power
    }

    /// Rational approximation on [-4, 4] (Eigen's `erf`); absolute error below 5e-7.
    #[inline(always)]
    fn erf(self) -> Self {
        let x = self.clamp(-4.0, 4.0);
        let square = x * x;
        let mut p = -2.726_142_3e-10;
        p = f32::mul_add(p, square, 2.770_681_4e-8);
        p = f32::mul_add(p, square, -2.101_024e-6);
        p = f32::mul_add(p, square, -5.692_506_3e-5);
        p = f32::mul_add(p, square, -7.349_906_3e-4);
        p = f32::mul_add(p, square, -2.954_6e-3);
        p = f32::mul_add(p, square, -1.609_603_3e-2);
        let mut q = -1.456_607_2e-5;
        q = f32::mul_add(q, square, -2.133_740_6e-4);
        q = f32::mul_add(q, square, -1.682_827e-3);
        q = f32::mul_add(q, square, -7.373_329_2e-3);
        q = f32::mul_add(q, square, -1.426_473_9e-2);
        x * p / q
    }
    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
}

/// Runs `kernel` as compiled for the widest vector instructions of this machine.
///
/// `kernel` and what it calls must be `#[inline(always)]`, or they stay baseline code, in which every fused
/// multiply-add is a call.
#[inline(always)]
pub(crate) fn vectorised<R>(kernel: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(kernel)
}

/// Independent partial results per reduction: one of the widest registers. More would serve long rows, but most rows
/// are short and pay for combining them.
pub(crate) const LANES: usize = 16;

/// Combines `LANES` partial results pairwise.
#[inline(always)]
fn fold_lanes<T: Real>(mut lanes: [T; LANES], combine: impl Fn(T, T) -> T) -> T {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = combine(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// sum of f(x) over `xs`, in an order that depends on the length alone.
#[inline(always)]
pub(crate) fn sum_of<T: Real>(xs: &[T], f: impl Fn(T) -> T) -> T {
    let mut lanes = [T::zero(); LANES];
    let chunks = xs.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += f(chunk[i]);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += f(x);
    }
    fold_lanes(lanes, |a, b| a + b)
}

/// sum of f(x, y) over both slices, in an order that depends on the length alone.
#[inline(always)]
pub(crate) fn sum_of_pairs<T: Real>(xs: &[T], ys: &[T], f: impl Fn(T, T) -> T) -> T {
    let mut lanes = [T::zero(); LANES];
    let (x_chunks, y_chunks) = (xs.chunks_exact(LANES), ys.chunks_exact(LANES));
    let rest = x_chunks.remainder().iter().zip(y_chunks.remainder());
    for (x, y) in x_chunks.zip(y_chunks) {
        for i in 0..LANES {
            lanes[i] += f(x[i], y[i]);
        }
    }
    for (lane, (&x, &y)) in lanes.iter_mut().zip(rest) {
        *lane += f(x, y);
    }
    fold_lanes(lanes, |a, b| a + b)
}

/// The largest of `xs`; the smallest finite number for an empty slice.
#[inline(always)]
pub(crate) fn max_of<T: Real>(xs: &[T]) -> T {
    let lowest = T::of(f32::MIN as f64);
    let mut lanes = [lowest; LANES];
    let chunks = xs.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = lanes[i].larger(chunk[i]);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = lane.larger(x);
    }
    fold_lanes(lanes, T::larger)
}

/// sums += xs
#[inline(always)]
pub(crate) fn add<T: Real>(sums: &mut [T], xs: &[T]) {
    for (sum, &x) in sums.iter_mut().zip(xs) {
        *sum += x;
    }
}

/// sums += xs * ys
#[inline(always)]
pub(crate) fn add_products<T: Real>(sums: &mut [T], xs: &[T], ys: &[T]) {
    for ((sum, &x), &y) in sums.iter_mut().zip(xs).zip(ys) {
        *sum = x.mul_add(y, *sum);
    }
}

/// exp(x - the largest of the row).
#[inline(always)]
pub(crate) fn exponentiate<T: Real>(row: &mut [T]) {
    let largest = max_of(row);
    row.iter_mut().for_each(|x| *x = (*x - largest).exp());
}

/// Divides by the sum of the row; zeros stay zeros.
#[inline(always)]
pub(crate) fn normalise<T: Real>(row: &mut [T]) {
    let total = sum_of(row, |x| x);
    let factor = if total == T::zero() { total } else { T::one() / total };
    row.iter_mut().for_each(|x| *x *= factor);
}

/// exp(x) over the sum of the row's.
#[inline(always)]
pub(crate) fn softmax<T: Real>(row: &mut [T]) {
    exponentiate(row);
    normalise(row);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_of_f32_is_exact_to_two_units_in_the_last_place() {
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let exact = (x as f64).exp();
            let error = (Real::exp(x) as f64 - exact).abs() / exact;
            assert!(error < 2.4e-7, "exp({x}) is off by {error:e}");
        }
        assert_eq!(Real::exp(0f32), 1.0);
        assert!(Real::exp(f32::NAN).is_nan());
        assert!(Real::exp(f32::NEG_INFINITY) < 1.3e-38);
    }

    #[test]
    fn erf_of_f32_is_exact_to_half_a_millionth() {
        for i in -60_000..60_000 {
            let x = i as f32 * 1e-4;
            let error = (Real::erf(x) as f64 - Real::erf(x as f64)).abs();
            assert!(error < 5e-7, "erf({x}) is off by {error:e}");
        }
        assert!(Real::erf(f32::NAN).is_nan());
    }

    #[test]
    fn reductions_see_every_element() {
        for length in [0, 1, 31, 32, 33, 97] {
            let xs: Vec<f32> = (0..length).map(|i| i as f32).collect();
            let expected = (length * length.max(1) - length) as f32 / 2.0;
            assert_eq!(sum_of(&xs, |x| x), expected);
            assert_eq!(sum_of_pairs(&xs, &xs, |x, _| x), expected);
            if length > 0 {
                assert_eq!(max_of(&xs), (length - 1) as f32);
            }
        }
    }
}

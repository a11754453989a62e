use candle_core::{Result, Tensor};

use super::launch::{Arg, Made, NOTHING, Rows, launch, like, packed, pointer};

/// What rows of scores see, and their factor.
#[derive(Clone, Copy)]
pub(crate) struct Softmax<'a> {
    pub(crate) scale: f64,
    /// Columns behind these are not seen.
    pub(crate) keys: usize,
    /// Of a head: row r is query r % queries.
    pub(crate) queries: usize,
    pub(crate) heads: usize,
    pub(crate) causal: bool,
    /// `u8 [samples, keys]`, 1 = seen.
    pub(crate) valid: Option<&'a Tensor>,
}

/// exp(x) over its sum in the last dimension.
pub(crate) fn softmax(x: &Tensor) -> Result<Made> {
    let keys = Rows::of(x)?.columns;
    masked_softmax(x, Softmax { scale: 1.0, keys, queries: 1, heads: 1, causal: false, valid: None })
}

/// softmax(scale x) over what is seen of the last dimension. What is not becomes zeros, as does a row that sees nothing.
pub(super) fn masked_softmax(x: &Tensor, s: Softmax<'_>) -> Result<Made> {
    let rows = Rows::of(x)?;
    let valid = s.valid.map(pointer).transpose()?.unwrap_or(NOTHING);
    let ints = [s.keys.min(rows.columns), s.queries, s.heads, usize::from(s.causal)].map(|n| Arg::Int(n as i32));
    like(x, |y| {
        let arrays = [pointer(x)?, y];
        let (name, _) = packed("softmax", x, &[rows.columns], &arrays);
        let args = [&arrays[..], &[valid], &rows.sizes(), &ints, &[Arg::Float(s.scale as f32)]].concat();
        launch(&name, x, rows.blocks()?, &args)
    })
}

/// The way back through softmax(scale x) = p.
pub(super) fn softmax_back(p: &Tensor, dp: &Tensor, scale: f64) -> Result<Made> {
    let rows = Rows::of(p)?;
    like(p, |dx| {
        let arrays = [pointer(p)?, pointer(dp)?, dx];
        let (name, _) = packed("softmax_back", p, &[rows.columns], &arrays);
        launch(&name, p, rows.blocks()?, &[&arrays[..], &rows.sizes(), &[Arg::Float(scale as f32)]].concat())
    })
}

/// What scores know of the places of their keys: the arrays of the kernel of windows.
pub(super) enum Places<'a> {
    /// `[heads, side^2, side^2]`
    Bias(&'a Tensor),
    /// `[rows, M]`: of each row of scores 2 side - 1 distances downwards, then as many to the right.
    Distances(&'a Tensor),
}

/// softmax(scale x + places) of scores `[windows * heads, n, n]`, of which the first side^2 are queries and keys; the rest
/// becomes zeros.
pub(super) fn window_softmax(x: &Tensor, places: Places<'_>, side: usize, heads: usize, scale: f64) -> Result<Made> {
    let rows = Rows::of(x)?;
    let ([bias, distances], width) = match places {
        Places::Bias(bias) => ([pointer(bias)?, NOTHING], 0),
        Places::Distances(distances) => ([NOTHING, pointer(distances)?], Rows::of(distances)?.columns),
    };
    let ints = [side, width, heads].map(|n| Arg::Int(n as i32));
    like(x, |y| {
        let arrays = [pointer(x)?, bias, distances, y];
        let (name, _) = packed("window_softmax", x, &[rows.columns], &[arrays[0], y]);
        let args = [&arrays[..], &rows.sizes(), &ints, &[Arg::Float(scale as f32)]].concat();
        launch(&name, x, rows.blocks()?, &args)
    })
}

use super::super::real::vectorised;
use super::{for_each_row, has_inference_kernel, on_cpu, refuse_gradients};
use candle_core::{D, Device, Result, Tensor, bail};

/// Which two numbers of a head are turned together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotaryLayout {
    /// `i` and `i + width / 2`: Hugging Face's checkpoints, whose query and key rows are permuted to suit.
    Halves,
    /// `2 i` and `2 i + 1`: the paper, Meta's checkpoints, llama2.c and GGUF.
    Pairs,
}

/// A quarter of a gigabyte. The longest context of a published LLaMA has a quarter of that, and the number of positions
/// is nothing but a claim of the checkpoint.
const MAX_ANGLES: usize = 1 << 25;

/// Cosines and sines of every position.
#[derive(Clone, Debug)]
pub struct RotaryTable {
    cosines_pf: Tensor,
    sines_pf: Tensor,
    head_width: usize,
    layout: RotaryLayout,
}

impl RotaryTable {
    /// Angles `position * theta^(-2 i / head_width)` for `positions` positions, computed in f32 as transformers does.
    ///
    /// # Errors
    /// A head of odd width, or a device without room.
    pub fn new(positions: usize, head_width: usize, theta: f64, layout: RotaryLayout, device: &Device) -> Result<Self> {
        if head_width == 0 || !head_width.is_multiple_of(2) {
            bail!("rotary: a head of width {head_width} has no halves")
        }
        let half = head_width / 2;
        if positions.saturating_mul(half) > MAX_ANGLES {
            bail!("rotary: {positions} positions of heads of width {head_width} are more than {MAX_ANGLES} angles")
        }
        let frequencies: Vec<f32> =
            (0..half).map(|i| 1.0 / (theta as f32).powf((2 * i) as f32 / head_width as f32)).collect();
        let angles = (0..positions).flat_map(|position| frequencies.iter().map(move |f| position as f32 * f));
        let (cosines, sines): (Vec<f32>, Vec<f32>) = angles.map(|angle| (angle.cos(), angle.sin())).unzip();
        Ok(Self {
            cosines_pf: Tensor::from_vec(cosines, (positions, half), device)?,
            sines_pf: Tensor::from_vec(sines, (positions, half), device)?,
            head_width,
            layout,
        })
    }

    /// Number of positions.
    pub fn positions(&self) -> usize {
        self.cosines_pf.dims()[0]
    }
}

/// Turns every head of `x_rx [R, heads * head width]` by the angles of its row's position (Su et al., "RoFormer").
///
/// # Errors
/// A width that is no multiple of the table's heads, another number of positions than rows, a position that the table
/// has not, or a tensor that wants gradients.
pub fn rotary(x_rx: &Tensor, positions_r: &[u32], table: &RotaryTable) -> Result<Tensor> {
    refuse_gradients("rotary", &[x_rx])?;
    let (rows, width) = x_rx.dims2()?;
    let head_width = table.head_width;
    if rows != positions_r.len() || !width.is_multiple_of(head_width) {
        bail!("rotary: {} positions and heads of {head_width} do not fit {:?}", positions_r.len(), x_rx.dims())
    }
    if let Some(position) = positions_r.iter().find(|&&position| position as usize >= table.positions()) {
        bail!("rotary: position {position} lies beyond the {} that the network knows", table.positions())
    }
    if !has_inference_kernel(x_rx) {
        return composed(x_rx, positions_r, table);
    }
    let half = head_width / 2;
    on_cpu(&[x_rx, &table.cosines_pf, &table.sines_pf], &[rows, width], |args| {
        let mut out = args[0].to_vec();
        for_each_row(&mut out, width, |row, out| {
            let position = positions_r[row] as usize;
            let (cosines, sines) = (&args[1][position * half..][..half], &args[2][position * half..][..half]);
            vectorised(
                #[inline(always)]
                || out.chunks_exact_mut(head_width).for_each(|head| turn(head, cosines, sines, table.layout)),
            );
        });
        out
    })
}

#[inline(always)]
fn turn(head: &mut [f32], cosines: &[f32], sines: &[f32], layout: RotaryLayout) {
    let angles = cosines.iter().zip(sines);
    match layout {
        RotaryLayout::Halves => {
            let (left, right) = head.split_at_mut(cosines.len());
            for ((a, b), (&cosine, &sine)) in left.iter_mut().zip(right).zip(angles) {
                (*a, *b) = (*a * cosine - *b * sine, *b * cosine + *a * sine);
            }
        }
        RotaryLayout::Pairs => {
            for (pair, (&cosine, &sine)) in head.chunks_exact_mut(2).zip(angles) {
                let (a, b) = (pair[0], pair[1]);
                (pair[0], pair[1]) = (a * cosine - b * sine, b * cosine + a * sine);
            }
        }
    }
}

fn composed(x_rx: &Tensor, positions_r: &[u32], table: &RotaryTable) -> Result<Tensor> {
    let (rows, width) = x_rx.dims2()?;
    let (heads, half) = (width / table.head_width, table.head_width / 2);
    let positions = Tensor::new(positions_r, x_rx.device())?;
    let angles = |values: &Tensor| values.index_select(&positions, 0)?.to_dtype(x_rx.dtype())?.reshape((rows, 1, half));
    let (cosines, sines) = (angles(&table.cosines_pf)?, angles(&table.sines_pf)?);
    let (a, b) = match table.layout {
        RotaryLayout::Halves => {
            let x = x_rx.reshape((rows, heads, 2, half))?;
            (x.narrow(2, 0, 1)?.squeeze(2)?, x.narrow(2, 1, 1)?.squeeze(2)?)
        }
        RotaryLayout::Pairs => {
            let x = x_rx.reshape((rows, heads, half, 2))?;
            (x.narrow(3, 0, 1)?.squeeze(3)?, x.narrow(3, 1, 1)?.squeeze(3)?)
        }
    };
    let left = (a.broadcast_mul(&cosines)? - b.broadcast_mul(&sines)?)?;
    let right = (b.broadcast_mul(&cosines)? + a.broadcast_mul(&sines)?)?;
    let turned = match table.layout {
        RotaryLayout::Halves => Tensor::cat(&[left, right], D::Minus1)?,
        RotaryLayout::Pairs => Tensor::stack(&[left, right], 3)?,
    };
    turned.reshape((rows, width))
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::random;
    use super::*;
    use candle_core::DType;

    #[test]
    fn kernel_and_composition_agree() {
        let x = random(&[3, 24], 1).to_dtype(DType::F32).unwrap();
        for layout in [RotaryLayout::Halves, RotaryLayout::Pairs] {
            let table = RotaryTable::new(9, 8, 10_000.0, layout, &Device::Cpu).unwrap();
            let kernel = rotary(&x, &[0, 8, 3], &table).unwrap();
            let off = (&kernel - composed(&x, &[0, 8, 3], &table).unwrap()).unwrap().abs().unwrap();
            assert!(off.max_all().unwrap().to_scalar::<f32>().unwrap() < 1e-6);
            // Position 0 turns nothing, and no position changes a length.
            let (x, y) = (x.to_vec2::<f32>().unwrap(), kernel.to_vec2::<f32>().unwrap());
            assert_eq!(x[0], y[0]);
            let length = |row: &[f32]| row.iter().map(|x| x * x).sum::<f32>();
            assert!((length(&x[1]) - length(&y[1])).abs() < 1e-5 && x[1] != y[1]);
        }
    }

    #[test]
    fn a_position_beyond_the_table_is_an_error() {
        let table = RotaryTable::new(4, 8, 10_000.0, RotaryLayout::Halves, &Device::Cpu).unwrap();
        let message = rotary(&random(&[1, 8], 1), &[4], &table).unwrap_err().to_string();
        assert!(message.contains("position 4"), "{message}");
        assert!(RotaryTable::new(4, 7, 10_000.0, RotaryLayout::Halves, &Device::Cpu).is_err());
    }
}

//! Matrix products over borrowed, strided slices (the `gemm` crate behind a checked interface).

use super::real::{Real, add, vectorised};
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// A borrowed matrix with any strides.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// Row-major, without gaps: `data.len() = rows * cols`.
    pub(crate) fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// Row-major, with `row_stride` elements from row to row.
    pub(crate) fn strided(data: &'a [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transposed view.
    pub(crate) fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    fn last_index(&self) -> usize {
        (self.rows.max(1) - 1) * self.row_stride + (self.cols.max(1) - 1) * self.col_stride
    }
}

/// Where a product goes: row-major, `row_stride` elements from row to row.
pub(crate) struct MatrixMut<'a, T> {
    data: &'a mut [MaybeUninit<T>],
    rows: usize,
    cols: usize,
    row_stride: usize,
    is_initialised: bool,
}

impl<'a, T: Real> MatrixMut<'a, T> {
    pub(crate) fn new(data: &'a mut [T], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    pub(crate) fn strided(data: &'a mut [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        // SAFETY: the same elements; nobody but `multiply` sees them here, and it writes nothing uninitialised.
        let data = unsafe { &mut *(std::ptr::from_mut(data) as *mut [MaybeUninit<T>]) };
        Self { is_initialised: true, ..Self::uninitialised(data, rows, cols, row_stride) }
    }

    /// Can only be overwritten.
    pub(crate) fn uninitialised(data: &'a mut [MaybeUninit<T>], rows: usize, cols: usize, row_stride: usize) -> Self {
        Self { data, rows, cols, row_stride, is_initialised: false }
    }
}

/// What happens to the elements that are there already.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Write {
    Overwrite,
    Add,
}

/// Which threads a product may use. Inside a loop that is parallel itself: `One`.
#[derive(Clone, Copy)]
pub(crate) enum Threads {
    One,
    All,
}

/// out = scale * a b, or out += scale * a b.
///
/// # Panics
/// If the shapes do not fit together or exceed their slices: both are bugs of the caller.
pub(crate) fn multiply<T: Real>(
    out: MatrixMut<'_, T>,
    write: Write,
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    scale: f64,
    threads: Threads,
) {
    assert_eq!((out.rows, out.cols), (a.rows, b.cols), "shape of the product");
    assert_eq!(a.cols, b.rows, "inner dimension");
    assert!(out.is_initialised || write == Write::Overwrite);
    if out.rows == 0 || out.cols == 0 {
        return;
    }
    assert!((out.rows - 1) * out.row_stride + out.cols <= out.data.len());
    if a.cols == 0 {
        if write == Write::Overwrite {
            for row in out.data.chunks_mut(out.row_stride).take(out.rows) {
                row[..out.cols].fill(MaybeUninit::new(T::zero()));
            }
        }
        return;
    }
    assert!(a.last_index() < a.data.len() && b.last_index() < b.data.len());
    // SAFETY: the assertions above keep every index inside its slice, and `out` is borrowed exclusively.
    unsafe {
        gemm::gemm(
            out.rows,
            out.cols,
            a.cols,
            out.data.as_mut_ptr().cast::<T>(),
            1,
            out.row_stride as isize,
            write == Write::Add,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            T::one(),
            T::of(scale),
            false,
            false,
            false,
            match threads {
                Threads::One => gemm::Parallelism::None,
                Threads::All => gemm::Parallelism::Rayon(0),
            },
        );
    }
}

/// Rows summed in one go before partial sums are added up: fixed, so that no result depends on the thread count.
pub(crate) const ROWS_PER_BLOCK: usize = 128;

/// The sum over the rows of a row-major matrix with `cols` columns.
pub(crate) fn column_sums<T: Real>(data: &[T], cols: usize) -> Vec<T> {
    if cols == 0 {
        return Vec::new();
    }
    let partials: Vec<Vec<T>> = data
        .par_chunks(ROWS_PER_BLOCK * cols)
        .map(|block| {
            let mut sums = vec![T::zero(); cols];
            vectorised(
                #[inline(always)]
                || add_rows(&mut sums, block),
            );
            sums
        })
        .collect();
    sum_partials(partials, cols)
}

/// Adds up partial sums in their order.
pub(crate) fn sum_partials<T: Real>(partials: Vec<Vec<T>>, length: usize) -> Vec<T> {
    let mut partials = partials.into_iter();
    let mut total = partials.next().unwrap_or_else(|| vec![T::zero(); length]);
    for partial in partials {
        vectorised(
            #[inline(always)]
            || add_rows(&mut total, &partial),
        );
    }
    total
}

#[inline(always)]
fn add_rows<T: Real>(sums: &mut [T], rows: &[T]) {
    for row in rows.chunks_exact(sums.len()) {
        add(sums, row);
    }
}

/// `rows` copies of `row`, one behind the other.
pub(crate) fn repeated<T: Real>(row: &[T], rows: usize) -> Vec<T> {
    let fill = |out: &mut [MaybeUninit<T>]| {
        let block = (ROWS_PER_BLOCK * row.len()).max(1);
        out.par_chunks_mut(block).for_each(|out| {
            for out in out.chunks_exact_mut(row.len()) {
                out.write_copy_of_slice(row);
            }
        });
    };
    // SAFETY: the blocks consist of whole rows, each of which is written.
    unsafe { written(rows * row.len(), fill) }
}

/// a b into a vector of its own, on all threads.
pub(crate) fn product<T: Real>(a: Matrix<'_, T>, b: Matrix<'_, T>) -> Vec<T> {
    let (rows, cols) = (a.rows, b.cols);
    let fill = |out: &mut [MaybeUninit<T>]| {
        let out = MatrixMut::uninitialised(out, rows, cols, cols);
        multiply(out, Write::Overwrite, a, b, 1.0, Threads::All);
    };
    // SAFETY: a product that overwrites writes every element of its matrix.
    unsafe { written(rows * cols, fill) }
}

/// A vector whose elements `fill` writes, without clearing it first: half of the time of a memory-bound kernel.
///
/// # Safety
/// `fill` writes every element.
pub(crate) unsafe fn written<T: Real>(length: usize, fill: impl FnOnce(&mut [MaybeUninit<T>])) -> Vec<T> {
    let mut out = Vec::with_capacity(length);
    fill(&mut out.spare_capacity_mut()[..length]);
    // SAFETY: the capacity was asked for above, and the caller promises that all elements are written.
    unsafe { out.set_len(length) };
    out
}

#[cfg(test)]
mod tests {
    use super::super::testing::random;
    use super::*;
    use candle_core::DType;

    fn values(rows: usize, cols: usize, seed: u64) -> Vec<f32> {
        let tensor = random(&[rows * cols], seed).to_dtype(DType::F32).unwrap();
        tensor.to_vec1().unwrap()
    }

    #[test]
    fn products_and_sums_do_not_depend_on_the_number_of_threads() {
        let (m, k, n) = (517, 771, 389);
        let (a, b) = (values(m, k, 1), values(k, n, 2));
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let plain = product(Matrix::new(&a, m, k), Matrix::new(&b, k, n));
                let transposed = product(Matrix::new(&b, k, n).t(), Matrix::new(&a, m, k).t());
                (plain, transposed, column_sums(&a, k))
            })
        };
        let one = on(1);
        for threads in [2, 3, 5] {
            assert!(on(threads) == one, "{threads} threads");
        }
    }

    #[test]
    fn strides_scale_and_addition_are_those_of_the_definition() {
        let (a, b) = (values(3, 4, 1), values(2, 4, 2));
        let mut out = [1f32; 3 * 5];
        let (left, right) = (Matrix::new(&a, 3, 4), Matrix::new(&b, 2, 4).t());
        multiply(MatrixMut::strided(&mut out[1..], 3, 2, 5), Write::Add, left, right, 0.5, Threads::One);
        for row in 0..3 {
            for col in 0..5 {
                let dot = |col: usize| (0..4).map(|i| a[row * 4 + i] * b[col * 4 + i]).sum::<f32>();
                let expected = 1.0 + if (1..3).contains(&col) { 0.5 * dot(col - 1) } else { 0.0 };
                assert!((out[row * 5 + col] - expected).abs() < 1e-6);
            }
        }
    }
}

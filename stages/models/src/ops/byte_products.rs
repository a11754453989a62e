//! Inner products of many vectors of one byte a number with one vector of two bytes a number: exact, and as fast as the
//! bytes come from memory.

/// Width up to which no sum leaves 32 bits, for a vector whose numbers are at most `most` away from zero.
pub const fn widest(most: i16) -> usize {
    (i32::MAX / (128 * most as i32)) as usize
}

/// Inner products of rows, one after the other in `rows`, with a vector. A sum that leaves 32 bits wraps: see [`widest`].
///
/// # Panics
/// If `rows` is not as long as all of `products` need.
pub fn byte_products(rows: &[i8], by: &[i16], products: &mut [i32]) {
    assert_eq!(rows.len(), by.len() * products.len(), "rows, and products of them");
    if by.is_empty() {
        return products.fill(0);
    }
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
            // SAFETY: the machine has what the function asks for.
            return unsafe { with_avx512(rows, by, products) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { with_avx2(rows, by, products) };
        }
    }
    multiply(rows, by, products);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
fn with_avx512(rows: &[i8], by: &[i16], products: &mut [i32]) {
    multiply(rows, by, products);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn with_avx2(rows: &[i8], by: &[i16], products: &mut [i32]) {
    multiply(rows, by, products);
}

/// The compiler makes vector instructions of it, those of the function that it is part of.
#[inline(always)]
fn multiply(rows: &[i8], by: &[i16], products: &mut [i32]) {
    for (row, product) in rows.chunks_exact(by.len()).zip(products) {
        let terms = row.iter().zip(by).map(|(a, b)| i32::from(*a) * i32::from(*b));
        *product = terms.fold(0, i32::wrapping_add);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_exact_at_every_width_up_to_the_largest_numbers() {
        for width in [0, 1, 15, 16, 31, 33, 64, 500, 512, widest(4095)] {
            let row = |seed: usize| {
                (0..width).map(move |i| [i8::MIN, i8::MAX, (i * 37 + seed) as u8 as i8, 0][(i + seed) % 4])
            };
            let by: Vec<i16> = (0..width).map(|i| [-4095, 4095, (i as i16 * 91) % 4096][i % 3]).collect();
            let rows: Vec<i8> = (0..5).flat_map(row).collect();
            let mut products = [7; 5];
            byte_products(&rows, &by, &mut products);
            for (seed, product) in products.into_iter().enumerate() {
                let exact: i64 = row(seed).zip(&by).map(|(a, b)| i64::from(a) * i64::from(*b)).sum();
                assert_eq!(i64::from(product), exact, "width {width}, row {seed}");
            }
        }
        // the worst case at the widest is still within 32 bits
        let (rows, by) = (vec![i8::MIN; widest(4095)], vec![-4095; widest(4095)]);
        let mut product = [0];
        byte_products(&rows, &by, &mut product);
        assert_eq!(i64::from(product[0]), 128 * 4095 * widest(4095) as i64);
    }
}

//! How similar the sources of a batch are to its targets, in the eyes of the frozen source model.

use crate::error::{Error, Result};

/// A mean of two opposite unit vectors that is shorter than this counts as zero.
const SHORTEST: f64 = 1e-12;

/// Unit vectors of rows on the host, in double precision: no choice depends on the order of a device's sums.
#[derive(Clone, Debug, PartialEq)]
pub struct Embeddings {
    values_nd: Vec<f64>,
    dim: usize,
}

/// Cosine of each target with each source: W1 of Eq. 9, and W2, its chosen columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Similarity {
    cosines_ts: Vec<f64>,
    targets: usize,
    sources: usize,
}

/// One vector per pair: the mean of its normalised image and text embedding, normalised again.
///
/// `image_nd` and `text_nd` are embeddings by the checkpoint that adaptation starts from, row by row `[N, D]`. Opposite
/// embeddings have no mean: such a row stays zero and is similar to nothing.
///
/// # Errors
/// Lengths that do not fit; an embedding that is zero or not finite, with its row.
pub fn aggregate(image_nd: &[f32], text_nd: &[f32], dim: usize) -> Result<Embeddings> {
    let (images, texts) = (image_nd.len(), text_nd.len());
    if dim == 0 || images != texts || !images.is_multiple_of(dim) {
        let problem =
            format!("{images} image and {texts} text values of width {dim}: needs whole rows, as many of both");
        return Err(Error::argument("frozen embeddings", problem));
    }
    let mut values_nd = Vec::with_capacity(images);
    for (row, (image_d, text_d)) in image_nd.chunks_exact(dim).zip(text_nd.chunks_exact(dim)).enumerate() {
        let (image_scale, text_scale) = (unit_scale(image_d, "image", row)?, unit_scale(text_d, "text", row)?);
        let pairs = image_d.iter().zip(text_d);
        let mean_d: Vec<f64> =
            pairs.map(|(&i, &t)| 0.5 * (f64::from(i) * image_scale + f64::from(t) * text_scale)).collect();
        let length = dot(&mean_d, &mean_d).sqrt();
        let scale = if length < SHORTEST { 0.0 } else { length.recip() };
        values_nd.extend(mean_d.iter().map(|x| x * scale));
    }
    Ok(Embeddings { values_nd, dim })
}

/// Reciprocal length of an embedding.
fn unit_scale(values: &[f32], modality: &str, row: usize) -> Result<f64> {
    let length = values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    if length.is_finite() && length > 0.0 {
        return Ok(length.recip());
    }
    Err(Error::Numbers {
        what: format!("frozen {modality} embedding of row {row}"),
        problem: format!("has length {length}, needs a positive one; embed that row again"),
    })
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl Embeddings {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.values_nd.len() / self.dim
    }

    /// Rows one after the other `[N, D]`.
    pub fn values(&self) -> &[f64] {
        &self.values_nd
    }
}

impl Similarity {
    /// W1 of Eq. 9.
    ///
    /// # Errors
    /// Vectors of different widths; no source or no target.
    pub fn new(target: &Embeddings, source: &Embeddings) -> Result<Self> {
        let (targets, sources) = (target.rows(), source.rows());
        if target.dim != source.dim || targets == 0 || sources == 0 {
            let problem = format!(
                "{targets} targets of width {} and {sources} sources of width {}: needs at least one of each, of one width",
                target.dim, source.dim
            );
            return Err(Error::argument("similarity", problem));
        }
        let dim = target.dim;
        let mut cosines_ts = Vec::with_capacity(targets * sources);
        for target_d in target.values_nd.chunks_exact(dim) {
            cosines_ts.extend(source.values_nd.chunks_exact(dim).map(|source_d| dot(target_d, source_d)));
        }
        Ok(Self { cosines_ts, targets, sources })
    }

    /// Number of targets T.
    pub fn targets(&self) -> usize {
        self.targets
    }

    /// Number of sources S.
    pub fn sources(&self) -> usize {
        self.sources
    }

    /// Cosines of one target with every source `[S]`.
    ///
    /// # Panics
    /// `target` beyond the last.
    pub fn of_target(&self, target: usize) -> &[f64] {
        &self.cosines_ts[target * self.sources..(target + 1) * self.sources]
    }

    /// W2: the columns of `sources`, in the order given.
    ///
    /// # Errors
    /// A source beyond the last.
    pub fn columns(&self, sources: &[usize]) -> Result<Self> {
        if let Some(beyond) = sources.iter().find(|&&source| source >= self.sources) {
            return Err(Error::argument("chosen sources", format!("name source {beyond} of {}", self.sources)));
        }
        let rows = (0..self.targets).map(|target| self.of_target(target));
        let cosines_ts = rows.flat_map(|row| sources.iter().map(|&source| row[source])).collect();
        Ok(Self { cosines_ts, targets: self.targets, sources: sources.len() })
    }

    /// Sum over targets for each source `[S]`.
    pub fn sums_over_targets(&self) -> Vec<f64> {
        let mut sums = vec![0.0; self.sources];
        for target in 0..self.targets {
            for (sum, cosine) in sums.iter_mut().zip(self.of_target(target)) {
                *sum += cosine;
            }
        }
        sums
    }

    /// Sum over sources for each target `[T]`.
    pub fn sums_over_sources(&self) -> Vec<f64> {
        (0..self.targets).map(|target| self.of_target(target).iter().sum()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_does_not_matter_and_opposites_are_similar_to_nothing() {
        let short = aggregate(&[1.0, 0.0, 0.0, 2.0], &[0.0, 1.0, 0.0, 3.0], 2).unwrap();
        let long = aggregate(&[1e3, 0.0, 0.0, 2e-3], &[0.0, 7.0, 0.0, 1e10], 2).unwrap();
        let half = std::f64::consts::FRAC_1_SQRT_2;
        for (a, b) in short.values().iter().zip([half, half, 0.0, 1.0]) {
            assert!((a - b).abs() < 1e-15);
        }
        for (a, b) in short.values().iter().zip(long.values()) {
            assert!((a - b).abs() < 1e-15);
        }
        let opposite = aggregate(&[1.0, 0.0], &[-1.0, 0.0], 2).unwrap();
        assert_eq!(opposite.values(), [0.0, 0.0]);
        assert_eq!(Similarity::new(&short, &opposite).unwrap().sums_over_targets(), [0.0]);
    }

    #[test]
    fn columns_and_sums_agree() {
        let targets = aggregate(&[1.0, 0.0, 0.0, 1.0], &[1.0, 0.0, 0.0, 1.0], 2).unwrap();
        let sources = aggregate(&[1.0, 0.0, 0.6, 0.8, 0.0, -1.0], &[1.0, 0.0, 0.6, 0.8, 0.0, -1.0], 2).unwrap();
        let w1 = Similarity::new(&targets, &sources).unwrap();
        let near = |found: Vec<f64>, expected: &[f64]| {
            assert_eq!(found.len(), expected.len());
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-7), "{found:?} {expected:?}");
        };
        near(w1.of_target(0).to_vec(), &[1.0, 0.6, 0.0]);
        near(w1.of_target(1).to_vec(), &[0.0, 0.8, -1.0]);
        near(w1.sums_over_targets(), &[1.0, 1.4, -1.0]);
        let w2 = w1.columns(&[2, 1]).unwrap();
        assert_eq!((w2.targets(), w2.sources()), (2, 2));
        near(w2.sums_over_targets(), &[-1.0, 1.4]);
        near(w2.sums_over_sources(), &[0.6, -0.2]);
        assert!(w1.columns(&[3]).unwrap_err().to_string().contains("source 3 of 3"));
    }

    #[test]
    fn bad_embeddings_are_named() {
        let error = aggregate(&[1.0, 0.0, 0.0, 0.0], &[1.0; 4], 2).unwrap_err().to_string();
        assert!(error.contains("frozen image embedding of row 1") && error.contains("length 0"), "{error}");
        let error = aggregate(&[1.0; 4], &[1.0, f32::NAN, 1.0, 1.0], 2).unwrap_err().to_string();
        assert!(error.contains("frozen text embedding of row 0"), "{error}");
        assert!(aggregate(&[1.0; 4], &[1.0; 2], 2).is_err());
        assert!(aggregate(&[1.0; 3], &[1.0; 3], 2).is_err());
        assert!(aggregate(&[], &[], 0).is_err());
        let (two, three) = (aggregate(&[1.0; 2], &[1.0; 2], 2).unwrap(), aggregate(&[1.0; 3], &[1.0; 3], 3).unwrap());
        let error = Similarity::new(&two, &three).unwrap_err().to_string();
        assert!(error.contains("width 2") && error.contains("width 3"), "{error}");
        assert!(Similarity::new(&aggregate(&[], &[], 2).unwrap(), &two).is_err());
    }
}

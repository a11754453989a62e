//! Efficient graph-based image segmentation (Felzenszwalb and Huttenlocher, IJCV 59(2), 2004): the
//! segmenter that needs no weights.

use choices::Felzenszwalb;

use crate::Rgb;
use crate::mask::{Rle, RunBuilder};

/// One connected region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The pixels of the region, as a mask of the image's size.
    pub rle: Rle,
    /// Number of its pixels.
    pub area_px: u64,
    /// Left, top, width, height.
    pub bbox_xywh: [u32; 4],
}

/// Divides the image into segments, largest first (equal ones by their first pixel in row-major
/// order). Every pixel lies in exactly one.
///
/// Edges join each pixel with its eight neighbours, weighted by the Euclidean distance of the smoothed
/// colours, and are visited by weight, equal weights by position: the result depends on nothing else.
/// Takes about 70 bytes of memory a pixel.
///
/// ```
/// use pixels::felzenszwalb::segment;
/// // 20 columns of water, and 12 of grass
/// let row = [[30, 60, 160]; 20].into_iter().chain([[90, 160, 60]; 12]);
/// let rgb = pixels::Rgb::new(32, 24, row.flatten().collect::<Vec<u8>>().repeat(24))?;
/// let found = segment(&rgb, &choices::Felzenszwalb { sigma_px: 0.0, ..Default::default() });
/// assert_eq!(found.iter().map(|segment| segment.area_px).collect::<Vec<_>>(), [20 * 24, 12 * 24]);
/// assert_eq!(found[1].bbox_xywh, [20, 0, 12, 24]);
/// # Ok::<(), pixels::PixelError>(())
/// ```
pub fn segment(rgb: &Rgb, settings: &Felzenszwalb) -> Vec<Segment> {
    let colours = smoothed(rgb, settings.sigma_px);
    let edges = Edges::sorted(&colours, rgb.width as usize);
    let mut regions = Regions::new(colours.len(), settings.scale);
    for edge in edges.iter() {
        regions.join_if_alike(edge);
    }
    for edge in edges.iter() {
        regions.join_if_small(edge, settings.min_size_px);
    }
    let roots: Vec<u32> = (0..colours.len() as u32).map(|i| regions.root(i)).collect();
    segments(&roots, rgb.width, rgb.height)
}

/// The image blurred by a separable Gaussian cut off at four standard deviations, edges mirrored
/// (SciPy's `gaussian_filter` defaults).
fn smoothed(rgb: &Rgb, sigma: f32) -> Vec<[f32; 3]> {
    let pixels: Vec<[f32; 3]> = rgb.pixels().iter().map(|p| p.map(f32::from)).collect();
    let (width, height) = (rgb.width as usize, rgb.height as usize);
    let kernel = gaussian_kernel(sigma, width.max(height));
    if kernel.len() == 1 {
        return pixels;
    }
    let mut columns_done = vec![[0.0; 3]; pixels.len()];
    for y in 0..height {
        let row = &mut columns_done[y * width..][..width];
        for (tap, weight) in taps(&kernel, y, height) {
            accumulate(row, &pixels[tap * width..][..width], weight);
        }
    }
    let mut done = vec![[0.0; 3]; pixels.len()];
    for (row, source) in done.chunks_exact_mut(width).zip(columns_done.chunks_exact(width)) {
        for (x, sum) in row.iter_mut().enumerate() {
            for (tap, weight) in taps(&kernel, x, width) {
                for (sum, value) in sum.iter_mut().zip(source[tap]) {
                    *sum += weight * value;
                }
            }
        }
    }
    done
}

fn accumulate(sums: &mut [[f32; 3]], values: &[[f32; 3]], weight: f32) {
    for (sum, value) in sums.as_flattened_mut().iter_mut().zip(values.as_flattened()) {
        *sum += weight * value;
    }
}

/// Normalised weights from the centre's left end to its right end; one weight if nothing is smoothed.
/// The radius never exceeds the image, which bounds the work for any `sigma`.
fn gaussian_kernel(sigma: f32, longest_side: usize) -> Vec<f32> {
    let sigma = f64::from(sigma);
    if !(sigma > 0.0 && sigma.is_finite()) {
        return vec![1.0];
    }
    let radius = ((4.0 * sigma + 0.5) as i64).min(longest_side as i64);
    let weight = |offset: i64| (-0.5 * (offset as f64 / sigma).powi(2)).exp();
    let sum: f64 = (-radius..=radius).map(weight).sum();
    (-radius..=radius).map(|offset| (weight(offset) / sum) as f32).collect()
}

/// Positions and weights that the kernel centred on `centre` takes from an axis of `length` values,
/// mirrored at both ends (`c b a | a b c | c b a`).
fn taps(kernel: &[f32], centre: usize, length: usize) -> impl Iterator<Item = (usize, f32)> {
    let first = centre as i64 - (kernel.len() / 2) as i64;
    kernel.iter().enumerate().map(move |(index, &weight)| {
        let period = 2 * length as i64;
        let position = (first + index as i64).rem_euclid(period);
        (position.min(period - 1 - position) as usize, weight)
    })
}

/// An edge of the grid graph.
#[derive(Clone, Copy)]
struct Edge {
    weight: f32,
    pixel: u32,
    neighbour: u32,
}

/// Edges to the right, below and on both diagonals below, by (weight, pixel, direction).
///
/// Weight and position share one integer: the bits of floats that are not negative have the order of
/// their values, and unique keys make an unstable sort deterministic. `MAX_PIXELS` leaves room for the
/// two bits of direction.
struct Edges {
    keys: Vec<u64>,
    width: usize,
}

impl Edges {
    const DIRECTIONS: [(isize, usize); 4] = [(1, 0), (0, 1), (1, 1), (-1, 1)];

    fn sorted(colours: &[[f32; 3]], width: usize) -> Self {
        let height = colours.len() / width;
        let mut keys = Vec::with_capacity(4 * colours.len());
        for (pixel, colour) in colours.iter().enumerate() {
            let (x, y) = (pixel % width, pixel / width);
            for (direction, (dx, dy)) in Self::DIRECTIONS.into_iter().enumerate() {
                if x.checked_add_signed(dx).is_some_and(|x| x < width) && y + dy < height {
                    let neighbour = (pixel + dy * width).wrapping_add_signed(dx);
                    let weight = distance(*colour, colours[neighbour]);
                    let position = (4 * pixel + direction) as u64;
                    keys.push(u64::from(weight.to_bits()) << 32 | position);
                }
            }
        }
        keys.sort_unstable();
        Self { keys, width }
    }

    fn iter(&self) -> impl Iterator<Item = Edge> {
        self.keys.iter().map(|&key| {
            let position = key as u32 as usize;
            let (pixel, (dx, dy)) = (position / 4, Self::DIRECTIONS[position % 4]);
            Edge {
                weight: f32::from_bits((key >> 32) as u32),
                pixel: pixel as u32,
                neighbour: (pixel + dy * self.width).wrapping_add_signed(dx) as u32,
            }
        })
    }
}

fn distance(a: [f32; 3], b: [f32; 3]) -> f32 {
    let [red, green, blue] = std::array::from_fn(|channel| a[channel] - b[channel]);
    (red * red + green * green + blue * blue).sqrt()
}

/// Disjoint sets of pixels with what the merging criterion needs to know of each.
struct Regions {
    parent: Vec<u32>,
    size: Vec<u32>,
    /// Int(C) + k / |C|, at the roots: the heaviest edge that a region tolerates.
    tolerance: Vec<f32>,
    scale: f32,
}

impl Regions {
    fn new(pixels: usize, scale: f32) -> Self {
        Self { parent: (0..pixels as u32).collect(), size: vec![1; pixels], tolerance: vec![scale; pixels], scale }
    }

    fn root(&mut self, mut pixel: u32) -> u32 {
        while self.parent[pixel as usize] != pixel {
            let grandparent = self.parent[self.parent[pixel as usize] as usize];
            self.parent[pixel as usize] = grandparent;
            pixel = grandparent;
        }
        pixel
    }

    /// The paper's criterion: join if the edge is no heavier than both regions tolerate.
    fn join_if_alike(&mut self, edge: Edge) {
        let (a, b) = (self.root(edge.pixel), self.root(edge.neighbour));
        if a != b && edge.weight <= self.tolerance[a as usize] && edge.weight <= self.tolerance[b as usize] {
            let joined = self.join(a, b) as usize;
            // Edges come by weight, so this one is the heaviest inside the joined region.
            self.tolerance[joined] = edge.weight + self.scale / self.size[joined] as f32;
        }
    }

    fn join_if_small(&mut self, edge: Edge, min_size_px: u32) {
        let (a, b) = (self.root(edge.pixel), self.root(edge.neighbour));
        if a != b && self.size[a as usize].min(self.size[b as usize]) < min_size_px {
            self.join(a, b);
        }
    }

    /// Hangs the smaller region under the larger one and returns the common root.
    fn join(&mut self, a: u32, b: u32) -> u32 {
        let (root, child) = if self.size[a as usize] >= self.size[b as usize] { (a, b) } else { (b, a) };
        self.parent[child as usize] = root;
        self.size[root as usize] += self.size[child as usize];
        root
    }
}

/// Masks of the regions, from each pixel's root.
fn segments(roots: &[u32], width: u32, height: u32) -> Vec<Segment> {
    let (columns, rows) = (width as usize, height as usize);
    // Numbers in order of the first pixel, so that a stable sort by area leaves ties in that order.
    let mut number_of_root = vec![u32::MAX; roots.len()];
    let mut builders = Vec::new();
    for &root in roots {
        let number = &mut number_of_root[root as usize];
        if *number == u32::MAX {
            *number = builders.len() as u32;
            builders.push(RunBuilder::new(height, width));
        }
    }
    let mut run: Option<(u32, u32)> = None; // number and start of the run that is open
    let mut position = 0;
    for x in 0..columns {
        for y in 0..rows {
            let number = number_of_root[roots[y * columns + x] as usize];
            if run.is_none_or(|(open, _)| open != number) {
                if let Some((open, start)) = run {
                    builders[open as usize].push(start, position);
                }
                run = Some((number, position));
            }
            position += 1;
        }
    }
    if let Some((open, start)) = run {
        builders[open as usize].push(start, position);
    }
    let mut segments: Vec<Segment> = builders
        .into_iter()
        .map(|builder| {
            let rle = builder.finish();
            Segment { area_px: rle.area_px(), bbox_xywh: rle.bbox_xywh(), rle }
        })
        .collect();
    segments.sort_by_key(|segment| std::cmp::Reverse(segment.area_px));
    segments
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Left third dark, a bright square in the rest.
    fn blocks(width: u32, height: u32) -> Rgb {
        let mut data = Vec::new();
        for y in 0..height {
            for x in 0..width {
                let square = (width / 2..width / 2 + 10).contains(&x) && (5..15).contains(&y);
                data.extend(match (square, x < width / 3) {
                    (true, _) => [250, 240, 30],
                    (_, true) => [10, 20, 30],
                    _ => [120, 130, 110],
                });
            }
        }
        Rgb::new(width, height, data).unwrap()
    }

    fn sharp(scale: f32, min_size_px: u32) -> Felzenszwalb {
        Felzenszwalb { scale, sigma_px: 0.0, min_size_px }
    }

    #[test]
    fn flat_blocks_become_segments_by_area() {
        let segments = segment(&blocks(60, 40), &sharp(50.0, 1));
        let found: Vec<_> = segments.iter().map(|s| (s.area_px, s.bbox_xywh)).collect();
        assert_eq!(found, [(1_500, [20, 0, 40, 40]), (800, [0, 0, 20, 40]), (100, [30, 5, 10, 10])]);
    }

    #[test]
    fn small_segments_are_joined_to_the_most_alike_neighbour() {
        let segments = segment(&blocks(60, 40), &sharp(50.0, 200));
        let areas: Vec<_> = segments.iter().map(|s| s.area_px).collect();
        assert_eq!(areas, [1_600, 800]);
    }

    #[test]
    fn every_pixel_is_in_exactly_one_segment() {
        let mut state = 1u32;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        let rgb = Rgb::new(70, 33, noise.take(70 * 33 * 3).collect()).unwrap();
        let segments = segment(&rgb, &sharp(200.0, 7));
        let mut covered = vec![0u8; 70 * 33];
        for segment in &segments {
            assert!(segment.area_px >= 7);
            assert_eq!(segment.area_px, segment.rle.area_px());
            for (count, bit) in covered.iter_mut().zip(segment.rle.to_row_major()) {
                *count += bit;
            }
        }
        assert!(segments.len() > 10);
        assert!(covered.iter().all(|&count| count == 1));
        assert!(segments.is_sorted_by(|a, b| a.area_px >= b.area_px));
        assert_eq!(segments, segment(&rgb, &sharp(200.0, 7)));
    }

    #[test]
    fn degenerate_images_and_settings() {
        let line = Rgb::new(5, 1, vec![9; 15]).unwrap();
        let column = Rgb::new(1, 5, vec![9; 15]).unwrap();
        for sigma_px in [0.0, 0.8, 1e30, f32::NAN, -1.0] {
            for scale in [0.0, 300.0, f32::NAN, f32::INFINITY] {
                let settings = Felzenszwalb { scale, sigma_px, min_size_px: u32::MAX };
                assert_eq!(segment(&line, &settings).len(), 1);
                assert_eq!(segment(&column, &settings).len(), 1);
            }
        }
    }

    #[test]
    fn the_blur_keeps_means_and_mirrors_edges() {
        let mut data = vec![0; 5 * 3];
        data[0] = 255;
        let impulse = Rgb::new(5, 1, data).unwrap();
        let blurred = smoothed(&impulse, 0.8);
        let sum: f32 = blurred.iter().map(|colour| colour[0]).sum();
        assert!((sum - 255.0).abs() < 1e-3);
        // scipy.ndimage.gaussian_filter1d([255., 0, 0, 0, 0], 0.8)
        let expected = [185.381_73, 63.806_36, 5.699_52, 0.112_39, 0.0];
        for (colour, expected) in blurred.iter().zip(expected) {
            assert!((colour[0] - expected).abs() < 2e-3, "{blurred:?}");
        }
    }
}

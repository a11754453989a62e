//! What a perfect model can score on RSICD's test split, whose 5,465 captions hold 3,330 different texts: the ceilings
//! that evaluation has to reproduce before any figure of ours can be compared with a published one.

use choices::Protocol;
use std::collections::{BTreeMap, BTreeSet};

use training::recall::{DEFAULT_BLOCK_ROWS, Gallery, RecallReport, evaluate};

const CAPTIONS_PER_IMAGE: usize = 5;

/// Caption classes, five for each image.
struct Captions {
    class: Vec<usize>,
    distinct: usize,
}

fn rsicd_test() -> Option<Captions> {
    let Some(folder) = std::env::var_os("URBANCROSS_TEST_DATA") else {
        println!("skipped: URBANCROSS_TEST_DATA is unset, RSICD's captions are not here");
        return None;
    };
    let path = std::path::Path::new(&folder).join("data/urbancross_text/rsicd_test_caps.txt");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let normalised = text
        .lines()
        .map(|line| line.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>();
    let distinct: BTreeSet<&String> = normalised.iter().collect();
    let number: BTreeMap<&String, usize> = distinct.iter().copied().zip(0..).collect();
    let class = normalised.iter().map(|caption| number[caption]).collect();
    Some(Captions { class, distinct: distinct.len() })
}

impl Captions {
    fn images(&self) -> usize {
        self.class.len() / CAPTIONS_PER_IMAGE
    }

    fn of_image(&self, image: usize) -> &[usize] {
        &self.class[image * CAPTIONS_PER_IMAGE..][..CAPTIONS_PER_IMAGE]
    }

    /// Every text has a dimension of its own; an image has `weight(image, class)` in those of its texts, and the rest
    /// of its unit length in a dimension of its own.
    fn evaluate(&self, weight: impl Fn(usize, usize) -> f32) -> RecallReport {
        let (images, captions) = (self.images(), self.class.len());
        let dim = self.distinct + images;
        let mut text_md = vec![0.0; captions * dim];
        for (caption, &class) in self.class.iter().enumerate() {
            text_md[caption * dim + class] = 1.0;
        }
        let mut image_nd = vec![0.0; images * dim];
        for (image, row) in image_nd.chunks_exact_mut(dim).enumerate() {
            for &class in self.of_image(image) {
                row[class] = weight(image, class);
            }
            let used: f32 = row.iter().map(|v| v * v).sum();
            row[self.distinct + image] = (1.0 - used).sqrt();
        }
        let gallery = Gallery {
            image_nd: &image_nd,
            text_md: &text_md,
            dim,
            own_image_m: &(0..captions).map(|caption| (caption / CAPTIONS_PER_IMAGE) as u32).collect::<Vec<_>>(),
            image_keys_n: &(0..images as u64).collect::<Vec<_>>(),
            caption_keys_m: &self.class.iter().map(|&class| class as u64).collect::<Vec<_>>(),
        };
        evaluate(&gallery, Protocol::Standard, DEFAULT_BLOCK_ROWS).unwrap().report
    }
}

fn rounded(percent: f64) -> f64 {
    (percent * 10.0).round() / 10.0
}

#[test]
fn a_perfect_model_finds_a_caption_of_its_own_for_all_but_nine_images() {
    let Some(captions) = rsicd_test() else { return };
    let mut owners: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); captions.distinct];
    for image in 0..captions.images() {
        captions.of_image(image).iter().for_each(|&class| _ = owners[class].insert(image));
    }
    // The rarer a caption, the more certain.
    let report = captions.evaluate(|_, class| 0.4 / owners[class].len() as f32);
    assert_eq!((report.image_gallery, report.caption_gallery, report.distinct_captions), (1093, 5465, 3330));
    assert_eq!(rounded(report.exact.pessimistic.i2t.at_1), 99.2);
    assert_eq!(report.exact.optimistic.i2t.at_1, 100.0);
    assert!(report.i2t_ties.twin_moves_points > 0.8);
    assert!(report.i2t_ties.other_percent == 0.0);
    assert_eq!(report.group.pessimistic.i2t.at_1, 100.0);
    assert_eq!(report.group.pessimistic.t2i.at_1, 100.0);
}

#[test]
fn exact_pairs_cannot_exceed_their_ceilings() {
    let Some(captions) = rsicd_test() else { return };
    // Of the images that share a caption the one that repeats it most comes first; the number breaks ties.
    let report = captions.evaluate(|image, class| {
        let repeats = captions.of_image(image).iter().filter(|&&other| other == class).count();
        0.05 * (repeats as f32 + 1e-4 * image as f32)
    });
    let t2i = report.exact.pessimistic.t2i;
    assert_eq!([t2i.at_1, t2i.at_5, t2i.at_10].map(rounded), [93.1, 99.2, 99.8]);
    assert_eq!(report.exact.optimistic.t2i, t2i, "nothing ties");
}

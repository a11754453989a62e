//! Figures of captions, and their means.

use serde::Serialize;

/// How long captions are, how well they fit their images, and how far they agree with the tags.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Words of a caption.
    pub words: Option<f64>,
    /// CLIPScore; `None`: nobody judges.
    pub clip_score: Option<f64>,
    /// PerceptionScore; `None`: nobody judges, or there are no segments.
    pub perception_score: Option<f64>,
    /// Share of the tags' things that the caption names.
    pub coverage: Option<f64>,
    /// Share of the caption's things that no tag names.
    pub hallucination: Option<f64>,
}

impl Figures {
    fn all(self) -> [Option<f64>; 5] {
        [self.words, self.clip_score, self.perception_score, self.coverage, self.hallucination]
    }
}

/// Adds figures up; each mean is over those that there are.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Mean([(f64, u64); 5]);

impl Mean {
    pub(super) fn add(&mut self, figures: &Figures) {
        for ((sum, number), figure) in self.0.iter_mut().zip(figures.all()) {
            if let Some(figure) = figure {
                *sum += figure;
                *number += 1;
            }
        }
    }

    pub(super) fn figures(&self) -> Figures {
        let [words, clip_score, perception_score, coverage, hallucination] =
            self.0.map(|(sum, number)| (number > 0).then(|| sum / number as f64));
        Figures { words, clip_score, perception_score, coverage, hallucination }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_that_is_missing_does_not_count() {
        let mut mean = Mean::default();
        assert_eq!(mean.figures(), Figures::default());
        mean.add(&Figures { words: Some(2.0), coverage: Some(1.0), ..Figures::default() });
        mean.add(&Figures { words: Some(4.0), ..Figures::default() });
        assert_eq!(mean.figures(), Figures { words: Some(3.0), coverage: Some(1.0), ..Figures::default() });
    }
}

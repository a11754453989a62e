//! What is moved: a field of a spec, and the values that it takes.

use engines::{SWEPT, VARIANT};
use workers::WorkerError;

/// What a field decides, and so what has to be made again for each of its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moves {
    /// A training on the tables as they are.
    Training,
    /// Which segments a training sees, and the training.
    Segments,
    /// How a trained model is measured.
    Measure,
    /// An adaptation.
    Adaptation,
}

impl Moves {
    /// The step that one run of a sweep is.
    pub fn step(self) -> &'static str {
        let [_, training, segments, measure] = SWEPT;
        match self {
            Moves::Training => training,
            Moves::Segments => segments,
            Moves::Measure => measure,
            Moves::Adaptation => VARIANT,
        }
    }

    /// What a step of a sweep over a build moves, by the last word of its name.
    ///
    /// # Errors
    /// A word that names none.
    pub fn of_word(word: &str) -> Result<Moves, WorkerError> {
        let all = [Moves::Training, Moves::Segments, Moves::Measure];
        let named = all.into_iter().find(|moves| moves.step().rsplit('_').next() == Some(word));
        named.ok_or_else(|| {
            WorkerError::Configuration(format!("--swept {word}: a sweep moves a training, segments or a measure"))
        })
    }
}

/// Sections of specs whose fields can be moved.
const SECTIONS: [(&str, Moves); 4] = [
    ("pretrain.", Moves::Training),
    ("score.", Moves::Segments),
    ("evaluate.", Moves::Measure),
    ("adapt.", Moves::Adaptation),
];

/// One setting and the values that it takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// Such as `pretrain.learning_rate`.
    pub field: String,
    /// Values as the spec would have them, in the order given.
    pub values: Vec<String>,
    /// What the field decides.
    pub moves: Moves,
}

impl Axis {
    /// Reads `section.field=value,value,...`.
    ///
    /// # Errors
    /// [`WorkerError::Configuration`] with what the text should look like.
    pub fn parse(text: &str) -> Result<Axis, WorkerError> {
        let fail = |why: &str| WorkerError::Configuration(format!("--over {text}: {why}; write --over field=1,2,3"));
        let (field, values) = text.split_once('=').ok_or_else(|| fail("there is no `=`"))?;
        let field = field.trim();
        let (_, moves) = *SECTIONS.iter().find(|(section, _)| field.starts_with(section)).ok_or_else(|| {
            fail("only fields of pretrain, score, evaluate and, with the spec of a pair, adapt can be swept")
        })?;
        let values: Vec<String> = values.split(',').map(|value| value.trim().to_owned()).collect();
        if values.iter().any(String::is_empty) {
            return Err(fail("a value is empty"));
        }
        if let Some((_, twice)) = values.iter().enumerate().find(|(at, value)| values[..*at].contains(value)) {
            return Err(fail(&format!("{twice} is there twice")));
        }
        // curves of trainings are drawn over numbers; a method or a protocol has names
        let with_words = matches!(moves, Moves::Measure | Moves::Adaptation);
        if !with_words && values.iter().any(|value| value.parse::<f64>().is_err()) {
            return Err(fail("every value must be a number"));
        }
        Ok(Axis { field: field.to_owned(), values, moves })
    }

    /// The values as numbers; of words their places, from 0.
    pub(super) fn numbers(&self) -> Vec<(f64, Option<String>)> {
        let numbers: Option<Vec<f64>> =
            self.values.iter().map(|value| value.parse().ok().filter(|number: &f64| number.is_finite())).collect();
        match numbers {
            Some(numbers) => numbers.into_iter().map(|number| (number, None)).collect(),
            None => self.values.iter().enumerate().map(|(at, word)| (at as f64, Some(word.clone()))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_fields_that_something_can_be_made_again_for() {
        let axis = Axis::parse("pretrain.batch=16, 32").unwrap();
        assert_eq!((axis.field.as_str(), axis.values.len(), axis.moves), ("pretrain.batch", 2, Moves::Training));
        for (text, moves) in [
            ("score.max_segments=1,2", Moves::Segments),
            ("evaluate.protocol=standard,dedup", Moves::Measure),
            ("adapt.method.beta=0.5,1", Moves::Adaptation),
            ("adapt.method.curriculum=bands,none", Moves::Adaptation),
        ] {
            assert_eq!(Axis::parse(text).unwrap().moves, moves, "{text}");
        }
        for (text, words) in [
            ("pretrain.batch", "no `=`"),
            ("pretrain.loss=hinge", "must be a number"),
            ("score.canvas=full,cropped", "must be a number"),
            ("segment.segmenter=sam", "only fields of pretrain"),
            ("evaluate.protocol=standard,", "a value is empty"),
            ("pretrain.batch=8,16,8", "8 is there twice"),
        ] {
            let error = Axis::parse(text).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn words_keep_their_order() {
        let numbers = |text: &str| Axis::parse(text).unwrap().numbers();
        assert_eq!(numbers("adapt.batch=8,4"), [(8.0, None), (4.0, None)]);
        let words = numbers("evaluate.average_over_turns=false,true");
        assert_eq!(words, [(0.0, Some("false".to_owned())), (1.0, Some("true".to_owned()))]);
    }
}

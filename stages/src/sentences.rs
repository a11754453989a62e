//! The sentence encoder of a build, and rows of texts to rows of vectors.

use candle_core::Device;
use manifests::BuildSpec;
use manifests::spec::{StructuredField, TextPooling};
use models::sentence::{Pooling, Reading, SentenceEncoder};
use wording::Field;

use crate::device::{arithmetic, compute_error, dtype, opening_error};
use crate::stage::{StageContext, StageError};

/// Field of the spec that names it.
pub(crate) const ENCODER_FIELD: &str = "text_retrieval.encoder";

/// What a text is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It is searched with.
    Query,
    /// It is searched.
    Document,
}

impl Role {
    fn prefix(self, spec: &BuildSpec) -> &str {
        match self {
            Role::Query => &spec.text_retrieval.query_prefix,
            Role::Document => &spec.text_retrieval.document_prefix,
        }
    }
}

/// The encoder at work.
pub struct Sentences {
    stage: &'static str,
    encoder: SentenceEncoder,
    device: Device,
    prefixes: [String; 2],
}

impl Sentences {
    /// Loads the encoder that the spec names.
    ///
    /// # Errors
    /// [`StageError::Configuration`] for a folder that holds none, [`StageError::Unreachable`] if it is not read now.
    pub fn open(stage: &'static str, context: &StageContext<'_>) -> Result<Self, StageError> {
        let folder = context.weights(stage, ENCODER_FIELD)?;
        let device = context.device(stage)?;
        let encoder = SentenceEncoder::load(folder, &device, dtype(context.spec), reading(context.spec))
            .map_err(|e| opening_error(stage, &device, format!("{ENCODER_FIELD}: {e}"), &e))?;
        let prefixes = [Role::Query, Role::Document].map(|role| role.prefix(context.spec).to_owned());
        Ok(Self { stage, encoder, device, prefixes })
    }

    fn prefix(&self, role: Role) -> &str {
        &self.prefixes[role as usize]
    }

    /// Whether a text has one vector, whatever it is used for.
    pub(crate) fn has_one_role(&self) -> bool {
        self.prefixes[0] == self.prefixes[1]
    }

    /// Vectors of length one, in the order of the texts.
    ///
    /// # Errors
    /// [`StageError::Compute`] if the encoder fails, [`StageError::Unreachable`] if its device does.
    pub(crate) fn encode<S: AsRef<str>>(&self, role: Role, texts: &[S]) -> Result<Vec<Vec<f32>>, StageError> {
        let prefix = self.prefix(role);
        let texts: Vec<String> = texts.iter().map(|text| format!("{prefix}{}", text.as_ref())).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        self.encoder.encode(&texts).map_err(|e| compute_error(self.stage, &self.device, e.to_string()))
    }

    /// Tokens of a query at most, start and end among them.
    pub(crate) fn max_tokens(&self) -> usize {
        self.encoder.max_tokens()
    }

    /// Tokens of a query, without start and end.
    pub(crate) fn count(&self, text: &str) -> models::Result<usize> {
        self.encoder.count(&format!("{}{text}", self.prefix(Role::Query)))
    }

    /// The vector of what somebody searches with.
    ///
    /// # Errors
    /// [`StageError::Compute`] if the encoder fails, [`StageError::Unreachable`] if its device does.
    pub fn query(&self, text: &str) -> Result<Vec<f32>, StageError> {
        Ok(self.encode(Role::Query, &[text])?.remove(0))
    }
}

fn reading(spec: &BuildSpec) -> Reading {
    let pooling = match spec.text_retrieval.pooling {
        TextPooling::Checkpoint => None,
        TextPooling::Mean => Some(Pooling::Mean),
        TextPooling::Cls => Some(Pooling::Cls),
        TextPooling::Max => Some(Pooling::Max),
    };
    Reading { pooling, max_tokens: Some(spec.text_retrieval.max_tokens) }
}

/// What changes a vector beside its text and the weights.
pub(crate) fn parameters(spec: &BuildSpec, roles: &[Role]) -> serde_json::Value {
    serde_json::json!({
        "pooling": spec.text_retrieval.pooling,
        "max_tokens": spec.text_retrieval.max_tokens,
        "prefixes": roles.iter().map(|role| role.prefix(spec)).collect::<Vec<_>>(),
        "precision": arithmetic(spec),
    })
}

/// The fields of a structured caption that are embedded.
pub(crate) fn fields(spec: &BuildSpec) -> Vec<Field> {
    let named = &spec.text_retrieval.fields;
    let all = [
        (StructuredField::OneSentence, Field::OneSentence),
        (StructuredField::Feature, Field::Feature),
        (StructuredField::Caption, Field::Caption),
    ];
    all.into_iter().filter(|(name, _)| named.contains(name)).map(|(_, field)| field).collect()
}

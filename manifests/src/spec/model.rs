//! The retrieval model and its device.

use choices::{Activation, Preset};
use schemars::JsonSchema;
use serde::de::IntoDeserializer;
use serde::{Deserialize, Deserializer, Serialize};

use super::check::Problems;

/// `[model]`: the network, its first weights, and where it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSpec {
    /// The network.
    pub preset: Preset,
    /// Weights to start from: a folder or file here, the address of one (`s3://`, `https://` …), or `owner/name` on
    /// the hub; empty: random, from the seed. A file is safetensors, or a state dictionary of PyTorch (`.pt`).
    pub init: String,
    /// The non-linearity that the weights were trained with, where a bare file of weights has no configuration beside it
    /// that says so; not set: from the configuration, or the preset's.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "activation")]
    #[schemars(with = "Activation")]
    pub activation: Option<Activation>,
    /// `train` (a small vocabulary from the train captions), or a tokenizer file, named like `init`.
    pub tokenizer: String,
    /// Size of the vocabulary that `tokenizer = "train"` makes.
    pub vocabulary: usize,
    /// Tokens per caption; 0: the preset's. Weights of Long-CLIP's kind have 248.
    pub context_length: usize,
    /// Input side in pixels; 0: the preset's.
    pub image_size_px: usize,
    /// `cpu`, `cuda:N`, `cuda:all`, or several with commas. Stages that ask a network take shards on all of them, each
    /// with a copy of the network; training takes the first.
    pub device: String,
    /// Type of weights and activations. Losses, optimiser and moving average are f32 or wider in any case. `tf32` is f32
    /// whose products of matrices a GPU takes on tensor cores, of factors with 10 bits.
    pub precision: Precision,
}

/// One device of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceName {
    /// The processor.
    Cpu,
    /// By its number.
    Cuda(usize),
}

impl DeviceName {
    /// What kind of device it is.
    pub fn kind(self) -> DeviceKind {
        match self {
            DeviceName::Cpu => DeviceKind::Cpu,
            DeviceName::Cuda(_) => DeviceKind::Cuda,
        }
    }
}

/// A kind of devices: what one of them takes says nothing of another kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// Processors.
    Cpu,
    /// NVIDIA GPUs.
    Cuda,
}

impl DeviceKind {
    /// As markers have it.
    pub fn name(self) -> &'static str {
        match self {
            DeviceKind::Cpu => "cpu",
            DeviceKind::Cuda => "cuda",
        }
    }
}

impl std::fmt::Display for DeviceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DeviceName::Cpu => f.write_str("cpu"),
            DeviceName::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

/// What `model.device` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceNames {
    /// Never empty.
    Listed(Vec<DeviceName>),
    /// Every NVIDIA GPU that the machine has.
    EveryCuda,
}

/// More devices than one machine has.
const MAX_DEVICES: usize = 256;
/// Patches along the side of an image: their number goes into its square.
const MOST_PATCHES: usize = 255;

impl ModelSpec {
    pub(super) fn check(&self, problems: &mut Problems) {
        let (preset, patch) = (self.preset.name(), self.preset.patch_px());
        let mut of = problems.section("model");
        // a smaller one spells nothing
        of.within("vocabulary", self.vocabulary, 64..=1 << 20, "2000 are enough for the captions of a country");
        if self.context_length != 0 {
            of.within("context_length", self.context_length, 3..=1 << 16, "or 0, the preset's");
        }
        let side = self.image_size_px;
        if !side.is_multiple_of(patch) || side / patch > MOST_PATCHES {
            let most = patch * MOST_PATCHES;
            let why = format!("it must be a multiple of {patch} up to {most} for {preset}, or 0, the preset's");
            of.refuse("image_size_px", side, &why);
        }
        match self.devices() {
            Err(why) => problems.add(why),
            Ok(DeviceNames::Listed(names)) if self.precision == Precision::Tf32 && names.contains(&DeviceName::Cpu) => {
                problems.add(
                    "model.precision = \"tf32\" is for NVIDIA GPUs: write \"f32\", or name no CPU in model.device",
                );
            }
            Ok(_) => {}
        }
    }

    /// # Errors
    /// What `model.device` should look like.
    pub fn devices(&self) -> Result<DeviceNames, String> {
        let text = self.device.trim();
        if text == "cuda:all" {
            return Ok(DeviceNames::EveryCuda);
        }
        let one = |name: &str| match name.trim() {
            "cpu" => Some(DeviceName::Cpu),
            name => name.strip_prefix("cuda:")?.parse().ok().map(DeviceName::Cuda),
        };
        let listed: Option<Vec<DeviceName>> = text.split(',').map(one).collect();
        listed.filter(|names| names.len() <= MAX_DEVICES).map(DeviceNames::Listed).ok_or_else(|| {
            format!(
                "model.device = {:?}: write \"cpu\", \"cuda:0\", \"cuda:all\", or several as \"cuda:0,cuda:1\"",
                self.device
            )
        })
    }
}

/// What `model.precision` may say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Single precision.
    #[default]
    F32,
    /// Single precision, with products of matrices of shorter factors.
    Tf32,
    /// Brain float, with the range of single precision.
    Bf16,
    /// IEEE half precision.
    F16,
}

/// An activation's name; empty where none is given.
fn activation<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Activation>, D::Error> {
    let name = String::deserialize(deserializer)?;
    (!name.is_empty()).then(|| Activation::deserialize(name.as_str().into_deserializer())).transpose()
}

impl Default for ModelSpec {
    fn default() -> Self {
        Self {
            preset: Preset::Small,
            init: String::new(),
            activation: None,
            tokenizer: "train".into(),
            vocabulary: 2000,
            context_length: 0,
            image_size_px: 0,
            device: "cpu".into(),
            precision: Precision::F32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_activation_that_is_not_named_leaves_no_trace() {
        let of = |text: &str| toml::from_str::<ModelSpec>(text);
        let open = of("activation = \"\"").unwrap();
        assert_eq!(open, ModelSpec::default());
        assert!(!toml::to_string(&open).unwrap().contains("activation"), "it would be another identity");
        let named = of("activation = \"quick_gelu\"").unwrap();
        assert_eq!(
            (named.activation, of(&toml::to_string(&named).unwrap()).unwrap()),
            (Some(Activation::QuickGelu), named)
        );
        assert!(of("activation = \"relu\"").unwrap_err().to_string().contains("quick_gelu"));
    }

    #[test]
    fn presets_are_called_by_their_names() {
        for preset in Preset::ALL {
            let spec: ModelSpec = toml::from_str(&format!("preset = {:?}", preset.name())).unwrap();
            assert_eq!(spec.preset, preset);
        }
    }

    #[test]
    fn devices_are_one_several_or_all() {
        let devices = |text: &str| ModelSpec { device: text.into(), ..ModelSpec::default() }.devices();
        let listed = |names: &[DeviceName]| Ok(DeviceNames::Listed(names.to_vec()));
        assert_eq!(devices("cpu"), listed(&[DeviceName::Cpu]));
        assert_eq!(devices("cuda:3"), listed(&[DeviceName::Cuda(3)]));
        assert_eq!(devices("cuda:0, cuda:1"), listed(&[DeviceName::Cuda(0), DeviceName::Cuda(1)]));
        assert_eq!(devices("cuda:all"), Ok(DeviceNames::EveryCuda));
        for wrong in ["", "cuda", "cuda:", "cuda:x", "cuda:-1", "cpu,", "gpu:0", "cuda:all,cpu", &"cpu,".repeat(300)] {
            assert!(devices(wrong).unwrap_err().contains("cuda:all"), "{wrong}");
        }
    }
}

//! What `--model` says: where a model from elsewhere lies, and what its files do not tell.

use std::path::Path;
use std::str::FromStr;

use choices::{Activation, Preset};
use wording::{Letters, TextTreatment};

/// A family of published weights, by what its own evaluation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// OpenAI's own weights.
    OpenAi,
    /// RemoteCLIP: built as OpenAI's; captions are capitalized.
    RemoteClip,
    /// GeoRSCLIP: ViT-B/32 is built as OpenAI's; captions as they are.
    GeoRsClip,
    /// SkyCLIP: ViT-L/14 is built as OpenAI's and ViT-B/32 as LAION's; a sentence comes before captions.
    SkyClip,
    /// LRSCLIP: a Long-CLIP, which is built as OpenAI's; captions as they are.
    LrsClip,
}

impl Family {
    const ALL: [Family; 5] = [Family::OpenAi, Family::RemoteClip, Family::GeoRsClip, Family::SkyClip, Family::LrsClip];

    fn name(self) -> &'static str {
        match self {
            Family::OpenAi => "openai",
            Family::RemoteClip => "remoteclip",
            Family::GeoRsClip => "georsclip",
            Family::SkyClip => "skyclip",
            Family::LrsClip => "lrsclip",
        }
    }

    /// What its weights were trained with, by the network that their shapes show.
    fn activation(self, preset: Option<Preset>) -> Activation {
        match (self, preset) {
            (Family::SkyClip, Some(Preset::VitB32)) => Activation::Gelu,
            _ => Activation::QuickGelu,
        }
    }

    fn treatment(self) -> TextTreatment {
        let as_is = TextTreatment::default();
        match self {
            Family::RemoteClip => TextTreatment { letters: Letters::Capitalize, ..as_is },
            Family::SkyClip => TextTreatment { template: "a satellite image. {}".into(), ..as_is },
            Family::OpenAi | Family::GeoRsClip | Family::LrsClip => as_is,
        }
    }
}

/// A model that is asked for: `SOURCE[#WORD,…]`, where a word is a family or `key=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskedModel {
    /// A file or folder, an address, or a name on the hub.
    pub source: String,
    /// For people.
    pub name: String,
    family: Option<Family>,
    activation: Option<Activation>,
    /// What its captions go through.
    pub treatment: TextTreatment,
    /// The vocabulary of its own.
    pub tokenizer: Option<String>,
}

impl AskedModel {
    /// What its weights were trained with, where its own configuration does not say; `preset` is what the shapes of a bare
    /// file show.
    pub(super) fn activation(&self, preset: Option<Preset>) -> Option<Activation> {
        self.activation.or_else(|| self.family.map(|family| family.activation(preset)))
    }

    /// Whether the activation was named outright, and not by a family.
    pub(super) fn names_activation(&self) -> bool {
        self.activation.is_some()
    }
}

const KEYS: &str = "activation, captions, template, tokenizer, name";

impl FromStr for AskedModel {
    type Err = String;

    fn from_str(asked: &str) -> Result<Self, String> {
        // a file may have a # in its name
        let (source, words) = match asked.rsplit_once('#') {
            Some((source, words)) if !Path::new(asked).exists() => (source, words),
            _ => (asked, ""),
        };
        if source.is_empty() {
            return Err("name a file, a folder, an address, or owner/name on the hub".into());
        }
        let last = source.trim_end_matches('/').rsplit(['/', '\\']).next().unwrap_or(source);
        let mut model = AskedModel {
            source: source.to_owned(),
            name: last.to_owned(),
            family: None,
            activation: None,
            treatment: TextTreatment::default(),
            tokenizer: None,
        };
        let (mut captions, mut template) = (None, None);
        for word in words.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word.split_once('=') {
                None => {
                    let family = Family::ALL.into_iter().find(|family| family.name() == word);
                    let known = Family::ALL.map(Family::name).join(", ");
                    model.family = Some(family.ok_or_else(|| {
                        format!("{word:?} is no family of weights ({known}) and no setting ({KEYS}, each with =)")
                    })?);
                }
                Some(("activation", "quick_gelu")) => model.activation = Some(Activation::QuickGelu),
                Some(("activation", "gelu")) => model.activation = Some(Activation::Gelu),
                Some(("activation", other)) => {
                    return Err(format!("activation={other}: there are quick_gelu and gelu"));
                }
                Some(("captions", words)) => captions = Some(words.parse::<TextTreatment>()?),
                Some(("template", text)) => template = Some(text.to_owned()),
                Some(("tokenizer", source)) => model.tokenizer = Some(source.to_owned()),
                Some(("name", name)) => model.name = name.to_owned(),
                Some((key, _)) => return Err(format!("{key:?} is no setting of a model; there are {KEYS}")),
            }
        }
        let of_family = model.family.map(Family::treatment).unwrap_or_default();
        let kept = of_family.template.clone();
        model.treatment = captions.unwrap_or(of_family);
        match template {
            Some(text) if text.is_empty() => model.treatment.template = String::new(),
            Some(text) => model.treatment = model.treatment.with_template(&text)?,
            None => model.treatment.template = kept,
        }
        Ok(model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(asked: &str) -> AskedModel {
        asked.parse().unwrap()
    }

    #[test]
    fn a_family_says_what_its_own_evaluation_does() {
        let remote = of("weights/RemoteCLIP-ViT-B-32.pt#remoteclip");
        assert_eq!(
            (remote.source.as_str(), remote.name.as_str()),
            ("weights/RemoteCLIP-ViT-B-32.pt", "RemoteCLIP-ViT-B-32.pt")
        );
        assert_eq!(remote.treatment.apply("a ROAD"), "A road");
        assert_eq!(remote.activation(Some(Preset::VitB32)), Some(Activation::QuickGelu));
        let sky = of("sky.pt#skyclip");
        assert_eq!(sky.treatment.apply("a road"), "a satellite image. a road");
        let of_sky = [Preset::VitB32, Preset::VitL14].map(|preset| sky.activation(Some(preset)));
        assert_eq!(of_sky, [Some(Activation::Gelu), Some(Activation::QuickGelu)]);
        assert_eq!(of("farslip.pt").activation(Some(Preset::VitB32)), None, "nobody said");
    }

    #[test]
    fn what_is_named_outright_counts() {
        let named =
            of("x.pt#skyclip,activation=gelu,captions=lower+no-punctuation,template=of {},name=Mine,tokenizer=v.json");
        assert_eq!(named.activation(Some(Preset::VitL14)), Some(Activation::Gelu));
        assert_eq!(named.treatment.apply("A road."), "of a road");
        assert_eq!((named.name.as_str(), named.tokenizer.as_deref()), ("Mine", Some("v.json")));
        assert_eq!(of("x.pt#skyclip,template=").treatment.apply("A"), "A");
        assert_eq!(
            of("x.pt#skyclip,captions=lower").treatment.apply("A"),
            "a satellite image. a",
            "the template stays"
        );
        assert_eq!(of("openai/clip-vit-base-patch32").name, "clip-vit-base-patch32");
        assert_eq!(of("https://example.org/a/b.pt#openai").source, "https://example.org/a/b.pt");
    }

    #[test]
    fn a_file_with_a_hash_in_its_name_is_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a#remoteclip");
        std::fs::write(&path, "").unwrap();
        let asked = of(path.to_str().unwrap());
        assert_eq!((asked.source.as_str(), asked.family), (path.to_str().unwrap(), None));
    }

    #[test]
    fn what_is_not_understood_says_what_there_is() {
        for (asked, words) in [
            ("x.pt#clip", "remoteclip"),
            ("x.pt#colour=red", "tokenizer"),
            ("x.pt#activation=relu", "quick_gelu"),
            ("x.pt#captions=upper", "no-punctuation"),
            ("x.pt#template=none", "needs one"),
            ("#remoteclip", "a folder"),
            ("", "a folder"),
        ] {
            let why = asked.parse::<AskedModel>().unwrap_err();
            assert!(why.contains(words), "{asked}: {why}");
        }
    }
}

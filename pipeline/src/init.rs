//! `urbancross init`: a build spec from a few answers.

use std::io::Write;
use std::path::Path;

use manifests::BuildSpec;
use workers::WorkerError;

/// What the images are, and where they lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// SkyScript's archives: images of the whole world with OpenStreetMap tags.
    Skyscript,
    /// A folder of images and captions.
    Captioned,
}

/// Which methods and which size of network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Scale {
    /// No external weights, a small network from scratch: one machine without a GPU.
    Light,
    /// The paper's: InstructBLIP, Segment Anything and a ViT-L/14, on a large GPU.
    Paper,
}

/// What decides about a spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answers {
    /// Name of the country or data set; it names folders.
    pub country: String,
    /// Two letters of ISO 3166-1; of captioned folders none.
    pub code: String,
    /// What the images are.
    pub kind: Kind,
    /// Address or folder of the images.
    pub source: String,
    /// Address or folder of the work store.
    pub work: String,
    /// Which methods.
    pub scale: Scale,
}

/// Where SkyScript lies for everybody.
pub const SKYSCRIPT: &str = "s3://opendatasharing/SkyScript/";

/// Stores that know their readers.
const CLOUDS: [&str; 3] = ["s3://", "gs://", "az://"];

impl Answers {
    /// The spec as a file, with comments.
    pub fn spec_text(&self) -> String {
        let Self { country, code, kind, source, work, .. } = self;
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let mut lines = vec![
            // a line end in the name would end the comment, and hide what is wrong with the name
            format!(
                "# {}, written by `urbancross init`. Every field with its default: `urbancross spec FILE`.",
                country.escape_debug()
            ),
            "#   urbancross doctor FILE      look at this machine, the stores and the weights".to_owned(),
            "#   urbancross plan FILE        what would run, with hours and memory".to_owned(),
            "#   urbancross run FILE         run it; run it again after an edit, Ctrl-C or a crash".to_owned(),
            format!("country = {}", quoted(country)),
            String::new(),
            "[source]".to_owned(),
        ];
        let is_cloud = CLOUDS.iter().any(|cloud| source.starts_with(cloud));
        let options = is_cloud.then(|| match source == SKYSCRIPT {
            true => r#"options = { region = "us-west-2" }"#.to_owned(),
            false => "options = { anonymous = false }   # requests are signed; true for a public bucket".to_owned(),
        });
        match kind {
            Kind::Skyscript => {
                lines.extend([r#"kind = "skyscript""#.to_owned(), format!("url = {}", quoted(source))]);
                lines.extend(options);
                lines.extend([
                    r#"tables = ["dataframe/SkyScript_train_top30pct_filtered_by_CLIP_openai.csv"]"#.to_owned(),
                    format!("tokens = [{}]           # parts of image names that belong to the country", quoted(code)),
                    format!("country_code = {}     # images outside of its borders are left out", quoted(code)),
                    "max_gsd_meters = 0.5     # coarser images are left out".to_owned(),
                ]);
            }
            Kind::Captioned => {
                lines.extend([
                    r#"kind = "captioned""#.to_owned(),
                    format!("url = {}         # a caption file beside a folder of images", quoted(source)),
                ]);
                lines.extend(options);
                lines.push(r#"image_folder = "images""#.to_owned());
            }
        }
        let shards = if *kind == Kind::Skyscript { 256 } else { 8 };
        lines.extend([
            String::new(),
            "[work]".to_owned(),
            format!("url = {}           # from this file's folder; or s3://…, gs://…, az://…", quoted(work)),
            format!("shards = {shards}"),
        ]);
        if *kind == Kind::Captioned {
            lines.extend([
                String::new(),
                "[split]".to_owned(),
                "val_share = 0.1          # where the folder names no validation images".to_owned(),
            ]);
        }
        lines.push(String::new());
        lines.extend(self.methods().iter().map(|line| (*line).to_owned()));
        lines.join("\n") + "\n"
    }

    fn methods(&self) -> Vec<&'static str> {
        let captions = match (self.kind, self.scale) {
            (Kind::Captioned, _) => vec!["[caption]", r#"captioner = "given""#, ""],
            (Kind::Skyscript, Scale::Light) => vec![],
            (Kind::Skyscript, Scale::Paper) => vec![
                "[caption]",
                r#"captioner = "instructblip""#,
                "",
                "[caption.instructblip]",
                r#"weights = "Salesforce/instructblip-vicuna-7b""#,
                "",
            ],
        };
        let rest = match self.scale {
            Scale::Light => vec![
                "[score]",
                r#"clip = "bootstrap"       # a short training of its own scores segments"#,
                "",
                "[model]",
                r#"preset = "small""#,
                r#"tokenizer = "train""#,
                "",
                "[pretrain]",
                "epochs = 15",
                "batch = 64",
                "learning_rate = 1e-3",
                "segments_per_image = 1",
            ],
            Scale::Paper => vec![
                "[segment]",
                r#"segmenter = "sam""#,
                "",
                "[segment.sam]",
                r#"weights = "facebook/sam-vit-huge""#,
                "",
                "[score]",
                r#"clip = "openai/clip-vit-large-patch14""#,
                "max_segments = 6",
                "min_similarity = 0.2",
                "min_area_share = 0.005",
                "",
                "[model]",
                r#"preset = "vit-l-14""#,
                r#"init = "openai/clip-vit-large-patch14""#,
                r#"tokenizer = "openai/clip-vit-large-patch14""#,
                r#"device = "cuda:0""#,
                r#"precision = "bf16""#,
                "",
                "[pretrain]",
                "epochs = 15",
                "batch = 40",
                "learning_rate = 1e-5",
                r#"schedule = "step"       # x 0.3 every 10 epochs"#,
                "warmup_share = 0.0",
                "segments_per_image = 6",
                "recompute_activations = true   # changes no number: memory of one block instead of all",
            ],
        };
        [captions, rest].concat()
    }

    /// What has to be known to a program that reads these stores, as names of environment variables with their use.
    pub fn credentials(&self) -> Vec<(&'static str, &'static str)> {
        let mut needed = Vec::new();
        let uses = |scheme: &str| {
            self.work.starts_with(scheme) || (self.source.starts_with(scheme) && self.source != SKYSCRIPT)
        };
        if uses("s3://") {
            needed.push((
                "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY",
                "S3; AWS_REGION and AWS_ENDPOINT where they are not in the spec",
            ));
        }
        if uses("gs://") {
            needed.push(("GOOGLE_SERVICE_ACCOUNT", "a key file of Google Cloud Storage"));
        }
        if uses("az://") {
            needed.push(("AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY", "Azure Blob Storage"));
        }
        if self.scale == Scale::Paper {
            needed.push(("HF_TOKEN", "the hub, only for gated weights"));
        }
        needed
    }
}

/// Writes a spec, if it is one and nothing is in its place.
///
/// # Errors
/// [`WorkerError::Configuration`] for answers that make no spec, with the field, and for a file that is there.
pub fn write(answers: &Answers, path: &Path) -> Result<(), WorkerError> {
    let text = answers.spec_text();
    let refuse = |why: String| WorkerError::Configuration(why);
    let spec = BuildSpec::parse(&text, &path.display().to_string(), &[]).map_err(|error| refuse(error.to_string()))?;
    crate::preflight::country_code(&spec)?;
    let file = std::fs::OpenOptions::new().write(true).create_new(true).open(path);
    let mut file = file.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            refuse(format!("{} is there already; give another name with --output, or remove it first", path.display()))
        }
        _ => WorkerError::of_io(path, &error),
    })?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|error| {
        // half a spec would stand in the way of another try
        _ = std::fs::remove_file(path);
        WorkerError::of_io(path, &error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(kind: Kind, scale: Scale) -> Answers {
        let (code, source) = match kind {
            Kind::Skyscript => ("FI".to_owned(), SKYSCRIPT.to_owned()),
            Kind::Captioned => (String::new(), "images of \"ours\"".to_owned()),
        };
        Answers { country: "finland".into(), code, kind, source, work: "s3://bucket/work".into(), scale }
    }

    #[test]
    fn every_answer_makes_a_spec_that_says_what_was_answered() {
        for kind in [Kind::Skyscript, Kind::Captioned] {
            for scale in [Scale::Light, Scale::Paper] {
                let answers = answers(kind, scale);
                let spec = BuildSpec::parse(&answers.spec_text(), "build.toml", &[]).unwrap();
                assert_eq!((&spec.country, &spec.source.url), (&answers.country, &answers.source));
                assert_eq!(spec.model.preset.name() == "vit-l-14", scale == Scale::Paper);
            }
        }
    }

    /// Whoever answers gets what the specs that come along say.
    #[test]
    fn finland_is_the_finland_of_the_manifests() {
        for (scale, manifest) in [(Scale::Light, "light/countries"), (Scale::Paper, "countries")] {
            let path = format!("{}/../manifests/{manifest}/finland.toml", env!("CARGO_MANIFEST_DIR"));
            let work = ["work.url=\"work\"".to_owned()];
            let known = BuildSpec::parse(&std::fs::read_to_string(&path).unwrap(), &path, &work).unwrap();
            let made = BuildSpec::parse(&answers(Kind::Skyscript, scale).spec_text(), "build.toml", &work).unwrap();
            assert_eq!(made.to_toml(), known.to_toml(), "{manifest}");
        }
    }

    #[test]
    fn credentials_are_those_of_the_stores_and_the_hub() {
        let names =
            |answers: &Answers| -> Vec<&str> { answers.credentials().into_iter().map(|(name, _)| name).collect() };
        // SkyScript itself is open to everybody
        let light = answers(Kind::Skyscript, Scale::Light);
        assert_eq!(names(&light), ["AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"]);
        assert!(names(&Answers { work: "work".into(), ..light }).is_empty());
        assert_eq!(names(&Answers { work: "gs://b".into(), ..answers(Kind::Captioned, Scale::Paper) }).len(), 2);
    }

    /// Keys are asked for only where they are used.
    #[test]
    fn a_bucket_is_read_by_whoever_has_the_keys_and_skyscript_by_everybody() {
        let signed = Some(false);
        for (source, anonymous) in
            [(SKYSCRIPT, None), ("images", None), ("https://h/x", None), ("s3://b/x", signed), ("gs://b", signed)]
        {
            for kind in [Kind::Skyscript, Kind::Captioned] {
                let answers = Answers { source: source.into(), ..answers(kind, Scale::Light) };
                let spec = BuildSpec::parse(&answers.spec_text(), "build.toml", &[]).unwrap();
                assert_eq!(spec.source.options.anonymous, anonymous, "{source}");
            }
        }
    }

    #[test]
    fn nothing_is_overwritten_and_nothing_written_that_is_no_spec() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("build.toml");
        let wrong = Answers { country: "No Land".into(), ..answers(Kind::Skyscript, Scale::Light) };
        let of_two_lines = Answers { country: "fin\nland".into(), ..answers(Kind::Skyscript, Scale::Light) };
        for wrong in [&wrong, &of_two_lines] {
            assert!(write(wrong, &path).unwrap_err().to_string().contains("country = "));
        }
        let nowhere = Answers { code: "ZZ".into(), ..answers(Kind::Skyscript, Scale::Light) };
        assert!(write(&nowhere, &path).unwrap_err().to_string().contains("no country has it"));
        assert!(!path.exists());
        let right = answers(Kind::Skyscript, Scale::Light);
        write(&right, &path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), right.spec_text());
        assert!(write(&right, &path).unwrap_err().to_string().contains("already"));
    }
}

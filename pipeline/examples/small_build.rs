//! A small build as a library: a folder of captioned pictures in, tables out, and one of them read back.
//!
//! `cargo run -p pipeline --example small_build -- FOLDER` makes the pictures in the folder, and the tables beside them.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use manifests::{Artifact, BuildSpec};
use pipeline::build::Build;
use pipeline::preview::preview;
use pipeline::progress::Progress;
use pipeline::run::run;
use pipeline::run_options::RunOptions;
use stages::table::Columns;
use workers::parts::PartReader;

/// What the build is, as in a file of `manifests/`.
const SPEC: &str = r#"
country = "fields"
source = { kind = "captioned", url = "SOURCE" }
work = { url = "WORK", shards = 2 }
caption = { captioner = "given" }
segment = { segmenter = "none" }
model = { preset = "tiny" }
pretrain = { batch = 4 }
"#;

/// Twelve pictures of one colour each, and a caption file beside them.
pub(crate) fn make_pictures(folder: &Path) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(folder.join("images"))?;
    let mut captions = "image_name,description,split\n".to_owned();
    for (number, split) in (0..12u8).zip(["train", "train", "val", "test"].into_iter().cycle()) {
        let pixel = [20 * number, 128, 255 - 20 * number];
        let picture = pixels::Rgb::new(64, 64, pixel.repeat(64 * 64))?;
        std::fs::write(folder.join(format!("images/{number}.png")), pixels::encode_png(&picture))?;
        captions += &format!("{number}.png,a field with crop number {number},{split}\n");
    }
    Ok(std::fs::write(folder.join("captions.csv"), captions)?)
}

/// Builds as far as the captions, and returns them by image.
pub(crate) async fn captions_of(folder: &Path) -> Result<BTreeMap<String, Vec<String>>, Box<dyn Error>> {
    let address = |name: &str| folder.join(name).display().to_string();
    let text = SPEC.replace("SOURCE", &address("pictures")).replace("WORK", &address("work"));
    let mut build = Build::open(BuildSpec::parse(&text, "the example's spec", &[])?, Arc::default()).await?;
    for line in preview(&mut build, false, false).await? {
        println!("{:20} {:4} rows to compute", line.step, line.rows);
    }
    let options = RunOptions { until: Some("captions".to_owned()), ..RunOptions::default() };
    run(&mut build, &options, &Progress::new(true)).await?;

    let mut captions = BTreeMap::new();
    for part in build.pin(Artifact::Captions).await?.parts {
        let batch =
            PartReader::open(&build.work, Artifact::Captions, &part).await?.read(&["image_id", "captions"]).await?;
        let columns = Columns::new(Artifact::Captions, &batch);
        let ids = columns.text("image_id")?.iter().flatten().map(str::to_owned);
        captions.extend(ids.zip(columns.texts("captions")?));
    }
    Ok(captions)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("name a folder for pictures and tables")?;
    make_pictures(&Path::new(&folder).join("pictures"))?;
    for (image, captions) in captions_of(Path::new(&folder)).await? {
        println!("{image}: {}", captions.join(" / "));
    }
    Ok(())
}

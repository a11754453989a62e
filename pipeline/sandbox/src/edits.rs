//! Edits of the map, as replication tells them: diffs after an extract, and the extract as it is afterwards.

mod planet;

use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::archive::Staged;
use crate::dice::Dice;
use crate::error::SandboxError;
use crate::extract::{Extract, FIRST_SEQUENCE, moment_of};
use crate::noise::hash;
use crate::refresh::{ADDITIONS, NEW_OBJECTS, choose, correct, stem};
use crate::scene::{Tags, tags};
use planet::{Body, Id, Planet};

/// What a diff of a world holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapEdits {
    /// Images whose own object was edited, sorted.
    pub images: Vec<String>,
    /// Of these, those whose object was deleted.
    pub deleted: Vec<String>,
    /// Number of the diff.
    pub sequence: u64,
    /// The extract as it is afterwards.
    pub extract: PathBuf,
    /// Objects that the diff tells of.
    pub objects: usize,
}

/// Edits the map around a share of the images of the three countries: `replication/` gets one more diff, and
/// `extract-N.osm` (and `.osm.pbf`) is the map as it is afterwards. Tables, archives and the first extract do not change.
/// Deterministic in the files and `seed`.
///
/// # Errors
/// [`SandboxError::Setting`] for a share outside 0-1, [`SandboxError::Damaged`] if `out` is no sandbox,
/// [`SandboxError::Storage`] if the disk refuses.
pub fn edit_map(out: &Path, share: f64, seed: u64) -> Result<MapEdits, SandboxError> {
    if !(0.0..=1.0).contains(&share) {
        return Err(SandboxError::Setting { name: "share", value: share.to_string(), limits: "0..=1" });
    }
    let images = choose(out, share, seed)?;
    let mut edits = 0;
    while extract_path(out, edits + 1).is_file() {
        edits += 1;
    }
    let mut planet = Planet::read(&extract_path(out, edits))?;
    let sequence = FIRST_SEQUENCE + edits + 1;
    planet.begin(sequence);
    let mut deleted = Vec::new();
    for image in &images {
        let digest = image.bytes().fold(edits, |digest, byte| hash(31, digest, u64::from(byte)));
        if edit_around(&mut planet, image, &mut Dice::new(seed, digest)) {
            deleted.push(image.clone());
        }
    }
    // far from everything, and of no interest
    planet.create(Body::Node((12.5, -34.5)), tags(&[("natural", "tree")]));
    let objects = planet.changed();
    let [diff, state_of_diff, state] = stage_diff(out, edits + 1, &planet)?;
    let extract = extract_path(out, edits + 1);
    let mut writer = Extract::create(&extract, edits + 1)?;
    writer.put(&planet.elements())?;
    let [packed, plain] = writer.complete()?;
    // the next edit starts from the last extract, and readers ask for no diff that the state does not name: whoever is
    // interrupted before the extract has its name makes the same diff again, and nobody has read it
    for file in [diff, state_of_diff, packed, plain, state] {
        file.publish()?;
    }
    Ok(MapEdits { images, deleted, sequence, extract, objects })
}

/// What edits of the map have left in a folder: `replication`, and the extracts after them.
pub(crate) fn left_in(out: &Path) -> impl Iterator<Item = PathBuf> {
    let is_extract = |name: &str| {
        let number = name.strip_prefix("extract-").map(|rest| rest.strip_suffix(".pbf").unwrap_or(rest));
        number.and_then(|rest| rest.strip_suffix(".osm")).is_some_and(|number| number.parse::<u64>().is_ok())
    };
    let entries = std::fs::read_dir(out).into_iter().flatten().flatten();
    let is_left = move |name: &str| name == "replication" || is_extract(name);
    entries.filter(move |entry| entry.file_name().to_str().is_some_and(is_left)).map(|entry| entry.path())
}

fn extract_path(out: &Path, edits: u64) -> PathBuf {
    if edits == 0 { out.join("extract.osm") } else { out.join(format!("extract-{}.osm", FIRST_SEQUENCE + edits)) }
}

/// Objects of the tile of an image: their numbers follow each other.
fn tile_of(planet: &Planet, centre: u64) -> Vec<Id> {
    let first = centre - (centre - 100_000_000) % 256;
    let tile = || first..first + 256;
    planet.between(false, tile()).chain(planet.between(true, tile())).filter(|id| id.1 != centre).collect()
}

/// Another mapper's view of the same place; whether the image's own object is gone.
fn edit_around(planet: &mut Planet, image: &str, dice: &mut Dice) -> bool {
    let (kind, number) = stem(image).split_at(1);
    let Ok(number) = number.split('_').next().unwrap_or_default().parse::<u64>() else { return false };
    let centre: Id = (kind != "n", number);
    let around = tile_of(planet, number);
    let any = |dice: &mut Dice| match around.len() {
        0 => None,
        count => around.get(dice.whole(0, count as u32 - 1) as usize).copied(),
    };
    if dice.chance(0.5)
        && let Some(id) = any(dice)
    {
        planet.retag(id, correct);
    }
    if dice.chance(0.2)
        && let Some(id) = any(dice)
    {
        planet.delete(id);
    }
    if dice.chance(0.25)
        && let Some(id) = any(dice)
    {
        let by = (f64::from(dice.range(-5e-6, 5e-6)), f64::from(dice.range(-5e-6, 5e-6)));
        planet.shift(id, by);
    }
    if dice.chance(0.4)
        && let Some((lon, lat)) = planet.place(centre)
    {
        let near =
            |dice: &mut Dice| (lon + f64::from(dice.range(-2e-5, 2e-5)), lat + f64::from(dice.range(-1e-5, 1e-5)));
        let new = tags(dice.choose(&NEW_OBJECTS));
        let body = match dice.chance(0.5) {
            true => Body::Node(near(dice)),
            false => {
                let nodes = (0..3).map(|_| planet.create(Body::Node(near(dice)), Tags::new()).1).collect();
                Body::Way(nodes)
            }
        };
        planet.create(body, new);
    }
    // a key that says nothing of what is to be seen
    if dice.chance(0.2) {
        planet.retag(centre, |tags| _ = tags.insert("source:date".into(), "2026-01".into()));
    }
    if dice.chance(0.04) {
        planet.delete(centre);
        return true;
    }
    let (key, values) = dice.choose(&ADDITIONS);
    let first = usize::from(dice.chance(0.5));
    let is_corrected = dice.chance(0.5);
    planet.retag(centre, |tags| {
        if is_corrected {
            correct(tags);
        }
        let other = if tags.get(key).map(String::as_str) == Some(values[first]) { 1 - first } else { first };
        tags.insert(key.to_owned(), values[other].to_owned());
    });
    false
}

/// The diff, its own state, and the state that names it as the last one.
fn stage_diff(out: &Path, edits: u64, planet: &Planet) -> Result<[Staged; 3], SandboxError> {
    let (sequence, moment) = moment_of(edits);
    let root = out.join("replication");
    let folder = root.join(format!("{:03}/{:03}", sequence / 1_000_000, sequence / 1000 % 1000));
    std::fs::create_dir_all(&folder).map_err(SandboxError::storage(&folder))?;
    let state = format!("sequenceNumber={sequence}\ntimestamp={}\n", moment.replace(':', "\\:"));
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    let text = planet.diff().map_err(|error| SandboxError::encode("a diff", error))?;
    packed.write_all(&text).map_err(|error| SandboxError::encode("a diff", error))?;
    let packed = packed.finish().map_err(|error| SandboxError::encode("a diff", error))?;
    let stage = |path: PathBuf, bytes: &[u8]| -> Result<Staged, SandboxError> {
        let (staged, mut writer) = Staged::create(&path)?;
        writer.write_all(bytes).map_err(SandboxError::storage(&path))?;
        staged.complete(writer)?;
        Ok(staged)
    };
    Ok([
        stage(folder.join(format!("{:03}.osc.gz", sequence % 1000)), &packed)?,
        stage(folder.join(format!("{:03}.state.txt", sequence % 1000)), state.as_bytes())?,
        stage(root.join("state.txt"), state.as_bytes())?,
    ])
}

//! A geo-tag refresh: other tags and titles for some images; pictures and boxes stay.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use zip::ZipArchive;

use crate::archive::{Archive, Staged};
use crate::country::all;
use crate::dice::Dice;
use crate::error::SandboxError;
use crate::meta::{MOST_BYTES, Meta};
use crate::noise::hash;
use crate::scene::{Tags, tags};
use crate::tables::{LAYOUTS, retitle};
use crate::{PARTS, ZIP64_META};

/// What mappers correct about an object: key, old value, new value.
const CORRECTIONS: [(&str, &str, &str); 8] = [
    ("building", "house", "detached"),
    ("building", "industrial", "warehouse"),
    ("building", "apartments", "residential"),
    ("highway", "residential", "living_street"),
    ("highway", "tertiary", "secondary"),
    ("landuse", "farmland", "meadow"),
    ("natural", "wood", "scrub"),
    ("surface", "asphalt", "concrete"),
];

/// What mappers add: every key shows in a title, every key has two values to choose from.
pub(crate) const ADDITIONS: [(&str, [&str; 2]); 4] = [
    ("lit", ["yes", "no"]),
    ("access", ["private", "permissive"]),
    ("material", ["concrete", "metal"]),
    ("fence_type", ["wire", "wood"]),
];

/// Objects that appear beside the focus.
pub(crate) const NEW_OBJECTS: [&[(&str, &str)]; 5] = [
    &[("barrier", "fence"), ("material", "wood")],
    &[("highway", "footway"), ("surface", "gravel")],
    &[("building", "shed")],
    &[("amenity", "charging_station")],
    &[("tourism", "picnic_site")],
];

/// Rewrites the tags and titles of a share of the images of the three countries, in place:
/// meta archives and tables change, image archives, boxes, times and the OSM extract do not.
/// Deterministic in the files and `seed`. All files are written beside the old ones first and
/// renamed last. Returns the changed image ids (`a198234555_DE_19`), sorted; a share above 0
/// changes at least one.
///
/// # Errors
/// [`SandboxError::Setting`] for a share outside 0-1, [`SandboxError::Damaged`] if `out` is no
/// sandbox, [`SandboxError::Storage`] if the disk refuses.
pub fn edit_tags(out: &Path, share: f64, seed: u64) -> Result<Vec<String>, SandboxError> {
    if !(0.0..=1.0).contains(&share) {
        return Err(SandboxError::Setting { name: "share", value: share.to_string(), limits: "0..=1" });
    }
    let chosen = choose(out, share, seed)?;
    let mut staged = Vec::new();
    let mut refreshed = BTreeMap::new();
    for part in PARTS {
        staged.extend(rewrite_part(out, part, seed, &chosen, &mut refreshed)?);
    }
    if !chosen.is_empty() {
        for layout in LAYOUTS {
            staged.push(retitle(out, layout, |filepath| refreshed.get(stem(filepath)))?);
        }
    }
    for file in staged {
        file.publish()?;
    }
    Ok(chosen)
}

/// `a198234555_DE_19` of `images2/a198234555_DE_19.jpg`.
pub(crate) fn stem(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.split('.').next().unwrap_or(name)
}

fn meta_path(out: &Path, part: &str) -> std::path::PathBuf {
    out.join(format!("meta{part}.zip"))
}

fn open(path: &Path) -> Result<ZipArchive<BufReader<File>>, SandboxError> {
    let file = File::open(path).map_err(SandboxError::storage(path))?;
    ZipArchive::new(BufReader::new(file)).map_err(|error| SandboxError::damaged(path, error))
}

fn names(path: &Path, archive: &ZipArchive<BufReader<File>>) -> Result<Vec<String>, SandboxError> {
    archive
        .file_names()
        .map(|name| name.map(|name| name.into_owned()).map_err(|error| SandboxError::damaged(path, error)))
        .collect()
}

/// The images to change, sorted by id.
pub(crate) fn choose(out: &Path, share: f64, seed: u64) -> Result<Vec<String>, SandboxError> {
    // some files may be of the world before
    let begun = out.join("extract.osm.partial");
    if begun.exists() {
        return Err(SandboxError::damaged(&begun, "the world was stopped while it was made"));
    }
    let mut ids = Vec::new();
    for part in PARTS {
        let path = meta_path(out, part);
        let wanted = |name: &String| {
            name.ends_with(".pickle") && all().iter().any(|country| name.contains(&format!("_{}_", country.source)))
        };
        let names = names(&path, &open(&path)?)?;
        ids.extend(names.iter().filter(|name| wanted(name)).map(|name| stem(name).to_owned()));
    }
    ids.sort();
    let count = (share * ids.len() as f64).round() as usize;
    let count = if share > 0.0 { count.max(1) } else { count };
    let order = Dice::new(seed, hash(21, 0, 0)).shuffled(ids.len());
    let mut chosen: Vec<String> = order.into_iter().take(count).map(|index| ids[index].clone()).collect();
    chosen.sort();
    Ok(chosen)
}

/// Copies a meta archive, with new pickles for the chosen images; `None` if it has none of them.
fn rewrite_part(
    out: &Path,
    part: &str,
    seed: u64,
    chosen: &[String],
    refreshed: &mut BTreeMap<String, Meta>,
) -> Result<Option<Staged>, SandboxError> {
    let path = meta_path(out, part);
    let damaged = |reason: String| SandboxError::damaged(&path, reason);
    let mut source = open(&path)?;
    let is_chosen = |name: &str| chosen.binary_search_by(|id| id.as_str().cmp(stem(name))).is_ok();
    let names = names(&path, &source)?;
    if !names.iter().any(|name| is_chosen(name)) {
        return Ok(None);
    }
    let mut target = Archive::create(&path, None, ZIP64_META == part)?;
    for (index, name) in names.iter().enumerate() {
        let member = source.by_index_raw(index).map_err(|error| damaged(error.to_string()))?;
        if !is_chosen(name) {
            target
                .zip()
                .raw_copy_file(member)
                .map_err(|error| SandboxError::zip(&path, format!("{name} of {}", path.display()), error))?;
            continue;
        }
        let deflated = member.compression() == zip::CompressionMethod::Deflated;
        drop(member);
        let member = source.by_index(index).map_err(|error| damaged(error.to_string()))?;
        let mut bytes = Vec::new();
        member.take(MOST_BYTES).read_to_end(&mut bytes).map_err(|error| damaged(format!("{name}: {error}")))?;
        let old = Meta::decode(&bytes).map_err(|reason| damaged(format!("{name}: {reason}")))?;
        let id = stem(name).to_owned();
        let digest = id.bytes().fold(0, |digest, byte| hash(22, digest, u64::from(byte)));
        let new = refresh(&old, &mut Dice::new(seed, digest));
        let bytes = new.encode().ok_or_else(|| damaged(format!("{name}: protocol {}", new.protocol)))?;
        target.put(name, &bytes, deflated)?;
        refreshed.insert(id, new);
    }
    target.complete().map(Some)
}

/// Another mapper's view of the same place. The focus always reads differently afterwards.
fn refresh(meta: &Meta, dice: &mut Dice) -> Meta {
    let mut new = meta.clone();
    if dice.chance(0.5) {
        correct(&mut new.center);
    }
    for object in &mut new.surrounding {
        if dice.chance(0.25) {
            correct(object);
        }
    }
    if new.surrounding.len() > 1 && dice.chance(0.5) {
        let gone = dice.whole(0, new.surrounding.len() as u32 - 1) as usize;
        new.surrounding.remove(gone);
    }
    if dice.chance(0.5) {
        new.surrounding.insert(0, tags(dice.choose(&NEW_OBJECTS)));
    }
    let (key, values) = dice.choose(&ADDITIONS);
    let first = usize::from(dice.chance(0.5));
    let other = if new.center.get(key).map(String::as_str) == Some(values[first]) { 1 - first } else { first };
    new.center.insert(key.to_owned(), values[other].to_owned());
    new
}

pub(crate) fn correct(tags: &mut Tags) {
    for (key, old, new) in CORRECTIONS {
        if let Some(value) = tags.get_mut(key)
            && value == old
        {
            *value = new.to_owned();
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::titles;

    #[test]
    fn a_refresh_always_changes_both_titles_and_never_the_box() {
        for (index, (key, values)) in ADDITIONS.iter().enumerate() {
            assert!(titles::ATTRIBUTES.contains(key), "{key} must show in a title");
            for value in values {
                for seed in 0..20 {
                    let old = Meta {
                        box_key: "box".into(),
                        bounds: [1.0, 2.0, 3.0, 4.0],
                        time: vec![2019],
                        center: tags(&[("building", "house"), (key, value)]),
                        surrounding: vec![tags(&[("highway", "track")]); 3],
                        protocol: 2,
                    };
                    let new = refresh(&old, &mut Dice::new(seed, index as u64));
                    assert_ne!(titles::describe(&old.center), titles::describe(&new.center));
                    assert_eq!((new.bounds, new.time, new.protocol), (old.bounds, old.time, 2));
                }
            }
        }
    }
}

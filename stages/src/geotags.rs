//! Stage `geotags`: what is known about an image besides its pixels. Reads the meta record, checks
//! that the image lies in the country and is fine enough, and keeps tags in canonical form.

use arrow::array::StringArray;
use manifests::spec::SourceKind;
use manifests::{Artifact, BuildSpec, digest};
use rayon::prelude::*;
use sources::country::CountryPolygons;
use sources::geotiff::{GroundBox, ground_of};
use sources::meta::{Meta, Time};
use sources::name::{ImageName, OsmKind};

use crate::stage::{
    Input, InputRows, MapOutput, ModelUse, Outcome, SourceBytes, Stage, StageContext, StageError, Transform,
};
use crate::table::{self, Columns, TableError, option_text};
use crate::tag_refreshes::{self, Refresh};

const NAME: &str = "geotags";

/// Tags, box, time and ground resolution of each image, from its meta record.
pub fn stage() -> Stage {
    Stage {
        name: NAME,
        version: 1,
        inputs: &[
            Input {
                artifact: Artifact::Listing,
                digests: &["text_digest", "meta_digest"],
                columns: &["filepath", "title", "title_multi_objects", "given_captions", "given_split"],
            },
            tag_refreshes::INPUT,
        ],
        output: Artifact::Geotags,
        source: Some(SourceBytes::Meta),
        model: ModelUse::None,
        told: None,
        recipe_digest: None,
        parameters: |spec| {
            let mut parameters = serde_json::json!({
                "kind": spec.source.kind,
                "country_code": spec.source.country_code,
                // the listing and `images` go by it, this stage does not: rows keep the default in their recipe
                "max_gsd_meters": 0.5,
                "meta": spec.source.meta,
            });
            if spec.source.georeferenced {
                parameters["georeferenced"] = true.into();
            }
            parameters
        },
        open,
    }
}

fn open(context: &StageContext<'_>) -> Result<Box<dyn Transform>, StageError> {
    let polygons = CountryPolygons::new().map_err(|e| StageError::Configuration { stage: NAME, why: e.to_string() })?;
    Ok(Box::new(ReadGeotags { spec: context.spec.clone(), polygons }))
}

struct ReadGeotags {
    spec: BuildSpec,
    polygons: CountryPolygons,
}

/// One image's row.
#[derive(Default)]
struct Known {
    name: Option<ImageName>,
    meta: Option<Meta>,
    gsd_meters: Option<f64>,
    /// West, south, east, north of a picture that says so itself.
    ground: Option<GroundBox>,
    /// The tags are others than those that the titles were made of.
    is_refreshed: bool,
}

impl Known {
    fn ground(&self) -> Option<GroundBox> {
        self.meta.as_ref().map(|meta| meta.box_wsen).or(self.ground)
    }

    /// With the tags that OpenStreetMap has now, instead of those of the meta record.
    fn refreshed(mut self, refresh: Option<&Refresh>) -> Result<Known, Outcome> {
        let Some(refresh) = refresh else { return Ok(self) };
        let tags = match refresh {
            Refresh::Tags(tags) => tags,
            Refresh::Gone(why) => return Err(Outcome::Excluded(why.clone())),
            Refresh::Broken(why) => return Err(Outcome::Failed(why.clone())),
        };
        if let Some(meta) = &mut self.meta {
            let refreshed =
                Meta { center_tags: tags.center.clone(), surrounding_tags: tags.surrounding.clone(), ..meta.clone() };
            self.is_refreshed = refreshed.canonical_tags() != meta.canonical_tags();
            *meta = refreshed;
        }
        Ok(self)
    }
}

impl ReadGeotags {
    /// `Err`: failed or excluded.
    fn read(&self, filepath: &str, source: Option<&Result<Vec<u8>, String>>) -> Result<Known, Outcome> {
        let failed = |why: String| Outcome::Failed(why);
        if self.spec.source.kind == SourceKind::Captioned {
            // the listing names bytes of pictures that may say where they lie, and of no others
            let ground = match source {
                None => None,
                Some(Err(why)) => return Err(failed(why.clone())),
                Some(Ok(bytes)) => ground_of(bytes).map_err(failed)?,
            };
            return Ok(Known { ground, ..Known::default() });
        }
        let name = ImageName::parse(filepath).map_err(|e| failed(e.to_string()))?;
        let gsd_meters = name.source().map(|s| s.gsd_meters);
        if !self.spec.source.meta {
            return Ok(Known { name: Some(name), gsd_meters, ..Known::default() });
        }
        let bytes = match source {
            None => return Err(failed(format!("no meta record {}", name.meta_path()))),
            Some(Err(why)) => return Err(failed(why.clone())),
            Some(Ok(bytes)) => bytes,
        };
        let meta = Meta::from_pickle(bytes).map_err(|e| failed(e.to_string()))?;
        let wanted = &self.spec.source.country_code;
        if !wanted.is_empty() {
            match self.polygons.country_of(&name.source, meta.box_wsen) {
                Ok(country) if country == *wanted => {}
                Ok(country) => return Err(Outcome::Excluded(format!("its box lies in {country}"))),
                Err(reason) => return Err(Outcome::Excluded(reason.to_string())),
            }
        }
        Ok(Known { name: Some(name), meta: Some(meta), gsd_meters, ..Known::default() })
    }
}

impl Transform for ReadGeotags {
    fn transform(&mut self, rows: &InputRows) -> Result<MapOutput, StageError> {
        self.map_table(rows).map_err(|source| StageError::Table { stage: NAME, source })
    }
}

impl ReadGeotags {
    fn map_table(&self, rows: &InputRows) -> Result<MapOutput, TableError> {
        let listing = Columns::new(Artifact::Listing, &rows.tables[&Artifact::Listing]);
        let filepath = listing.text("filepath")?;
        let refreshes = tag_refreshes::read(rows)?;
        let refresh = |row: usize| refreshes.get(row).and_then(Option::as_ref);
        let known: Vec<Result<Known, Outcome>> = (0..rows.len())
            .into_par_iter()
            .map(|row| self.read(filepath.value(row), rows.source[row].as_ref())?.refreshed(refresh(row)))
            .collect();
        let outcomes = known.iter().map(|k| k.as_ref().err().cloned().unwrap_or(Outcome::Good)).collect();
        let (title, multi) = (listing.text("title")?, listing.text("title_multi_objects")?);
        let captions = listing.texts("given_captions")?;
        let good = || known.iter().enumerate().map(|(row, k)| (row, k.as_ref().ok()));
        let name = |of: fn(&ImageName) -> String| table::texts(good().map(move |(_, k)| k?.name.as_ref().map(of)));
        let edge = |side: usize| table::float64s(good().map(move |(_, k)| k?.ground().map(|ground| ground[side])));
        let listed = |column: &str| -> Result<_, TableError> {
            let array = listing.text(column)?;
            Ok(table::texts(good().map(|(row, k)| k.and_then(|_| option_text(array, row)))))
        };
        // a title tells the tags that it was made of; where they are others by now it would be wrong
        let of_tags = |array: &'_ StringArray, row: usize, k: &Known| {
            option_text(array, row).filter(|_| !k.is_refreshed).map(str::to_owned)
        };
        let titled = |array: &StringArray| table::texts(good().map(|(row, k)| k.and_then(|k| of_tags(array, row, k))));
        let meta_text = |of: fn(&Meta) -> String| table::texts(good().map(move |(_, k)| k?.meta.as_ref().map(of)));
        let tags_digest = |row: usize, k: &Known| {
            let tags = k.meta.as_ref().map(Meta::canonical_tags);
            digest::of_value(&(tags, of_tags(title, row, k), of_tags(multi, row, k), &captions[row]))
        };
        let columns = vec![
            listed("filepath")?,
            name(|n| n.source.clone()),
            name(|n| kind_letter(n.osm_kind).to_owned()),
            table::int64s(good().map(|(_, k)| k?.name.as_ref().map(|n| n.osm_id as i64))),
            table::int32s(good().map(|(_, k)| k?.name.as_ref().map(|n| i32::from(n.calendar_year())))),
            titled(title),
            titled(multi),
            table::text_lists(&good().map(|(row, k)| k.map(|_| captions[row].clone())).collect::<Vec<_>>())?,
            listed("given_split")?,
            edge(0),
            edge(1),
            edge(2),
            edge(3),
            table::texts(good().map(|(_, k)| k?.meta.as_ref()?.time.as_ref().map(date))),
            table::float64s(good().map(|(_, k)| k?.gsd_meters)),
            meta_text(|m| digest::canonical_json(&m.center_tags)),
            meta_text(|m| digest::canonical_json(&m.surrounding_tags)),
            table::texts(good().map(|(row, k)| k.map(|k| tags_digest(row, k)))),
            table::texts(good().map(|(_, k)| k.map(|k| digest::of_value(&k.ground())))),
        ];
        Ok(MapOutput { outcomes, content: table::content(Artifact::Geotags, columns)? })
    }
}

/// The letter of image names.
fn kind_letter(kind: OsmKind) -> &'static str {
    match kind {
        OsmKind::Node => "n",
        OsmKind::Way => "w",
        OsmKind::Area => "a",
        OsmKind::Relation => "r",
    }
}

/// `2019`, `2019-07` or `2019-07-31`, as far as it is known.
fn date(time: &Time) -> String {
    let mut text = format!("{:04}", time.year);
    for part in [time.month, time.day].into_iter().map_while(|part| part) {
        text.push_str(&format!("-{part:02}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_fine_pictures_must_be_is_no_matter_of_tags() {
        let of = |set: &str| {
            let text = "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n";
            let spec = BuildSpec::parse(text, "t", &[set.to_owned()]).unwrap();
            (stage().parameters)(&spec)
        };
        // rows of specs that never named it stand
        assert_eq!(of("source.country_code=FI")["max_gsd_meters"], 0.5);
        assert_eq!(of("source.max_gsd_meters=0.5"), of("source.max_gsd_meters=2.0"));
    }
}

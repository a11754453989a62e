//! Image names: `images2/a198234555_CH_19.jpg`.

use std::fmt;

use crate::SourceError;
use crate::source::{Source, source_of};

/// What kind of OpenStreetMap object an image was taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OsmKind {
    /// A point.
    Node,
    /// A line of points.
    Way,
    /// A closed way or multipolygon; OpenStreetMap itself knows no areas.
    Area,
    /// A group of other objects.
    Relation,
}

/// An OpenStreetMap object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OsmObject {
    /// What the number counts: nodes, ways and relations are numbered apart.
    pub kind: OsmKind,
    /// OpenStreetMap's number of the object.
    pub id: u64,
}

impl fmt::Display for OsmObject {
    /// As in image names: `a198234555`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match self.kind {
            OsmKind::Node => 'n',
            OsmKind::Way => 'w',
            OsmKind::Area => 'a',
            OsmKind::Relation => 'r',
        };
        write!(f, "{letter}{}", self.id)
    }
}

/// The parts of an image name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageName {
    /// Folder and archive: `images2`.
    pub part: String,
    /// Stem of the file name: `a198234555_CH_19`.
    pub image_id: String,
    /// What kind of object the image was taken for.
    pub osm_kind: OsmKind,
    /// OpenStreetMap's number of that object.
    pub osm_id: u64,
    /// Token of the imagery source: `CH`.
    pub source: String,
    /// Year of acquisition as in the name: 19.
    pub year: u8,
}

impl ImageName {
    /// Parses the `filepath` of a CSV row or the name of a zip member.
    ///
    /// ```
    /// use sources::name::{ImageName, OsmKind};
    /// let name = ImageName::parse("images2/a198234555_CH_19.jpg")?;
    /// assert_eq!((name.osm_kind, name.osm_id, name.year), (OsmKind::Area, 198_234_555, 19));
    /// assert_eq!(name.meta_path(), "meta2/a198234555_CH_19.pickle");
    /// assert!(ImageName::parse("images2/../a198234555_CH_19.jpg").is_err());
    /// # Ok::<(), sources::SourceError>(())
    /// ```
    ///
    /// # Errors
    /// [`SourceError::ImageName`] with what does not fit.
    pub fn parse(filepath: &str) -> Result<Self, SourceError> {
        Self::parts(filepath)
            .map_err(|problem| SourceError::ImageName { name: filepath.escape_debug().to_string(), problem })
    }

    fn parts(filepath: &str) -> Result<Self, &'static str> {
        let (part, file) = filepath.split_once('/').ok_or("no folder")?;
        let number = part.strip_prefix("images").unwrap_or_default();
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err("the folder is not images and a number");
        }
        let image_id = file.strip_suffix(".jpg").ok_or("not a .jpg")?;
        let mut fields = image_id.split('_');
        let (Some(object), Some(source), Some(year), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err("not three fields joined by `_`");
        };
        let osm = parse_object(object)?;
        if source.len() != 2 || !(source.bytes()).all(|b| b.is_ascii_uppercase() || b.is_ascii_digit()) {
            return Err("the source is not two upper-case letters or digits");
        }
        if year.len() != 2 || !year.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err("the year is not two digits");
        }
        Ok(Self {
            part: part.to_owned(),
            image_id: image_id.to_owned(),
            osm_kind: osm.kind,
            osm_id: osm.id,
            source: source.to_owned(),
            year: year.parse().map_err(|_| "the year is not two digits")?,
        })
    }

    /// Path of the image, as parsed: `images2/a198234555_CH_19.jpg`.
    pub fn image_path(&self) -> String {
        format!("{}/{}.jpg", self.part, self.image_id)
    }

    /// Path of the meta record: `meta2/a198234555_CH_19.pickle`.
    pub fn meta_path(&self) -> String {
        format!("{}/{}.pickle", self.meta_part(), self.image_id)
    }

    /// Folder and archive of the meta record: `meta2`.
    pub fn meta_part(&self) -> String {
        self.part.replacen("images", "meta", 1)
    }

    /// The object that the image was taken for.
    pub fn osm_object(&self) -> OsmObject {
        OsmObject { kind: self.osm_kind, id: self.osm_id }
    }

    /// The imagery source, if SkyScript names it.
    pub fn source(&self) -> Option<&'static Source> {
        source_of(&self.source)
    }

    /// Year of acquisition in full: 2019.
    pub fn calendar_year(&self) -> u16 {
        2000 + u16::from(self.year)
    }
}

fn parse_object(object: &str) -> Result<OsmObject, &'static str> {
    let kind = match object.as_bytes().first() {
        Some(b'n') => OsmKind::Node,
        Some(b'w') => OsmKind::Way,
        Some(b'a') => OsmKind::Area,
        Some(b'r') => OsmKind::Relation,
        _ => return Err("it begins with none of a, w, n, r"),
    };
    let digits = &object[1..];
    // `parse` alone would let a sign pass.
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("the OSM id is not a number");
    }
    let id = digits.parse().map_err(|_| "the OSM id is not a number")?;
    Ok(OsmObject { kind, id })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_all_its_parts() {
        let name = ImageName::parse("images2/a198234555_CH_19.jpg").unwrap();
        assert_eq!(name.part, "images2");
        assert_eq!(name.image_id, "a198234555_CH_19");
        assert_eq!((name.osm_kind, name.osm_id), (OsmKind::Area, 198_234_555));
        assert_eq!((&name.source[..], name.year), ("CH", 19));
        assert_eq!(name.calendar_year(), 2019);
        assert_eq!(name.image_path(), "images2/a198234555_CH_19.jpg");
        assert_eq!(name.meta_path(), "meta2/a198234555_CH_19.pickle");
        assert_eq!(name.osm_object().to_string(), "a198234555");
        assert_eq!(name.source().unwrap().gsd_meters, 0.1);
        for (letter, kind) in [('w', OsmKind::Way), ('n', OsmKind::Node), ('r', OsmKind::Relation)] {
            let name = ImageName::parse(&format!("images7/{letter}1_S2_20.jpg")).unwrap();
            assert_eq!(name.osm_kind, kind);
        }
    }

    #[test]
    fn other_names_are_refused() {
        for bad in [
            "",
            "a1_CH_19.jpg",
            "images/a1_CH_19.jpg",
            "image2/a1_CH_19.jpg",
            "images2/a1_CH_19.png",
            "images2/a1_CH_19",
            "images2/x1_CH_19.jpg",
            "images2/a_CH_19.jpg",
            "images2/a+1_CH_19.jpg",
            "images2/a99999999999999999999_CH_19.jpg",
            "images2/a1_ch_19.jpg",
            "images2/a1_CHE_19.jpg",
            "images2/a1_CH_2019.jpg",
            "images2/a1_CH_+9.jpg",
            "images2/a1_CH_19_x.jpg",
            "images2/../a1_CH_19.jpg",
            "../images2/a1_CH_19.jpg",
            "images2/é1_CH_19.jpg",
        ] {
            let error = ImageName::parse(bad).unwrap_err();
            assert!(matches!(error, SourceError::ImageName { .. }), "{bad}: {error}");
        }
    }
}

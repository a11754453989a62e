//! What addresses say: filters and names, as people or scripts write them. Pure.

use serde::Deserialize;

use crate::ask::{Bounds, ImageName, Narrowed};
use crate::trouble::Trouble;

/// Tags that one search may ask for.
const MOST_TAGS: usize = 16;

/// The filters of a search. Empty is the same as absent: forms send all of their fields.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Filters {
    country: String,
    from_year: String,
    to_year: String,
    least_gsd: String,
    most_gsd: String,
    split: String,
    /// Tags with spaces or commas between them.
    tags: String,
    /// West, south, east, north.
    within: String,
}

impl Filters {
    pub(super) fn read(&self) -> Result<Narrowed, Trouble> {
        let years =
            range(number::<i32>(&self.from_year, "a year")?, number(&self.to_year, "a year")?, i32::MIN, i32::MAX);
        let what = "meters a pixel, such as 0.6";
        let meters = |text: &str| match number::<f64>(text, what)? {
            Some(meters) if !(meters.is_finite() && meters >= 0.0) => {
                Err(Trouble::Refused(format!("{text:?} is not {what}")))
            }
            meters => Ok(meters),
        };
        let gsd_meters = range(meters(&self.least_gsd)?, meters(&self.most_gsd)?, 0.0, f64::MAX);
        if years.is_some_and(|(from, to)| from > to) || gsd_meters.is_some_and(|(least, most)| least > most) {
            return Err(Trouble::Refused("a range ends before it begins".into()));
        }
        let tags: Vec<&str> = self.tags.split([' ', ',', '\n', '\t']).filter(|tag| !tag.is_empty()).collect();
        if tags.len() > MOST_TAGS {
            return Err(Trouble::Refused(format!("{} tags are too many; {MOST_TAGS} may be asked for", tags.len())));
        }
        Ok(Narrowed {
            country: some(&self.country),
            within: bounds(&self.within)?,
            years,
            gsd_meters,
            split: some(&self.split),
            tags: tags.into_iter().map(tag).collect::<Result<_, _>>()?,
        })
    }
}

/// Which image a page is about.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Named {
    country: String,
    id: String,
}

impl From<Named> for ImageName {
    fn from(named: Named) -> Self {
        ImageName { country: named.country, id: named.id }
    }
}

pub(super) fn some(text: &str) -> Option<String> {
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn number<T: std::str::FromStr>(text: &str, what: &str) -> Result<Option<T>, Trouble> {
    let Some(text) = some(text) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| Trouble::Refused(format!("{text:?} is not {what}")))
}

fn range<T>(least: Option<T>, most: Option<T>, lowest: T, highest: T) -> Option<(T, T)> {
    (least.is_some() || most.is_some()).then(|| (least.unwrap_or(lowest), most.unwrap_or(highest)))
}

fn tag(text: &str) -> Result<(String, Option<String>), Trouble> {
    match text.split_once('=').map_or((text, None), |(key, value)| (key, Some(value))) {
        ("", _) | (_, Some("")) => {
            Err(Trouble::Refused(format!("{text:?} is no tag; tags are such as leisure=pitch, or only a key")))
        }
        (key, value) => Ok((key.to_owned(), value.filter(|value| *value != "*").map(str::to_owned))),
    }
}

/// Whether filters read a tag, `key=value`, as it is written: not so with a space or a comma in it, or `*` for its
/// value.
pub fn is_askable(tag: &str) -> bool {
    let Some((key, value)) = tag.split_once('=') else { return false };
    let asked = Filters { tags: tag.to_owned(), ..Filters::default() }.read();
    asked.is_ok_and(|asked| asked.tags == [(key.to_owned(), Some(value.to_owned()))])
}

fn bounds(text: &str) -> Result<Option<Bounds>, Trouble> {
    let Some(text) = some(text) else { return Ok(None) };
    let edges: Option<Vec<f64>> = text.split(',').map(|edge| edge.trim().parse().ok()).collect();
    let fits = |longitude: f64, latitude: f64| longitude.abs() <= 180.0 && latitude.abs() <= 90.0;
    match edges.as_deref() {
        Some(&[west, south, east, north]) if fits(west, south) && fits(east, north) && south <= north => {
            Ok(Some(Bounds { west, south, east, north }))
        }
        _ => Err(Trouble::Refused(format!("{text:?} is no rectangle; it must be west,south,east,north in degrees"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_form_wants_everything() {
        assert_eq!(Filters::default().read(), Ok(Narrowed::default()));
    }

    #[test]
    fn half_a_range_is_open_at_the_other_end() {
        let filters = Filters { from_year: "2018".into(), most_gsd: "0.6".into(), ..Filters::default() };
        let read = filters.read().unwrap();
        assert_eq!((read.years, read.gsd_meters), (Some((2018, i32::MAX)), Some((0.0, 0.6))));
    }

    #[test]
    fn tags_may_be_keys_alone() {
        let filters = Filters { tags: " leisure=pitch, building  name=* ".into(), ..Filters::default() };
        let tags = filters.read().unwrap().tags;
        let expected = [("leisure", Some("pitch")), ("building", None), ("name", None)];
        assert_eq!(tags, expected.map(|(key, value)| (key.to_owned(), value.map(str::to_owned))));
    }

    #[test]
    fn a_tag_can_be_asked_for_if_it_is_read_as_it_is_written() {
        assert!(is_askable("leisure=pitch") && is_askable("surface=a=b"));
        for tag in ["crop=sugar beet", "crop=rye,oat", "crop=rye ", "name=*", "crop=", "=rye", "crop", ""] {
            assert!(!is_askable(tag), "{tag}");
        }
    }

    #[test]
    fn what_is_no_filter_is_refused_in_words() {
        for filters in [
            Filters { from_year: "soon".into(), ..Filters::default() },
            Filters { most_gsd: "fine".into(), ..Filters::default() },
            Filters { least_gsd: "nan".into(), ..Filters::default() },
            Filters { most_gsd: "-1".into(), ..Filters::default() },
            Filters { least_gsd: "inf".into(), ..Filters::default() },
            Filters { from_year: "2020".into(), to_year: "2010".into(), ..Filters::default() },
            Filters { least_gsd: "0.6".into(), most_gsd: "0.5".into(), ..Filters::default() },
            Filters { tags: "=pitch".into(), ..Filters::default() },
            Filters { tags: "leisure=".into(), ..Filters::default() },
            Filters { tags: "a ".repeat(17), ..Filters::default() },
            Filters { within: "1,2,3".into(), ..Filters::default() },
            Filters { within: "1,2,3,nan".into(), ..Filters::default() },
            Filters { within: "1,2,x,3,4".into(), ..Filters::default() },
            Filters { within: "1,3,2,2".into(), ..Filters::default() },
            Filters { within: "181,0,182,1".into(), ..Filters::default() },
        ] {
            assert!(matches!(filters.read(), Err(Trouble::Refused(_))), "{filters:?}");
        }
    }
}

//! What addresses say: filters and names, as people or scripts write them. Pure.

use serde::Deserialize;

use crate::ask::{Bounds, ImageName, Narrowed};
use crate::trouble::Trouble;

/// Tags that one search may ask for.
const MOST_TAGS: usize = 16;

/// Answers of one search, and most that may be asked for.
const SHOWN: usize = 24;
const MOST_SHOWN: usize = 200;

/// What a search asks for. Empty is the same as absent: forms send all of their fields.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Wanted {
    pub(super) text: String,
    /// Id of an image, whose country is in `like_country`.
    pub(super) like: String,
    pub(super) like_country: String,
    pub(super) model: String,
    most: String,
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

impl Wanted {
    /// How many answers.
    pub(super) fn most(&self) -> Result<usize, Trouble> {
        let what = format!("a whole number between 1 and {MOST_SHOWN}");
        let most = number::<usize>("most", &self.most, &what, |most| (1..=MOST_SHOWN).contains(most))?;
        Ok(most.unwrap_or(SHOWN))
    }

    /// The filters.
    pub(super) fn narrowed(&self) -> Result<Narrowed, Trouble> {
        let year = |name: &str, text: &str| number::<i32>(name, text, "a year", |_| true);
        let years = range(year("from_year", &self.from_year)?, year("to_year", &self.to_year)?, i32::MIN, i32::MAX);
        let meters = |name: &str, text: &str| {
            number::<f64>(name, text, "meters a pixel, such as 0.6", |meters| meters.is_finite() && *meters >= 0.0)
        };
        let gsd_meters =
            range(meters("least_gsd", &self.least_gsd)?, meters("most_gsd", &self.most_gsd)?, 0.0, f64::MAX);
        for (is_empty, names) in [
            (years.is_some_and(|(from, to)| from > to), "from_year and to_year"),
            (gsd_meters.is_some_and(|(least, most)| least > most), "least_gsd and most_gsd"),
        ] {
            if is_empty {
                return Err(Trouble::Refused(format!("{names}: the range ends before it begins")));
            }
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

fn number<T: std::str::FromStr>(
    name: &str,
    text: &str,
    what: &str,
    fits: impl FnOnce(&T) -> bool,
) -> Result<Option<T>, Trouble> {
    let Some(text) = some(text) else { return Ok(None) };
    let number = text.parse().ok().filter(fits).map(Some);
    number.ok_or_else(|| Trouble::Refused(format!("{name} = {text:?}: it must be {what}")))
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
    let asked = Wanted { tags: tag.to_owned(), ..Wanted::default() }.narrowed();
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
        _ => Err(Trouble::Refused(format!(
            "within = {text:?}: it must be a rectangle, west,south,east,north in degrees"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_form_wants_everything() {
        assert_eq!(Wanted::default().narrowed(), Ok(Narrowed::default()));
    }

    #[test]
    fn half_a_range_is_open_at_the_other_end() {
        let filters = Wanted { from_year: "2018".into(), most_gsd: "0.6".into(), ..Wanted::default() };
        let read = filters.narrowed().unwrap();
        assert_eq!((read.years, read.gsd_meters), (Some((2018, i32::MAX)), Some((0.0, 0.6))));
    }

    #[test]
    fn tags_may_be_keys_alone() {
        let filters = Wanted { tags: " leisure=pitch, building  name=* ".into(), ..Wanted::default() };
        let tags = filters.narrowed().unwrap().tags;
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
            Wanted { from_year: "soon".into(), ..Wanted::default() },
            Wanted { most_gsd: "fine".into(), ..Wanted::default() },
            Wanted { least_gsd: "nan".into(), ..Wanted::default() },
            Wanted { most_gsd: "-1".into(), ..Wanted::default() },
            Wanted { least_gsd: "inf".into(), ..Wanted::default() },
            Wanted { from_year: "2020".into(), to_year: "2010".into(), ..Wanted::default() },
            Wanted { least_gsd: "0.6".into(), most_gsd: "0.5".into(), ..Wanted::default() },
            Wanted { tags: "=pitch".into(), ..Wanted::default() },
            Wanted { tags: "leisure=".into(), ..Wanted::default() },
            Wanted { tags: "a ".repeat(17), ..Wanted::default() },
            Wanted { within: "1,2,3".into(), ..Wanted::default() },
            Wanted { within: "1,2,3,nan".into(), ..Wanted::default() },
            Wanted { within: "1,2,x,3,4".into(), ..Wanted::default() },
            Wanted { within: "1,3,2,2".into(), ..Wanted::default() },
            Wanted { within: "181,0,182,1".into(), ..Wanted::default() },
        ] {
            assert!(matches!(filters.narrowed(), Err(Trouble::Refused(_))), "{filters:?}");
        }
    }

    #[test]
    fn a_refusal_names_the_parameter_and_what_it_may_be() {
        for most in ["-1", "0", "201", "many", "1.5"] {
            let refused = Wanted { most: most.into(), ..Wanted::default() }.most().unwrap_err().to_string();
            assert_eq!(refused, format!("most = {most:?}: it must be a whole number between 1 and 200"));
        }
        for (most, answers) in [("", SHOWN), (" 3 ", 3), ("200", MOST_SHOWN)] {
            assert_eq!(Wanted { most: most.into(), ..Wanted::default() }.most(), Ok(answers));
        }
        for (filters, words) in [
            (Wanted { to_year: "soon".into(), ..Wanted::default() }, "to_year = \"soon\": it must be a year"),
            (Wanted { least_gsd: "-1".into(), ..Wanted::default() }, "least_gsd = \"-1\": it must be meters a pixel"),
            (Wanted { within: "1,2".into(), ..Wanted::default() }, "within = \"1,2\": it must be a rectangle"),
        ] {
            let refused = filters.narrowed().unwrap_err().to_string();
            assert!(refused.starts_with(words), "{refused}");
        }
    }
}

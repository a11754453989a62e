//! Which country a box lies in: polygons of OpenStreetMap (ODbL), embedded, no network.

use std::collections::BTreeSet;
use std::fmt;

use country_boundaries::{BOUNDARIES_ODBL_360X180, BoundingBox, CountryBoundaries, LatLon};

use crate::SourceError;
use crate::source::{Coverage, source_of};

/// The borders of all countries; generous at sea, tight on land.
pub struct CountryPolygons {
    boundaries: CountryBoundaries,
}

/// Why no country was given to a box.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoCountry {
    /// The token names a country whose polygon does not hold the box centre.
    Disagreement {
        /// Country of the token.
        token_country: &'static str,
        /// Country of the polygon, if any.
        polygon_country: Option<String>,
    },
    /// A global source and the box centre in no polygon.
    Nowhere,
}

impl fmt::Display for NoCountry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disagreement { token_country, polygon_country } => write!(
                f,
                "the source is of {token_country}, the box centre lies in {}",
                polygon_country.as_deref().unwrap_or("no country")
            ),
            Self::Nowhere => write!(f, "the box centre lies in no country"),
        }
    }
}

impl CountryPolygons {
    /// Loads the embedded polygons (1 MB, 1 degree raster).
    ///
    /// # Errors
    /// [`SourceError::Setting`] if the embedded data is damaged.
    pub fn new() -> Result<Self, SourceError> {
        CountryBoundaries::from_reader(BOUNDARIES_ODBL_360X180)
            .map(|boundaries| Self { boundaries })
            .map_err(|error| SourceError::Setting(format!("country polygons: {error}")))
    }

    /// Codes of all countries, sorted.
    pub fn codes(&self) -> BTreeSet<&str> {
        // 180 degrees would be -180, a box of one meridian
        let Ok(world) = BoundingBox::new(-90.0, -180.0, 90.0, 179.9) else { return BTreeSet::new() };
        self.boundaries.intersecting_ids(world).into_iter().filter(|id| !id.contains('-')).collect()
    }

    /// Whether the point lies in the country or subdivision `code` (`FI`, `DE-BB`).
    /// Degrees; `false` for what is no point on Earth.
    pub fn contains(&self, code: &str, lon: f64, lat: f64) -> bool {
        position(lon, lat).is_some_and(|position| self.boundaries.is_in(position, code))
    }

    /// The country that holds the point, as ISO 3166-1 alpha-2. Of a territory with a code of its
    /// own the country it belongs to (Åland: `FI`, not `AX`).
    pub fn country_at(&self, lon: f64, lat: f64) -> Option<&str> {
        // Ordered from the smallest region to the largest; subdivisions are written `DE-BB`.
        let ids = self.boundaries.ids(position(lon, lat)?);
        ids.into_iter().rev().find(|id| !id.contains('-'))
    }

    /// The country of an image, by the centre of its box `(west, south, east, north)` in degrees.
    /// A national source decides by its token and is verified by the polygon; for global and
    /// unknown sources the polygon decides.
    ///
    /// # Errors
    /// The reason why the image belongs to no country.
    pub fn country_of(&self, source: &str, box_wsen: [f64; 4]) -> Result<String, NoCountry> {
        let (lon, lat) = center(box_wsen);
        match source_of(source).map(|source| source.coverage) {
            Some(Coverage::National(country)) if self.contains(country, lon, lat) => Ok(country.to_owned()),
            Some(Coverage::National(country)) => Err(NoCountry::Disagreement {
                token_country: country,
                polygon_country: self.country_at(lon, lat).map(str::to_owned),
            }),
            Some(Coverage::Global) | None => self.country_at(lon, lat).map(str::to_owned).ok_or(NoCountry::Nowhere),
        }
    }
}

/// Centre `(lon, lat)` of a box `(west, south, east, north)`.
pub fn center([west, south, east, north]: [f64; 4]) -> (f64, f64) {
    ((west + east) / 2.0, (south + north) / 2.0)
}

fn position(lon: f64, lat: f64) -> Option<LatLon> {
    if !(-180.0..=180.0).contains(&lon) {
        return None;
    }
    LatLon::new(lat, lon).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(lon: f64, lat: f64) -> [f64; 4] {
        [lon - 0.001, lat - 0.001, lon + 0.001, lat + 0.001]
    }

    #[test]
    fn cities_lie_in_their_countries() {
        let polygons = CountryPolygons::new().unwrap();
        for (code, lon, lat) in [
            ("FI", 24.94, 60.17),
            ("FI", 19.94, 60.10), // Mariehamn: AX inside of FI
            ("DE", 13.40, 52.52),
            ("DE", 8.69, 47.70), // Büsingen, an exclave in Switzerland
            ("ES", -3.70, 40.42),
            ("ES", -15.43, 28.12), // Las Palmas
            ("CH", 8.54, 47.37),
            ("US", -97.0, 33.0),
        ] {
            assert!(polygons.contains(code, lon, lat), "{code} {lon} {lat}");
        }
        assert!(!polygons.contains("FI", 18.07, 59.33));
        assert!(!polygons.contains("ES", -9.14, 38.72));
        for (lon, lat) in [(f64::NAN, 0.0), (0.0, f64::NAN), (181.0, 0.0), (0.0, 91.0), (f64::INFINITY, 0.0)] {
            assert!(!polygons.contains("FI", lon, lat));
            assert_eq!(polygons.country_at(lon, lat), None);
        }
    }

    #[test]
    fn every_country_is_listed_and_no_subdivision() {
        let polygons = CountryPolygons::new().unwrap();
        let codes = polygons.codes();
        assert!(["FI", "DE", "ES", "US", "VA", "FJ"].iter().all(|code| codes.contains(code)), "{codes:?}");
        assert!(codes.iter().all(|code| code.len() == 2) && !codes.contains("XX"), "{codes:?}");
    }

    #[test]
    fn territories_belong_to_their_country() {
        let polygons = CountryPolygons::new().unwrap();
        assert!(polygons.contains("AX", 19.94, 60.10));
        assert_eq!(polygons.country_at(19.94, 60.10), Some("FI"));
    }

    #[test]
    fn national_tokens_decide_and_polygons_verify() {
        let polygons = CountryPolygons::new().unwrap();
        let potsdam = around(13.06, 52.40);
        assert_eq!(polygons.country_of("DE", potsdam).as_deref(), Ok("DE"));
        let reason = polygons.country_of("FI", potsdam).unwrap_err();
        assert_eq!(reason.to_string(), "the source is of FI, the box centre lies in DE");
    }

    #[test]
    fn polygons_decide_for_global_and_unknown_sources() {
        let polygons = CountryPolygons::new().unwrap();
        for token in ["P3", "P5", "S2", "L8", "L9", "US", "XX"] {
            let country = polygons.country_of(token, around(24.94, 60.17));
            assert_eq!(country.as_deref(), Ok("FI"), "{token}");
        }
        let texas = polygons.country_of("US", around(-97.0, 33.0));
        assert_eq!(texas.as_deref(), Ok("US"));
        let atlantic = polygons.country_of("S2", around(-40.0, 30.0));
        assert_eq!(atlantic, Err(NoCountry::Nowhere));
        let nowhere = polygons.country_of("S2", [f64::NAN; 4]);
        assert_eq!(nowhere, Err(NoCountry::Nowhere));
    }
}

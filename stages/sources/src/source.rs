//! The imagery sources behind the two-letter tokens of image names.
//!
//! From SkyScript's `image_sources.py` and the Earth Engine pages that it names.

use std::f64::consts::PI;

/// Where a source's images lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// One country only (ISO 3166-1 alpha-2): the token decides, the polygon verifies.
    National(&'static str),
    /// Anywhere, or land and territories: the polygon decides.
    Global,
}

/// An imagery source.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Source {
    /// The token in image names.
    pub token: &'static str,
    /// Earth Engine collection.
    pub collection: &'static str,
    /// Where its images lie.
    pub coverage: Coverage,
    /// Nominal ground sample distance in meters (the coarsest, where it changed over the years).
    pub gsd_meters: f64,
}

const fn source(token: &'static str, collection: &'static str, coverage: Coverage, gsd_meters: f64) -> Source {
    Source { token, collection, coverage, gsd_meters }
}

/// All sources of SkyScript.
pub const SOURCES: [Source; 10] = [
    // NAIP covers the United States with territories and 0.6 m since about 2018.
    source("US", "USDA/NAIP/DOQQ", Coverage::Global, 1.0),
    source("DE", "Germany/Brandenburg/orthos/20cm", Coverage::National("DE"), 0.2),
    source("FI", "Finland/SMK/V/50cm", Coverage::National("FI"), 0.5),
    source("CH", "ORTHO/Switzerland/SWISSIMAGE/10cm", Coverage::National("CH"), 0.1),
    source("ES", "Spain/PNOA/PNOA10", Coverage::National("ES"), 0.1),
    source("P3", "SKYSAT/GEN-A/PUBLIC/ORTHO/RGB", Coverage::Global, 0.8),
    source("P5", "SKYSAT/GEN-A/PUBLIC/ORTHO/MULTISPECTRAL", Coverage::Global, 2.0),
    source("S2", "COPERNICUS/S2_SR_HARMONIZED", Coverage::Global, 10.0),
    source("L8", "LANDSAT/LC08/C02/T1_TOA", Coverage::Global, 30.0),
    source("L9", "LANDSAT/LC09/C02/T1_TOA", Coverage::Global, 30.0),
];

/// The source of a token; `None` for one that SkyScript does not name.
pub fn source_of(token: &str) -> Option<&'static Source> {
    SOURCES.iter().find(|source| source.token == token)
}

/// Ground sample distance in meters of an image of `width_px` by `height_px` over the box
/// `(west, south, east, north)` in degrees: the mean of both directions on a sphere of
/// 6,378,137 m. `None` for an empty image or box.
pub fn gsd_meters(box_wsen: [f64; 4], width_px: u32, height_px: u32) -> Option<f64> {
    let [west, south, east, north] = box_wsen;
    let meters_per_degree = 6_378_137.0 * PI / 180.0;
    let middle = ((south + north) / 2.0).to_radians();
    let width_meters = (east - west) * meters_per_degree * middle.cos();
    let height_meters = (north - south) * meters_per_degree;
    let gsd = (width_meters / f64::from(width_px) + height_meters / f64::from(height_px)) / 2.0;
    (gsd.is_finite() && gsd > 0.0).then_some(gsd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_known_once() {
        for source in &SOURCES {
            assert_eq!(source_of(source.token), Some(source));
        }
        assert_eq!(source_of("XX"), None);
        let fine = |token: &str| source_of(token).unwrap().gsd_meters <= 0.5;
        assert!(fine("DE") && fine("FI") && fine("ES") && !fine("P3"));
    }

    #[test]
    fn gsd_follows_from_box_and_pixels() {
        // 0.001 degrees are 111.32 m along a meridian, half of it along the parallel of 60 N.
        let gsd = gsd_meters([25.0, 59.9995, 25.002, 60.0005], 500, 500).unwrap();
        assert!((gsd - 111.32 / 500.0).abs() < 1e-3, "{gsd}");
        assert_eq!(gsd_meters([0.0, 0.0, 1.0, 1.0], 0, 10), None);
        assert_eq!(gsd_meters([0.0, 0.0, 0.0, 0.0], 10, 10), None);
        assert_eq!(gsd_meters([f64::NAN, 0.0, 1.0, 1.0], 10, 10), None);
    }
}

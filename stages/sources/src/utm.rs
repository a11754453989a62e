//! Universal Transverse Mercator on WGS 84 back into degrees, by Krüger's series (Karney, "Transverse Mercator with an accuracy
//! of a few nanometers", 2011) to the third order: to a tenth of a millimetre within a zone.

/// Half the long axis of the ellipsoid, in metres, and its flattening.
const AXIS: f64 = 6_378_137.0;
const FLATTENING: f64 = 1.0 / 298.257_223_563;
/// On the zone's middle, and where the middle lies.
const SCALE: f64 = 0.9996;
const FALSE_EASTING: f64 = 500_000.0;
const FALSE_NORTHING: f64 = 10_000_000.0;
/// A box is bent: so many points of each edge are looked at.
const STEPS: usize = 8;

/// The box in degrees that holds one of `[west, south, east, north]` metres.
pub(crate) fn in_degrees([west, south, east, north]: [f64; 4], zone: u8, southern: bool) -> [f64; 4] {
    let mut ground = [f64::INFINITY, f64::INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY];
    for step in 0..=STEPS {
        let part = step as f64 / STEPS as f64;
        let (x, y) = (west + part * (east - west), south + part * (north - south));
        for (x, y) in [(x, south), (x, north), (west, y), (east, y)] {
            let (longitude, latitude) = point(x, y, zone, southern);
            ground[0] = ground[0].min(longitude);
            ground[1] = ground[1].min(latitude);
            ground[2] = ground[2].max(longitude);
            ground[3] = ground[3].max(latitude);
        }
    }
    ground
}

/// Longitude and latitude of a place in a zone.
fn point(easting: f64, northing: f64, zone: u8, southern: bool) -> (f64, f64) {
    let n = FLATTENING / (2.0 - FLATTENING);
    let radius = AXIS / (1.0 + n) * (1.0 + n.powi(2) / 4.0 + n.powi(4) / 64.0);
    let beta = [
        n / 2.0 - 2.0 / 3.0 * n.powi(2) + 37.0 / 96.0 * n.powi(3),
        n.powi(2) / 48.0 + n.powi(3) / 15.0,
        17.0 / 480.0 * n.powi(3),
    ];
    let delta = [
        2.0 * n - 2.0 / 3.0 * n.powi(2) - 2.0 * n.powi(3),
        7.0 / 3.0 * n.powi(2) - 8.0 / 5.0 * n.powi(3),
        56.0 / 15.0 * n.powi(3),
    ];
    let north = if southern { northing - FALSE_NORTHING } else { northing };
    let (xi, eta) = (north / (SCALE * radius), (easting - FALSE_EASTING) / (SCALE * radius));
    let (mut xi_sphere, mut eta_sphere) = (xi, eta);
    for (order, beta) in (1..).zip(beta) {
        let twice = 2.0 * f64::from(order);
        xi_sphere -= beta * (twice * xi).sin() * (twice * eta).cosh();
        eta_sphere -= beta * (twice * xi).cos() * (twice * eta).sinh();
    }
    let chi = (xi_sphere.sin() / eta_sphere.cosh()).asin();
    let mut latitude = chi;
    for (order, delta) in (1..).zip(delta) {
        latitude += delta * (2.0 * f64::from(order) * chi).sin();
    }
    let middle = 6.0 * f64::from(zone) - 183.0;
    (middle + eta_sphere.sinh().atan2(xi_sphere.cos()).to_degrees(), latitude.to_degrees())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_agree_with_proj() {
        for (easting, northing, zone, southern, longitude, latitude) in PLACES {
            let (x, y) = point(easting, northing, zone, southern);
            assert!((x - longitude).abs() < 1e-8 && (y - latitude).abs() < 1e-8, "{zone}: {x} {y}");
        }
    }

    /// By PROJ 9 (`pyproj`): easting, northing, zone, south of the equator, longitude, latitude.
    const PLACES: [(f64, f64, u8, bool, f64, f64); 5] = [
        (500000.0, 0.0, 33, false, 15.000000000000, 0.000000000000),
        (385000.0, 6672500.0, 35, false, 24.927174998174, 60.173152574609),
        (691608.0, 5334763.0, 32, false, 11.575559048140, 48.137245432605),
        (334873.0, 6252266.0, 56, true, 151.214997834317, -33.857000796639),
        (700000.0, 9300000.0, 10, false, -106.977867954782, 83.497787274820),
    ];
}

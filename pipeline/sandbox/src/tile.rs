//! One tile from its number: picture, meta record and map objects.

use crate::composer::Composer;
use crate::country::{CELL_DEGREES, Country, UNITED_STATES, all};
use crate::dice::Dice;
use crate::error::SandboxError;
use crate::extract::{Element, Frame, Geometry, Position, rounded};
use crate::geometry::Point;
use crate::meta::Meta;
use crate::noise::hash;
use crate::pickle::PROTOCOLS;
use crate::scene::{Object, Scene, Shape, Tags};
use crate::tables::Layout;
use crate::{Settings, canvas, sensor, subjects};

/// Metres in a degree of latitude.
const METERS_PER_DEGREE: f64 = 111_320.0;
/// Most points that a line or an outline has in the extract.
const MOST_POINTS: usize = 16;
/// Ground sampling distance of the coarse source, metres.
const COARSE_GSD_METERS: f64 = 10.0;

/// What a tile is to be, before anything is drawn.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub country: &'static Country,
    /// Source token of the name: the country's own, or a global one.
    pub source: &'static str,
    /// Number of the tile in the world: its random stream and its ids.
    pub number: u64,
    /// Column and row of the geographic cell.
    cell: (i32, i32),
    gsd_meters: f64,
}

impl Plan {
    /// The table that has the tile's row: one country is in the polished one.
    pub fn layout(&self) -> Layout {
        if self.country.name == "spain" { Layout::Polished } else { Layout::Plain }
    }

    /// The partition, images2 or images3: uneven, as the real ones are.
    pub fn part(&self) -> usize {
        usize::from(hash(11, self.number, 0).is_multiple_of(3))
    }

    /// Whether a member is deflated: `kind` tells image and meta apart.
    pub fn deflated(&self, kind: u64) -> bool {
        hash(12, self.number, kind).is_multiple_of(2)
    }
}

/// All tiles of a world: three countries, then rows that a build has to leave out.
pub fn plan(settings: &Settings) -> Vec<Plan> {
    let count = settings.tiles_per_country;
    let mut plans = Vec::new();
    let mut push = |country: &'static Country, source, cell, gsd_meters| {
        plans.push(Plan { country, source, number: plans.len() as u64, cell, gsd_meters });
    };
    for country in all() {
        for cell in cells(country, settings.seed, count) {
            push(country, country.source, cell, country.gsd_meters);
        }
    }
    for cell in cells(&UNITED_STATES, settings.seed, count.div_ceil(20)) {
        push(&UNITED_STATES, UNITED_STATES.source, cell, UNITED_STATES.gsd_meters);
    }
    for country in all() {
        // South of the region, two cells apart: coarse boxes are large and overlap no tile.
        for index in 0..count.div_ceil(40) as i32 {
            let columns = country.region.columns as i32 / 2;
            let cell = (
                country.region.west_cell + 2 * (index % columns),
                country.region.south_cell - 3 - 2 * (index / columns),
            );
            push(country, "S2", cell, COARSE_GSD_METERS);
        }
    }
    plans
}

/// `count` cells of a country: every cell once before any is used twice.
fn cells(country: &'static Country, seed: u64, count: usize) -> impl Iterator<Item = (i32, i32)> {
    let region = country.region;
    let total = (region.columns * region.rows) as usize;
    let order = Dice::new(seed, hash(13, region.west_cell as u64, region.south_cell as u64)).shuffled(total);
    (0..count).map(move |index| {
        let cell = order[index % total];
        let (column, row) = (cell as i32 % region.columns as i32, cell as i32 / region.columns as i32);
        (region.west_cell + column, region.south_cell + row)
    })
}

/// A finished tile.
pub struct Tile {
    pub plan: Plan,
    pub image_id: String,
    pub jpeg: Vec<u8>,
    pub meta: Meta,
    pub elements: Vec<Element>,
    pub similarity: f32,
}

/// Draws a tile: the same plan and settings give the same bytes.
pub fn make(plan: &Plan, settings: &Settings) -> Result<Tile, SandboxError> {
    let country = plan.country;
    let mut dice = Dice::new(settings.seed, plan.number);
    let side = |dice: &mut Dice| (settings.side_px as f32 * dice.range(0.75, 1.375)).round().max(32.0);
    let width = side(&mut dice);
    let height = if dice.chance(0.7) { width } else { (width * dice.range(0.85, 1.18)).round() };
    let coarse = plan.gsd_meters >= COARSE_GSD_METERS;
    let view = country.view_units * if coarse { 3.0 } else { dice.range(0.94, 1.06) };
    let scale = width.min(height) / view;
    let winter = dice.chance(country.winter_share);
    let geography = Geography::of(plan, &mut dice, (width / scale, height / scale), (width, height));
    let time = time(&mut dice, winter);
    let (box_key, protocol) = (dice.choose(&["box", "bbox"]), dice.choose(&PROTOCOLS));
    let similarity = dice.range(0.24, 0.34);

    let mut composer = Composer::new(country, dice, width / scale, height / scale, winter);
    let subject = subjects::choose(&mut composer);
    (subject.arrange)(&mut composer);
    let scene = composer.finish();

    let (width, height) = (width as u32, height as u32);
    let noise_seed = hash(settings.seed, plan.number, 17);
    let mut camera = country.sensor;
    if coarse {
        camera.blur *= 2.5;
    }
    let pixels = canvas::draw(&scene, width, height, noise_seed)
        .ok_or_else(|| SandboxError::encode(format!("tile {}", plan.number), "its size is empty"))?;
    let bytes = sensor::expose(&pixels, width as usize, height as usize, &camera, noise_seed);
    let jpeg = sensor::jpeg(&bytes, width, height)
        .map_err(|error| SandboxError::encode(format!("tile {} as jpeg", plan.number), error))?;

    let elements = elements(plan.number, &scene, &geography);
    let focus = elements.first().ok_or_else(|| {
        SandboxError::encode(format!("tile {}", plan.number), format!("{} has no focus object", subject.name))
    })?;
    let kind = match &scene.objects[scene.focus].shape {
        Shape::Node(_) => 'n',
        Shape::Way { .. } => 'w',
        Shape::Area(_) => 'a',
    };
    let image_id = format!("{kind}{}_{}_{:02}", focus.id, plan.source, time[0] % 100);
    let meta = Meta {
        box_key: box_key.to_owned(),
        bounds: geography.bounds,
        time,
        center: focus.tags.clone(),
        surrounding: elements.iter().skip(1).map(|element| element.tags.clone()).collect(),
        protocol,
    };
    Ok(Tile { plan: *plan, image_id, jpeg, meta, elements, similarity })
}

/// Between April and October, in winter February or March; int year, date or date with time.
fn time(dice: &mut Dice, winter: bool) -> Vec<i64> {
    let month = if winter { dice.whole(2, 3) } else { dice.whole(4, 9) };
    let whole = [dice.whole(2015, 2023), month, dice.whole(1, 28), dice.whole(9, 14), dice.whole(0, 59)];
    let parts = dice.choose(&[1, 3, 5]);
    whole[..parts].iter().map(|&part| i64::from(part)).collect()
}

/// Where a scene lies on the globe.
struct Geography {
    /// West, south, east, north, degrees.
    bounds: [f64; 4],
    /// Scene units across and down.
    extent: (f32, f32),
}

impl Geography {
    /// A box of `pixels` somewhere inside the plan's cell.
    fn of(plan: &Plan, dice: &mut Dice, extent: (f32, f32), pixels: (f32, f32)) -> Geography {
        let mut centre = |cell: i32| (f64::from(cell) + f64::from(dice.range(0.25, 0.75))) * CELL_DEGREES;
        let (lon, lat) = (centre(plan.cell.0), centre(plan.cell.1));
        let half = |side: f32| f64::from(side) * plan.gsd_meters / METERS_PER_DEGREE / 2.0;
        let (half_lon, half_lat) = (half(pixels.0) / lat.to_radians().cos(), half(pixels.1));
        Geography { bounds: [lon - half_lon, lat - half_lat, lon + half_lon, lat + half_lat], extent }
    }

    fn place(&self, point: Point) -> Position {
        let [west, south, east, north] = self.bounds;
        (
            west + (east - west) * f64::from(point.x / self.extent.0),
            north - (north - south) * f64::from(point.y / self.extent.1),
        )
    }
}

/// The tagged objects that the tile shows: the focus first, then by distance from the middle. What shows is judged by the
/// places that are written down, so that whoever reads the extract comes to the same end.
fn elements(number: u64, scene: &Scene, geography: &Geography) -> Vec<Element> {
    let frame = Frame::of(geography.bounds);
    let mut shown: Vec<(f64, bool, &Object, Vec<Position>)> = scene
        .objects
        .iter()
        .enumerate()
        .filter(|(_, object)| !object.tags.is_empty())
        .filter_map(|(index, object)| {
            let (points, is_way) = match &object.shape {
                Shape::Node(point) => (vec![*point], false),
                Shape::Way { line, .. } => (thin(line).collect(), true),
                Shape::Area(outline) => (thin(outline).collect::<Vec<_>>(), true),
            };
            let mut places: Vec<Position> = points.into_iter().map(|point| rounded(geography.place(point))).collect();
            let is_area = matches!(object.shape, Shape::Area(_));
            if is_area {
                places.extend(places.first().copied());
            }
            let is_focus = index == scene.focus;
            let distance = if is_focus { -1.0 } else { frame.distance(&places) };
            (is_focus || frame.meets(&places, is_area)).then_some((distance, is_way, object, places))
        })
        .collect();
    shown.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut next_node = 5_000_000_000 + number * 4096;
    shown
        .into_iter()
        .zip(100_000_000 + number * 256..)
        .map(|((_, _, object, places), id)| {
            let mut numbered = |places: &[Position]| -> Vec<(u64, Position)> {
                let number = |place: &Position| {
                    next_node += 1;
                    (next_node, *place)
                };
                places.iter().map(number).collect()
            };
            let geometry = match (&object.shape, places.split_last()) {
                (Shape::Node(_), _) | (_, None) => Geometry::Node(places.first().copied().unwrap_or_default()),
                (Shape::Way { .. }, Some(_)) => Geometry::Way(numbered(&places)),
                (Shape::Area(_), Some((_, open))) => {
                    let mut nodes = numbered(open);
                    nodes.extend(nodes.first().copied());
                    Geometry::Way(nodes)
                }
            };
            Element { id, version: 1, tags: Tags::clone(&object.tags), geometry }
        })
        .collect()
}

/// At most about `MOST_POINTS` points of a line, the last one kept.
fn thin(line: &[Point]) -> impl Iterator<Item = Point> {
    let step = line.len().div_ceil(MOST_POINTS).max(1);
    let last = line.len().saturating_sub(1);
    line.iter().enumerate().filter(move |(index, _)| index % step == 0 || *index == last).map(|(_, point)| *point)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn boxes(country: &Country, settings: &Settings) -> Vec<[f64; 4]> {
        plan(settings)
            .iter()
            .filter(|plan| plan.source == country.source)
            .map(|plan| {
                let mut dice = Dice::new(settings.seed, plan.number);
                Geography::of(plan, &mut dice, (100.0, 100.0), (220.0, 220.0)).bounds
            })
            .collect()
    }

    #[test]
    fn boxes_spread_over_cells_do_not_overlap_and_have_the_sources_gsd() {
        for country in all() {
            let boxes = boxes(country, &Settings::default());
            assert_eq!(boxes.len(), 600);
            let cells: BTreeSet<(i64, i64)> = boxes
                .iter()
                .map(|[west, south, east, north]| {
                    let cell = |low: f64, high: f64| ((low + high) / 2.0 / CELL_DEGREES).floor() as i64;
                    (cell(*west, *east), cell(*south, *north))
                })
                .collect();
            assert!(cells.len() >= 200, "{}: {} cells", country.name, cells.len());
            for (index, a) in boxes.iter().enumerate() {
                let gsd_meters = (a[3] - a[1]) * METERS_PER_DEGREE / 220.0;
                assert!((gsd_meters - country.gsd_meters).abs() < 1e-6, "{gsd_meters}");
                for b in &boxes[..index] {
                    let apart = a[2] < b[0] || b[2] < a[0] || a[3] < b[1] || b[3] < a[1];
                    assert!(apart, "{a:?} overlaps {b:?}");
                }
            }
        }
    }

    #[test]
    fn ids_of_tiles_never_meet() -> Result<(), SandboxError> {
        let settings = Settings { tiles_per_country: 40, side_px: 48, seed: 9 };
        for plan in plan(&settings) {
            let tile = make(&plan, &settings)?;
            assert!(tile.elements.len() <= 256, "{} objects", tile.elements.len());
            let nodes: usize = tile
                .elements
                .iter()
                .map(|element| match &element.geometry {
                    Geometry::Node(_) => 0,
                    Geometry::Way(line) => line.len(),
                })
                .sum();
            assert!(nodes <= 4096, "{nodes} nodes");
        }
        Ok(())
    }
}

//! Composing a scene: where things may stand, and the filling around a focus object.

use std::f32::consts::FRAC_PI_2;

use crate::country::Country;
use crate::dice::Dice;
use crate::geometry::{Frame, Point, along, at, blob, contains, half_plane, length, offset};
use crate::objects::{Cover, Maker};
use crate::scene::{Brush, Layer, Object, Scene, Shape, Tags, Texture, lit, mix};

/// Side of a cell of the occupancy grid, scene units.
const CELL: f32 = 2.0;

/// What kind of place a tile shows: decides what else stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    Suburb,
    Town,
    Rural,
    Industrial,
    Park,
}

/// Builds one scene.
pub struct Composer {
    pub maker: Maker,
    pub width: f32,
    pub height: f32,
    /// The main direction of streets and parcels, radians.
    pub angle: f32,
    objects: Vec<Object>,
    focus: usize,
    taken: Vec<bool>,
    columns: usize,
    rows: usize,
}

impl Composer {
    /// An empty scene of `width` x `height` scene units.
    pub fn new(
        country: &'static Country,
        mut dice: Dice,
        width: f32,
        height: f32,
        winter: bool,
    ) -> Composer {
        let angle = dice.range(-FRAC_PI_2, FRAC_PI_2);
        let (columns, rows) = (
            (width / CELL).ceil() as usize,
            (height / CELL).ceil() as usize,
        );
        Composer {
            maker: Maker {
                dice,
                country,
                winter,
            },
            width,
            height,
            angle,
            objects: Vec::new(),
            focus: 0,
            taken: vec![false; columns * rows],
            columns,
            rows,
        }
    }

    pub fn country(&self) -> &'static Country {
        self.maker.country
    }

    pub fn dice(&mut self) -> &mut Dice {
        &mut self.maker.dice
    }

    /// The middle of the tile, turned along the main direction.
    pub fn middle(&self) -> Frame {
        Frame::new(at(self.width / 2.0, self.height / 2.0), self.angle)
    }

    /// Far enough from the middle to lie outside the tile in every direction.
    pub fn reach(&self) -> f32 {
        (self.width.powi(2) + self.height.powi(2)).sqrt() / 2.0 + 6.0
    }

    /// The outline of the tile.
    pub fn everywhere(&self) -> Vec<Point> {
        vec![
            at(0.0, 0.0),
            at(self.width, 0.0),
            at(self.width, self.height),
            at(0.0, self.height),
        ]
    }

    /// Finishes the scene. A scene without any object gets none invented: its focus index is 0.
    pub fn finish(self) -> Scene {
        let country = self.country();
        let shadow = Point::from_angle(country.shadow_degrees.to_radians()) * country.shadow_length;
        Scene {
            width: self.width,
            height: self.height,
            objects: self.objects,
            focus: self.focus,
            winter: self.maker.winter,
            shadow,
        }
    }

    /// Adds land cover: takes no place from what stands on it.
    pub fn lay(&mut self, object: Object) {
        self.objects.push(object);
    }

    /// Adds an object and marks its place as taken.
    /// Trees of a wood that it stands in are felled first.
    pub fn add(&mut self, object: Object) {
        if let Shape::Area(outline) = &object.shape {
            let edge: Vec<Point> = outline.iter().chain(outline.first()).copied().collect();
            self.clear_crowns(&edge, 5.0);
            self.fell(|centre| contains(outline, centre));
        }
        self.mark(&object.shape);
        self.objects.push(object);
    }

    fn fell(&mut self, stands_there: impl Fn(Point) -> bool) {
        for object in &mut self.objects {
            object.brushes.retain(|brush| match brush {
                Brush::Crown { centre, .. } => !stands_there(*centre),
                _ => true,
            });
        }
    }

    /// Adds the focus object.
    pub fn add_focus(&mut self, object: Object) {
        self.focus = self.objects.len();
        self.add(object);
    }

    /// Adds the focus object as land cover.
    pub fn lay_focus(&mut self, object: Object) {
        self.focus = self.objects.len();
        self.lay(object);
    }

    /// Marks a place as taken.
    pub fn mark(&mut self, shape: &Shape) {
        match shape {
            Shape::Node(place) => self.mark_disk(*place, 4.0),
            Shape::Way { line, width } => {
                let mut distance = 0.0;
                while let Some(place) = along(line, distance) {
                    self.mark_disk(place.origin, width / 2.0 + 1.5);
                    distance += CELL;
                }
            }
            Shape::Area(outline) => {
                for index in 0..self.taken.len() {
                    let (column, row) = (index % self.columns, index / self.columns);
                    let centre = at((column as f32 + 0.5) * CELL, (row as f32 + 0.5) * CELL);
                    if contains(outline, centre) {
                        self.taken[index] = true;
                    }
                }
            }
        }
    }

    fn mark_disk(&mut self, centre: Point, radius: f32) {
        for index in self.disk(centre, radius) {
            self.taken[index] = true;
        }
    }

    /// Whether nothing stands within `radius` of a point inside the tile.
    pub fn free(&self, centre: Point, radius: f32) -> bool {
        self.disk(centre, radius).all(|index| !self.taken[index])
    }

    fn disk(&self, centre: Point, radius: f32) -> impl Iterator<Item = usize> + use<> {
        let range = |value: f32, limit: usize| {
            let low = ((value - radius) / CELL).max(0.0) as usize;
            let high = (((value + radius) / CELL).max(-1.0) + 1.0) as usize;
            low.min(limit)..high.min(limit)
        };
        let (columns, rows, stride) = (
            range(centre.x, self.columns),
            range(centre.y, self.rows),
            self.columns,
        );
        rows.flat_map(move |row| columns.clone().map(move |column| (row, column)))
            .filter(move |&(row, column)| {
                let cell = at((column as f32 + 0.5) * CELL, (row as f32 + 0.5) * CELL);
                (cell - centre).length() <= radius + CELL / 2.0
            })
            .map(move |(row, column)| row * stride + column)
    }

    /// A free place for something of this radius that shows at least its middle.
    pub fn place(&mut self, radius: f32) -> Option<Frame> {
        let margin = (radius * 0.6).min(self.width.min(self.height) * 0.3);
        for _ in 0..30 {
            let (width, height) = (self.width, self.height);
            let x = self.dice().range(margin, width - margin);
            let y = self.dice().range(margin, height - margin);
            if self.free(at(x, y), radius) {
                let quarter = self.dice().whole(0, 3) as f32 * FRAC_PI_2;
                return Some(Frame::new(at(x, y), self.angle + quarter));
            }
        }
        None
    }

    /// Covers the whole tile.
    pub fn base(&mut self, cover: Cover) {
        let (outline, angle) = (self.everywhere(), self.angle);
        let object = self.maker.parcel(cover, outline, angle);
        self.lay(object);
    }

    /// Covers the land beyond a line at `distance` from the middle, on a random side along the
    /// main direction; returns the line.
    pub fn beyond(&mut self, cover: Cover, distance: f32) -> Vec<Point> {
        let side = self.dice().sign();
        let middle = self.middle();
        let normal = Point::from_angle(middle.angle + side * FRAC_PI_2);
        let edge = middle.origin + normal * distance;
        let outline = half_plane(&self.everywhere(), edge, normal);
        if outline.len() > 2 {
            let turn = if self.dice().chance(0.5) {
                0.0
            } else {
                FRAC_PI_2
            };
            let object = self.maker.parcel(cover, outline, middle.angle + turn);
            self.lay(object);
        }
        let reach = self.reach();
        Frame::new(edge, middle.angle).outline(&[(-reach, 0.0), (reach, 0.0)])
    }

    /// A cover that is common in the open land of the country.
    pub fn open_land(&mut self) -> Cover {
        let weights: [(f32, Cover); 7] = match self.country().index {
            0 => [
                (3.0, Cover::Wood),
                (2.5, Cover::Farmland),
                (1.5, Cover::Meadow),
                (0.0, Cover::Orchard),
                (0.0, Cover::Vineyard),
                (0.3, Cover::Scrub),
                (0.9, Cover::Wetland),
            ],
            1 => [
                (1.6, Cover::Wood),
                (3.5, Cover::Farmland),
                (2.5, Cover::Meadow),
                (0.6, Cover::Orchard),
                (0.2, Cover::Vineyard),
                (0.3, Cover::Scrub),
                (0.0, Cover::Wetland),
            ],
            _ => [
                (0.6, Cover::Wood),
                (2.5, Cover::Farmland),
                (0.6, Cover::Meadow),
                (2.2, Cover::Orchard),
                (1.4, Cover::Vineyard),
                (2.0, Cover::Scrub),
                (0.0, Cover::Wetland),
            ],
        };
        self.dice().weighted(&weights)
    }

    /// A line through `frame`, straight or bent, from edge to edge.
    pub fn line(&mut self, frame: Frame, bend: f32) -> Vec<Point> {
        let reach = self.reach();
        if bend == 0.0 {
            frame.outline(&[(-reach, 0.0), (reach, 0.0)])
        } else {
            self.maker.winding(frame, reach, bend)
        }
    }

    /// A straight road past the focus at `distance` from the middle.
    pub fn side_road(&mut self, value: &str, distance: f32) -> Vec<Point> {
        let side = self.dice().sign();
        let turn = if self.dice().chance(0.5) {
            0.0
        } else {
            FRAC_PI_2
        };
        let frame =
            Frame::new(self.middle().origin, self.angle + turn).inner(0.0, side * distance, 0.0);
        let line = self.line(frame, 0.0);
        let cleared = self.maker.road_width(value) + 3.0;
        self.clear_crowns(&line, cleared);
        let road = self.maker.road(value, line.clone());
        self.add(road);
        line
    }

    /// A straight road along the main direction at `distance` from the middle; returns its line.
    pub fn side_road_along(&mut self, value: &str, distance: f32) -> Vec<Point> {
        let side = self.dice().sign();
        let frame = self.middle().inner(0.0, side * distance, 0.0);
        let line = self.line(frame, 0.0);
        let width = self.maker.road_width(value);
        self.clear_crowns(&line, width + 3.0);
        let road = self.maker.road(value, line.clone());
        self.add(road);
        line
    }

    /// Fells the trees on a strip of `width` along a line, so that what lies there can be seen.
    pub fn clear_crowns(&mut self, line: &[Point], width: f32) {
        self.fell(|point| {
            line.windows(2).any(|pair| {
                let (from, step) = (pair[0], pair[1] - pair[0]);
                let share = ((point - from).dot(step) / step.dot(step).max(1e-9)).clamp(0.0, 1.0);
                (from + step * share - point).length() < width / 2.0
            })
        });
    }

    /// Houses with gardens on both sides of a street; pools behind them where that is usual.
    pub fn houses_along(&mut self, line: &[Point], width: f32) {
        let country = self.country();
        let step = [22.0, 18.0, 15.5][country.index];
        let total = length(line);
        for side in [-1.0, 1.0] {
            let mut distance = self.dice().range(0.0, step);
            while distance < total {
                let set_back = width / 2.0 + self.dice().range(9.0, 11.5);
                let row = offset(line, side * set_back);
                let built = self.dice().chance(country.density);
                if let Some(place) =
                    along(&row, distance).filter(|place| built && self.inside(place.origin, 3.0))
                {
                    let turn = if self.dice().chance(0.7) {
                        0.0
                    } else {
                        FRAC_PI_2
                    };
                    if self.free(place.origin, 6.8) {
                        self.plot(place.inner(0.0, side * 3.0, 0.0), step);
                        let house = self.maker.house(place.inner(0.0, 0.0, turn), 1.0);
                        self.add(house);
                        self.drive(place, side * -set_back);
                    }
                    let garden = place.inner(0.0, side * 14.0, 0.0);
                    let pool_share = [0.0, 0.07, 0.35][country.index];
                    if self.dice().chance(pool_share)
                        && self.inside(garden.origin, 4.0)
                        && self.free(garden.origin, 6.0)
                    {
                        let length = self.dice().range(7.5, 10.0);
                        let pool = self.maker.pool(garden, length);
                        self.add(pool);
                    }
                }
                distance += step * self.dice().range(0.92, 1.2);
            }
        }
    }

    /// The garden around a house: a lawn of its own tone, or a yard, inside a hedge or a wall.
    fn plot(&mut self, frame: Frame, step: f32) {
        let country = self.country();
        let palette = &country.palette;
        let paved = country.index == 2 && self.dice().chance(0.4);
        let ground = self.maker.varied(
            if paved {
                palette.pavement
            } else {
                palette.lawn
            },
            0.14,
        );
        let outline = frame.rectangle(step - 0.8, 24.0);
        let mut brushes = vec![Brush::fill(
            Layer::Cover,
            outline.clone(),
            Texture::natural(ground),
        )];
        if self.dice().chance([0.35, 0.8, 0.7][country.index]) {
            let edge = if country.index == 2 {
                palette.pavement
            } else {
                lit(palette.broadleaved, 0.75)
            };
            let fence: Vec<Point> = outline.iter().chain(outline.first()).copied().collect();
            brushes.push(Brush::stroke(
                Layer::Cover,
                fence,
                0.9,
                Texture::natural(edge),
            ));
        }
        if self.dice().chance(0.5) {
            let bed = frame.inner(
                self.maker.dice.range(-0.3, 0.3) * step,
                self.maker.dice.sign() * 9.0,
                0.0,
            );
            let (width, depth) = (self.dice().range(2.5, 6.0), self.dice().range(2.0, 4.0));
            let soil = self
                .maker
                .varied(mix(palette.soil, palette.broadleaved, 0.3), 0.15);
            brushes.push(Brush::fill(
                Layer::Cover,
                bed.rectangle(width, depth),
                Texture::natural(soil),
            ));
        }
        self.lay(Object::area(Tags::new(), Vec::new(), brushes));
    }

    /// Lorries, containers and stained ground of a yard; drawn, not mapped.
    pub fn clutter(&mut self, count: u32) {
        let mut brushes = Vec::new();
        for _ in 0..count {
            if let Some(stain) = self.place(1.0) {
                let size = self.dice().range(4.0, 11.0);
                let outline = blob(&mut self.maker.dice, stain, size, size * 0.6, 0.4);
                let asphalt = Texture::natural(self.country().palette.asphalt).with_opacity(0.35);
                brushes.push(Brush::fill(Layer::Cover, outline, asphalt));
            }
            if let Some(frame) = self.place(5.0) {
                let colour = self.dice().choose(&[
                    [226.0, 226.0, 224.0],
                    [64.0, 94.0, 150.0],
                    [176.0, 70.0, 52.0],
                    [96.0, 118.0, 96.0],
                ]);
                let shape = Shape::Area(frame.rectangle(9.0, 3.4));
                brushes.push(Brush::Shadow {
                    outline: frame.rectangle(8.0, 2.6),
                    height: 2.6,
                });
                brushes.push(Brush::fill(
                    Layer::Roof,
                    frame.rectangle(8.0, 2.6),
                    Texture::plain(colour),
                ));
                self.mark(&shape);
            }
        }
        self.lay(Object::area(Tags::new(), Vec::new(), brushes));
    }

    /// A paved strip from a house to the street; drawn, not mapped.
    fn drive(&mut self, house: Frame, to_street: f32) {
        if self.dice().chance(0.6) {
            let line = house.outline(&[(5.0, 0.0), (5.0, to_street)]);
            let colour = self.country().palette.pavement;
            let brushes = vec![Brush::stroke(
                Layer::Flat,
                line,
                2.2,
                Texture::plain(colour),
            )];
            self.lay(Object::area(Tags::new(), Vec::new(), brushes));
        }
    }

    pub fn inside(&self, point: Point, margin: f32) -> bool {
        (margin..self.width - margin).contains(&point.x)
            && (margin..self.height - margin).contains(&point.y)
    }

    /// Stands up to `count` things around the focus, as the setting and the country have them.
    pub fn fill(&mut self, setting: Setting, count: u32) {
        for _ in 0..count {
            let kind = self.neighbour(setting);
            self.stand(kind);
        }
        if setting == Setting::Industrial {
            self.clutter(count);
        }
    }

    fn neighbour(&mut self, setting: Setting) -> Neighbour {
        use Neighbour::*;
        let spain = if self.country().index == 2 { 1.0 } else { 0.0 };
        let south = [0.1, 0.5, 1.0][self.country().index];
        let cold = if self.maker.winter { 0.0 } else { 1.0 };
        match setting {
            Setting::Suburb => self.dice().weighted(&[
                (5.0, House),
                (1.8 * spain, Pool),
                (0.5 * cold, Pond),
                (0.5, Parking),
                (0.3 * cold, Basketball),
                (0.8, Grove),
            ]),
            Setting::Town => self.dice().weighted(&[
                (4.0, Apartments),
                (2.5, Parking),
                (1.0, House),
                (0.6 * cold, Basketball),
                (0.5 * spain, Pool),
                (0.7, Grove),
            ]),
            Setting::Rural => self.dice().weighted(&[
                (1.2, Barn),
                (1.2, House),
                (1.0 * cold, Pond),
                (0.5, Silo),
                (2.2, Grove),
                (0.9 * south, Orchard),
                (0.5 * cold, Solar),
                (0.5, Turbine),
                (0.4 * spain, Pool),
            ]),
            Setting::Industrial => self.dice().weighted(&[
                (4.0, Hall),
                (2.5, Parking),
                (1.4, Tank),
                (0.5 * cold, Solar),
                (0.5, Silo),
            ]),
            Setting::Park => self.dice().weighted(&[
                (1.2 * cold, Pond),
                (2.5, Grove),
                (1.0 * cold, Tennis),
                (0.8 * cold, Basketball),
                (1.4, Parking),
                (0.8, House),
                (0.6 * spain, Pool),
            ]),
        }
    }

    fn stand(&mut self, kind: Neighbour) {
        let radius = match kind {
            Neighbour::House | Neighbour::Pool => 8.0,
            Neighbour::Pond | Neighbour::Grove | Neighbour::Turbine => 12.0,
            Neighbour::Silo => 9.0,
            Neighbour::Basketball => 18.0,
            Neighbour::Tank => 10.0,
            Neighbour::Barn | Neighbour::Parking => 15.0,
            Neighbour::Apartments | Neighbour::Hall | Neighbour::Solar | Neighbour::Orchard => 17.0,
            Neighbour::Tennis => 19.0,
        };
        let Some(frame) = self.place(radius) else {
            return;
        };
        let maker = &mut self.maker;
        let object = match kind {
            Neighbour::House => maker.house(frame, 1.0),
            Neighbour::Pool => maker.pool(frame, 9.5),
            Neighbour::Pond => maker.still_water(frame, 9.0, "pond"),
            Neighbour::Grove => {
                let outline = blob(&mut maker.dice, frame, radius, radius * 0.8, 0.3);
                maker.parcel(Cover::Wood, outline, frame.angle)
            }
            Neighbour::Turbine => maker.wind_turbine(frame.origin),
            Neighbour::Silo => maker.silo(frame, 2),
            Neighbour::Basketball => maker.basketball(frame),
            Neighbour::Tank => maker.tank(frame, 8.0),
            Neighbour::Barn => maker.barn(frame),
            Neighbour::Parking => maker.parking(frame, 24.0, 1),
            Neighbour::Apartments => maker.apartments(frame, 28.0),
            Neighbour::Hall => maker.hall(frame, 28.0, 18.0, "industrial"),
            Neighbour::Solar => maker.solar(frame, 26.0, 18.0),
            Neighbour::Orchard => {
                maker.parcel(Cover::Orchard, frame.rectangle(30.0, 20.0), frame.angle)
            }
            Neighbour::Tennis => maker.tennis(frame, 1),
        };
        self.add(object);
    }

    /// Lone trees on free land; drawn, not mapped.
    pub fn scatter_trees(&mut self, share: f32) {
        let count = (self.country().trees as f32 * share) as u32;
        let mut brushes = Vec::new();
        for _ in 0..count {
            let (width, height) = (self.width, self.height);
            let place = at(
                self.dice().range(0.0, width),
                self.dice().range(0.0, height),
            );
            if self.free(place, 2.6) {
                let conifer_share = self.country().conifer_share;
                let conifer = self.dice().chance(conifer_share);
                brushes.push(self.maker.crown(place, conifer, 1.0));
            }
        }
        self.lay(Object::area(Tags::new(), Vec::new(), brushes));
    }
}

/// Things that stand around a focus.
#[derive(Debug, Clone, Copy)]
enum Neighbour {
    House,
    Pool,
    Pond,
    Grove,
    Turbine,
    Silo,
    Basketball,
    Tank,
    Barn,
    Parking,
    Apartments,
    Hall,
    Solar,
    Orchard,
    Tennis,
}

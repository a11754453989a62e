//! A scene as data: tagged objects, each with its geometry and the brushes that draw it.

use std::collections::BTreeMap;

use crate::geometry::Point;

/// OpenStreetMap tags of one object.
pub type Tags = BTreeMap<String, String>;

/// Tags from literal pairs.
pub fn tags(pairs: &[(&str, &str)]) -> Tags {
    pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// sRGB colour, each channel 0-255 (kept as `f32` so that light can be multiplied in).
pub type Colour = [f32; 3];

/// A mix of two colours; `share` of the second.
pub fn mix(a: Colour, b: Colour, share: f32) -> Colour {
    [0, 1, 2].map(|channel| a[channel] + (b[channel] - a[channel]) * share)
}

/// A colour made brighter or darker.
pub fn lit(colour: Colour, light: f32) -> Colour {
    colour.map(|channel| channel * light)
}

/// Parallel stripes of a second colour: furrows, vines, mown grass, panels, tiles.
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    pub colour: Colour,
    /// Direction across the stripes, radians.
    pub angle: f32,
    /// Distance from stripe to stripe, scene units.
    pub period: f32,
    /// Share of the period that has the second colour.
    pub share: f32,
    /// How far the stripes wander, scene units.
    pub wander: f32,
}

/// What a surface looks like.
#[derive(Debug, Clone, Copy)]
pub struct Texture {
    pub colour: Colour,
    pub opacity: f32,
    /// Relative contrast of noise from pixel to pixel.
    pub grain: f32,
    /// Relative contrast of patches of a few scene units.
    pub mottle: f32,
    /// Relative contrast of slow changes over the whole tile.
    pub drift: f32,
    pub rows: Option<Rows>,
}

impl Texture {
    /// A built surface: nearly even.
    pub fn plain(colour: Colour) -> Texture {
        Texture { colour, opacity: 1.0, grain: 0.03, mottle: 0.03, drift: 0.02, rows: None }
    }

    /// A grown or bare surface: uneven on every scale.
    pub fn natural(colour: Colour) -> Texture {
        Texture { grain: 0.09, mottle: 0.13, drift: 0.12, ..Texture::plain(colour) }
    }

    pub fn with_rows(self, rows: Rows) -> Texture {
        Texture { rows: Some(rows), ..self }
    }

    pub fn with_opacity(self, opacity: f32) -> Texture {
        Texture { opacity, ..self }
    }
}

/// Drawing order, from the ground up. Shadows fall between `Vehicle` and `Roof`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    Cover,
    Flat,
    Water,
    Road,
    Marking,
    Vehicle,
    Roof,
    Crown,
    Tall,
}

/// One stroke of the painter.
#[derive(Debug, Clone)]
pub enum Brush {
    Fill {
        layer: Layer,
        outline: Vec<Point>,
        texture: Texture,
    },
    Stroke {
        layer: Layer,
        line: Vec<Point>,
        width: f32,
        dash: Option<(f32, f32)>,
        texture: Texture,
    },
    /// A tree seen from above, lit from the sun's side; it casts a shadow.
    Crown {
        centre: Point,
        radius: f32,
        colour: Colour,
    },
    /// The shadow of a prism over `outline`.
    Shadow {
        outline: Vec<Point>,
        height: f32,
    },
    /// The shadow of something thin: the line itself lies where the shadow falls.
    ShadowLine {
        line: Vec<Point>,
        width: f32,
    },
}

impl Brush {
    pub fn fill(layer: Layer, outline: Vec<Point>, texture: Texture) -> Brush {
        Brush::Fill { layer, outline, texture }
    }

    pub fn stroke(layer: Layer, line: Vec<Point>, width: f32, texture: Texture) -> Brush {
        Brush::Stroke { layer, line, width, dash: None, texture }
    }

    pub fn dashed(layer: Layer, line: Vec<Point>, width: f32, dash: (f32, f32), texture: Texture) -> Brush {
        Brush::Stroke { layer, line, width, dash: Some(dash), texture }
    }
}

/// The geometry that OpenStreetMap would hold.
#[derive(Debug, Clone)]
pub enum Shape {
    /// A node.
    Node(Point),
    /// An open way; `width` in scene units is what it covers.
    Way { line: Vec<Point>, width: f32 },
    /// A closed way.
    Area(Vec<Point>),
}

/// An object of the map with the brushes that draw it.
#[derive(Debug, Clone)]
pub struct Object {
    pub tags: Tags,
    pub shape: Shape,
    pub brushes: Vec<Brush>,
}

impl Object {
    pub fn area(tags: Tags, outline: Vec<Point>, brushes: Vec<Brush>) -> Object {
        Object { tags, shape: Shape::Area(outline), brushes }
    }

    pub fn node(tags: Tags, place: Point, brushes: Vec<Brush>) -> Object {
        Object { tags, shape: Shape::Node(place), brushes }
    }
}

/// All of a tile: the focus object comes first among the tagged ones.
#[derive(Debug, Clone)]
pub struct Scene {
    /// Width in scene units; the short side is the country's `view_units`.
    pub width: f32,
    /// Objects; those without tags (cars, lone trees) are drawn but not mapped.
    pub objects: Vec<Object>,
    /// Index of the focus object in `objects`.
    pub focus: usize,
    /// Snow lies on the ground.
    pub winter: bool,
    /// Where shadows fall: direction and length per unit of height.
    pub shadow: Point,
}

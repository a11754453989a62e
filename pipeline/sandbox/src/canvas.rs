//! Rasterisation: brushes become anti-aliased pixels. Coverage comes from tiny-skia; colour is
//! computed for each pixel, so that every surface can have grain and rows.

use tiny_skia::{FillRule, LineCap, LineJoin, Mask, Path, PathBuilder, Stroke, StrokeDash, Transform};

use crate::geometry::{Point, signed_area};
use crate::noise::Noise;
use crate::scene::{Brush, Colour, Layer, Rows, Scene, Texture, mix};

const SNOW: Colour = [232.0, 238.0, 246.0];
/// Darkest a cast shadow makes each channel: the sky lights it blue.
const SHADOW: Colour = [0.42, 0.46, 0.56];

/// Draws a scene on `width` x `height` pixels; row-major sRGB, channels 0-255 (not yet clamped).
/// The noise depends on `seed` alone. Returns `None` only for an empty size.
pub fn draw(scene: &Scene, width: u32, height: u32, seed: u64) -> Option<Vec<Colour>> {
    let mut canvas = Canvas::new(scene, width, height, seed)?;
    let mut brushes: Vec<(Layer, &Brush)> = scene
        .objects
        .iter()
        .flat_map(|object| &object.brushes)
        .filter_map(|brush| Some((layer_of(brush)?, brush)))
        .collect();
    brushes.sort_by_key(|&(layer, _)| layer);
    let split = |bound: Layer| brushes.partition_point(|&(layer, _)| layer < bound);
    let (water, roofs) = (split(Layer::Water), split(Layer::Roof));
    for &(layer, brush) in &brushes[..water] {
        canvas.apply(layer, brush);
    }
    if scene.winter {
        canvas.snow();
    }
    for &(layer, brush) in &brushes[water..roofs] {
        canvas.apply(layer, brush);
    }
    for brush in scene.objects.iter().flat_map(|object| &object.brushes) {
        canvas.cast(brush);
    }
    canvas.darken();
    for &(layer, brush) in &brushes[roofs..] {
        canvas.apply(layer, brush);
    }
    Some(canvas.pixels)
}

fn layer_of(brush: &Brush) -> Option<Layer> {
    match brush {
        Brush::Fill { layer, .. } | Brush::Stroke { layer, .. } => Some(*layer),
        Brush::Crown { .. } => Some(Layer::Crown),
        Brush::Shadow { .. } | Brush::ShadowLine { .. } => None,
    }
}

struct Canvas {
    width: usize,
    height: usize,
    /// Pixels per scene unit.
    scale: f32,
    pixels: Vec<Colour>,
    /// Coverage of the path at hand; zero between calls.
    mask: Mask,
    /// Coverage by shadows, 0-1.
    shade: Vec<f32>,
    noise: Noise,
    winter: bool,
    shadow: Point,
}

impl Canvas {
    fn new(scene: &Scene, width: u32, height: u32, seed: u64) -> Option<Canvas> {
        let scale = width as f32 / scene.width;
        let (columns, rows) = (width as usize, height as usize);
        Some(Canvas {
            width: columns,
            height: rows,
            scale,
            pixels: vec![[128.0; 3]; columns * rows],
            mask: Mask::new(width, height)?,
            shade: vec![0.0; columns * rows],
            noise: Noise::new(seed, columns, rows, scale),
            winter: scene.winter,
            shadow: scene.shadow,
        })
    }

    fn apply(&mut self, layer: Layer, brush: &Brush) {
        match brush {
            Brush::Fill { outline, texture, .. } => {
                if let Some(path) = path(outline, true) {
                    self.paint(&path, layer, texture);
                }
            }
            Brush::Stroke { line, width, dash, texture, .. } => {
                if let Some(path) = stroked(line, *width, *dash, self.scale) {
                    self.paint(&path, layer, texture);
                }
            }
            Brush::Crown { centre, radius, colour } => self.crown(*centre, *radius, *colour),
            Brush::Shadow { .. } | Brush::ShadowLine { .. } => {}
        }
    }

    /// Fills the mask with a path; returns the touched columns and rows.
    fn cover(&mut self, path: &Path) -> Option<(std::ops::Range<usize>, std::ops::Range<usize>)> {
        let bounds = path.bounds();
        let range = |low: f32, high: f32, limit: usize| {
            let low = (low * self.scale - 1.0).max(0.0) as usize;
            let high = ((high * self.scale + 2.0).max(0.0) as usize).min(limit);
            (low < high).then_some(low..high)
        };
        let columns = range(bounds.left(), bounds.right(), self.width)?;
        let rows = range(bounds.top(), bounds.bottom(), self.height)?;
        let transform = Transform::from_scale(self.scale, self.scale);
        self.mask.fill_path(path, FillRule::Winding, true, transform);
        Some((columns, rows))
    }

    fn paint(&mut self, path: &Path, layer: Layer, texture: &Texture) {
        let Some((columns, rows)) = self.cover(path) else {
            return;
        };
        let texture = self.in_season(layer, texture);
        let stripes = texture.rows.map(|rows| Stripes::new(rows, self.scale));
        let data = self.mask.data_mut();
        for y in rows {
            for x in columns.clone() {
                let index = y * self.width + x;
                let coverage = data[index];
                if coverage == 0 {
                    continue;
                }
                data[index] = 0;
                let mut colour = texture.colour;
                if let Some(stripes) = &stripes {
                    let share = stripes.share(x as f32, y as f32, self.noise.drift[index]);
                    colour = mix(colour, stripes.colour, share);
                }
                let light = 1.0
                    + texture.grain * self.noise.grain[index]
                    + texture.mottle * self.noise.mottle[index]
                    + texture.drift * self.noise.drift[index];
                let share = texture.opacity * f32::from(coverage) / 255.0;
                self.pixels[index] = mix(self.pixels[index], colour.map(|c| c * light), share);
            }
        }
    }

    /// What snow and ice make of a surface that is drawn after the snow fell.
    fn in_season(&self, layer: Layer, texture: &Texture) -> Texture {
        if !self.winter {
            return *texture;
        }
        let (white, opacity) = match layer {
            Layer::Cover | Layer::Flat | Layer::Vehicle | Layer::Tall => (0.0, 1.0),
            Layer::Water => (0.62, 1.0),
            Layer::Road => (0.34, 1.0),
            Layer::Marking => (0.1, 0.5),
            Layer::Roof => (0.6, 1.0),
            Layer::Crown => (0.2, 1.0),
        };
        let cold = |colour: Colour| mix(colour, SNOW, white);
        Texture {
            colour: cold(texture.colour),
            opacity: texture.opacity * opacity,
            rows: texture.rows.map(|rows| Rows { colour: cold(rows.colour), ..rows }),
            ..*texture
        }
    }

    fn snow(&mut self) {
        for (index, pixel) in self.pixels.iter_mut().enumerate() {
            let light = 1.0 + 0.04 * self.noise.mottle[index] + 0.05 * self.noise.drift[index];
            *pixel = mix(*pixel, SNOW.map(|c| c * light), 0.82);
        }
    }

    /// A crown is a lumpy ball: bright towards the sun, dark behind.
    fn crown(&mut self, centre: Point, radius: f32, colour: Colour) {
        let colour = if self.winter { mix(colour, SNOW, 0.16) } else { colour };
        let size = radius * self.scale;
        let (cx, cy) = (centre.x * self.scale, centre.y * self.scale);
        let sun = self.shadow * (-1.0 / self.shadow.length().max(1e-3));
        for (index, x, y) in disk(self.width, self.height, cx, cy, size * 1.2) {
            let (dx, dy) = ((x - cx) / size, (y - cy) / size);
            let distance = (dx * dx + dy * dy).sqrt() * (1.0 - 0.16 * self.noise.mottle[index]);
            let coverage = ((1.0 - distance) * size + 0.5).clamp(0.0, 1.0);
            if coverage > 0.0 {
                let light = 0.86 + 0.34 * (dx * sun.x + dy * sun.y) + 0.22 * self.noise.grain[index] - 0.1 * distance;
                let lit = colour.map(|c| c * light.max(0.3));
                self.pixels[index] = mix(self.pixels[index], lit, coverage);
            }
        }
    }

    /// Adds a brush's shadow to the shade.
    fn cast(&mut self, brush: &Brush) {
        match brush {
            Brush::Shadow { outline, height } => {
                if let Some(path) = prism_shadow(outline, self.shadow * *height) {
                    self.shade_path(&path);
                }
            }
            Brush::ShadowLine { line, width } => {
                if let Some(path) = stroked(line, *width, None, self.scale) {
                    self.shade_path(&path);
                }
            }
            Brush::Crown { centre, radius, .. } => {
                for reach in [0.7, 1.5] {
                    let place = *centre + self.shadow * (radius * reach);
                    self.shade_disk(place, radius * 0.95);
                }
            }
            Brush::Fill { .. } | Brush::Stroke { .. } => {}
        }
    }

    fn shade_path(&mut self, path: &Path) {
        let Some((columns, rows)) = self.cover(path) else {
            return;
        };
        let data = self.mask.data_mut();
        for y in rows {
            for x in columns.clone() {
                let index = y * self.width + x;
                let coverage = f32::from(data[index]) / 255.0;
                data[index] = 0;
                self.shade[index] = self.shade[index].max(coverage);
            }
        }
    }

    fn shade_disk(&mut self, centre: Point, radius: f32) {
        let size = radius * self.scale;
        let (cx, cy) = (centre.x * self.scale, centre.y * self.scale);
        for (index, x, y) in disk(self.width, self.height, cx, cy, size + 1.0) {
            let distance = ((x - cx).powi(2) + (y - cy).powi(2)).sqrt();
            let coverage = (size - distance + 0.5).clamp(0.0, 1.0);
            self.shade[index] = self.shade[index].max(coverage);
        }
    }

    fn darken(&mut self) {
        let strength = if self.winter { 0.6 } else { 0.85 };
        for (pixel, &shade) in self.pixels.iter_mut().zip(&self.shade) {
            let share = shade * strength;
            *pixel = [0, 1, 2].map(|c| pixel[c] * (1.0 - share * (1.0 - SHADOW[c])));
        }
    }
}

/// Pixels whose centre may lie in a disk: index and coordinates.
fn disk(width: usize, height: usize, cx: f32, cy: f32, radius: f32) -> impl Iterator<Item = (usize, f32, f32)> {
    let range = |centre: f32, limit: usize| {
        let low = (centre - radius).max(0.0) as usize;
        let high = ((centre + radius + 1.0).max(0.0) as usize).min(limit);
        low.min(high)..high
    };
    let columns = range(cx, width);
    range(cy, height).flat_map(move |y| columns.clone().map(move |x| (y * width + x, x as f32 + 0.5, y as f32 + 0.5)))
}

/// Rows prepared for pixels.
struct Stripes {
    colour: Colour,
    across: Point,
    wander: f32,
    share: f32,
    /// Width of the soft edge, in halves of a period.
    edge: f32,
}

impl Stripes {
    fn new(rows: Rows, scale: f32) -> Stripes {
        let period_px = rows.period * scale;
        Stripes {
            colour: rows.colour,
            across: Point::from_angle(rows.angle) * (1.0 / period_px),
            wander: rows.wander / rows.period,
            share: rows.share,
            edge: 2.0 / period_px.max(2.0),
        }
    }

    /// How much of the stripes' colour a pixel has.
    fn share(&self, x: f32, y: f32, drift: f32) -> f32 {
        let phase = x * self.across.x + y * self.across.y + self.wander * drift * 3.0;
        let distance = (phase - phase.floor() - 0.5).abs() * 2.0;
        ((self.share - distance) / self.edge + 0.5).clamp(0.0, 1.0)
    }
}

fn path(points: &[Point], close: bool) -> Option<Path> {
    let (first, rest) = points.split_first()?;
    let mut builder = PathBuilder::new();
    builder.move_to(first.x, first.y);
    for point in rest {
        builder.line_to(point.x, point.y);
    }
    if close {
        builder.close();
    }
    builder.finish()
}

fn stroked(line: &[Point], width: f32, dash: Option<(f32, f32)>, scale: f32) -> Option<Path> {
    let path = path(line, false)?;
    let path = match dash.and_then(|(on, off)| StrokeDash::new(vec![on, off], 0.0)) {
        Some(dash) => path.dash(&dash, scale)?,
        None => path,
    };
    let stroke = Stroke { width, line_cap: LineCap::Butt, line_join: LineJoin::Round, ..Stroke::default() };
    path.stroke(&stroke, scale)
}

/// The area between a footprint and its copy moved by `reach`: the footprint itself, the copy and
/// one quad for each edge, all turning the same way so that the winding rule joins them.
fn prism_shadow(outline: &[Point], reach: Point) -> Option<Path> {
    let mut builder = PathBuilder::new();
    let mut add = |polygon: &[Point]| {
        let forward = signed_area(polygon) >= 0.0;
        for index in 0..polygon.len() {
            let point = polygon[if forward { index } else { polygon.len() - 1 - index }];
            if index == 0 {
                builder.move_to(point.x, point.y);
            } else {
                builder.line_to(point.x, point.y);
            }
        }
        builder.close();
    };
    let moved: Vec<Point> = outline.iter().map(|&point| point + reach).collect();
    add(outline);
    add(&moved);
    for index in 0..outline.len() {
        let next = (index + 1) % outline.len();
        add(&[outline[index], outline[next], moved[next], moved[index]]);
    }
    builder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::{Frame, at};
    use crate::scene::{Object, Tags};

    fn scene(brushes: Vec<Brush>) -> Scene {
        Scene {
            width: 20.0,
            objects: vec![Object::area(Tags::new(), Vec::new(), brushes)],
            focus: 0,
            winter: false,
            shadow: at(0.0, -1.0),
        }
    }

    fn flat(colour: Colour) -> Texture {
        Texture { grain: 0.0, mottle: 0.0, drift: 0.0, ..Texture::plain(colour) }
    }

    #[test]
    fn layers_are_drawn_in_their_order_whatever_the_list_says() -> Result<(), String> {
        let square = Frame::new(at(10.0, 10.0), 0.0).rectangle(8.0, 8.0);
        let scene = scene(vec![
            Brush::fill(Layer::Roof, square.clone(), flat([200.0, 0.0, 0.0])),
            Brush::fill(Layer::Cover, square, flat([0.0, 200.0, 0.0])),
        ]);
        let pixels = draw(&scene, 20, 20, 1).ok_or("empty")?;
        assert_eq!(pixels[10 * 20 + 10], [200.0, 0.0, 0.0]);
        assert_eq!(pixels[0], [128.0; 3]);
        Ok(())
    }

    #[test]
    fn a_shadow_falls_where_it_points_and_not_behind() -> Result<(), String> {
        let square = Frame::new(at(10.0, 12.0), 0.0).rectangle(6.0, 4.0);
        let pixels = draw(&scene(vec![Brush::Shadow { outline: square, height: 5.0 }]), 20, 20, 1).ok_or("empty")?;
        assert!(pixels[7 * 20 + 10][0] < 90.0, "up is dark");
        assert_eq!(pixels[17 * 20 + 10], [128.0; 3], "down is not");
        Ok(())
    }
}

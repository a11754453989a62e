//! Rivers, lakes and shores as subjects.

use std::f32::consts::{FRAC_PI_2, PI};

use super::centred;
use crate::composer::{Composer, Setting};

use crate::geometry::{Frame, Point, offset};
use crate::objects::Cover;
use crate::scene::{Brush, Layer, Object, Shape, Texture, tags};

/// Open water or a river in the land, with a road or a parcel beside it.
pub fn banks(c: &mut Composer) {
    let cover = c.open_land();
    c.base(cover);
    if c.dice().chance(0.7) {
        let cover = c.open_land();
        let distance = c.dice().range(-4.0, 12.0);
        c.beyond(cover, distance);
    }
}

pub fn river(c: &mut Composer) {
    banks(c);
    let (value, width) = c.dice().weighted(&[(3.0, ("river", 20.0)), (1.5, ("stream", 4.5))]);
    let width = width * c.maker.dice.range(0.8, 1.25);
    let middle = c.middle();
    let bend = c.dice().range(8.0, 18.0);
    let line = c.line(middle, bend);
    c.clear_crowns(&line, width + 6.0);
    let focus = c.maker.watercourse(line, value, width);
    c.add_focus(focus);
    if c.dice().chance(0.5) {
        let road = c.dice().choose(&["track", "tertiary", "cycleway"]);
        let distance = width / 2.0 + c.maker.dice.range(14.0, 22.0);
        c.side_road_along(road, distance);
    }
    c.fill(Setting::Rural, 5);
}

pub fn canal(c: &mut Composer) {
    banks(c);
    let width = c.maker.dice.range(10.0, 15.0);
    let middle = c.middle();
    let line = c.line(middle, 0.0);
    c.clear_crowns(&line, width + 8.0);
    let focus = c.maker.watercourse(line, "canal", width);
    c.add_focus(focus);
    let distance = width / 2.0 + 7.0;
    let road = c.dice().choose(&["track", "service", "cycleway"]);
    c.side_road_along(road, distance);
    c.fill(Setting::Rural, 5);
    c.scatter_trees(0.4);
}

pub fn bridge(c: &mut Composer) {
    banks(c);
    let width = c.maker.dice.range(18.0, 26.0);
    let middle = c.middle();
    let line = c.line(middle, 8.0);
    let value = c.dice().choose(&["tertiary", "primary", "residential"]);
    let across = middle.inner(0.0, 0.0, FRAC_PI_2 + c.maker.dice.range(-0.25, 0.25));
    let road_line = c.line(across, 0.0);
    c.clear_crowns(&line, width + 6.0);
    c.clear_crowns(&road_line, 16.0);
    let water = c.maker.watercourse(line, "river", width);
    c.add(water);
    let road = c.maker.road(value, road_line);
    c.add(road);
    let focus = c.maker.bridge(across, width + 12.0, value);
    c.add_focus(focus);
    c.fill(Setting::Rural, 4);
}

pub fn lake(c: &mut Composer) {
    banks(c);
    let value = c.dice().choose(&["lake", "lake", "pond"]);
    let radius = if value == "lake" { c.dice().range(32.0, 44.0) } else { c.dice().range(15.0, 21.0) };
    let middle = c.middle();
    let focus = c.maker.still_water(middle, radius, value);
    if let Shape::Area(outline) = &focus.shape {
        let shore: Vec<Point> = outline.iter().chain(outline.first()).copied().collect();
        c.clear_crowns(&shore, 4.0);
    }
    c.clear_crowns(&[middle.origin, middle.at(0.1, 0.0)], radius * 2.0);
    c.add_focus(focus);
    if c.dice().chance(0.6) {
        let road = c.dice().choose(&["track", "residential", "tertiary"]);
        let distance = (radius + 8.0).min(c.width.min(c.height) / 2.0 - 2.0);
        c.side_road(road, distance);
    }
    c.fill(Setting::Rural, 6);
}

pub fn reservoir(c: &mut Composer) {
    let radius = c.maker.dice.range(24.0, 30.0);
    centred(c, Setting::Rural, radius, |maker, frame| maker.still_water(frame, radius, "reservoir"));
}

/// Water beyond a shore near the middle: the shore line, with the water on its right.
pub fn shore(c: &mut Composer, bend: f32) -> (Vec<Point>, Vec<Point>) {
    let frame = c.middle().inner(0.0, c.maker.dice.range(-6.0, 2.0), if c.maker.dice.chance(0.5) { PI } else { 0.0 });
    let line = c.line(frame, bend);
    let reach = c.reach();
    let mut water = line.clone();
    water.extend(frame.outline(&[(reach, 2.0 * reach), (-reach, 2.0 * reach)]));
    (line, water)
}

pub fn marina(c: &mut Composer) {
    c.base(Cover::Lawn);
    let (line, water) = shore(c, 0.0);
    let water = c.maker.open_water(water);
    c.add(water);
    let pavement = c.country().palette.pavement;
    let quay = Brush::stroke(Layer::Road, offset(&line, -3.0), 7.0, Texture::plain(pavement));
    let (from, to) = (line[0], line[line.len() - 1]);
    let frame = Frame::new((from + to) * 0.5, (to - from).angle());
    let mut focus_tags = tags(&[("leisure", "marina")]);
    c.maker.annotate(&mut focus_tags, true);
    let basin = frame.outline(&[(-44.0, -6.0), (44.0, -6.0), (44.0, 34.0), (-44.0, 34.0)]);
    c.lay_focus(Object::area(focus_tags, basin, vec![quay]));
    let spacing = 19.0;
    for index in -3..=3 {
        let u = index as f32 * spacing;
        let reach = c.dice().range(22.0, 30.0);
        let jetty = c.maker.jetty(frame.inner(u, 0.0, FRAC_PI_2), reach);
        c.add(jetty);
    }
    c.mark(&Shape::Way { line: offset(&line, -3.0), width: 8.0 });
    let road = c.dice().choose(&["service", "residential", "tertiary"]);
    let width = c.maker.road_width(road);
    let road = c.maker.road(road, offset(&line, -11.0 - width / 2.0));
    c.add(road);
    c.fill(Setting::Park, 6);
    c.scatter_trees(0.8);
}

pub fn beach(c: &mut Composer) {
    let cover = c.dice().choose(&[Cover::Lawn, Cover::Meadow, Cover::Wood]);
    c.base(cover);
    let (line, water) = shore(c, 9.0);
    let depth = c.dice().range(16.0, 22.0);
    let mut sand = line.clone();
    sand.extend(offset(&line, -depth).into_iter().rev());
    c.clear_crowns(&offset(&line, -depth / 2.0), depth + 2.0);
    c.clear_crowns(&offset(&line, 30.0), 64.0);
    let water = c.maker.open_water(water);
    c.add(water);
    let focus = c.maker.beach(&line, sand);
    c.add_focus(focus);
    if c.dice().chance(0.6) {
        let inland = offset(&line, -depth - 9.0);
        c.clear_crowns(&inland, 8.0);
        let value = c.dice().choose(&["footway", "service", "residential"]);
        let road = c.maker.road(value, inland);
        c.add(road);
    }
    c.fill(Setting::Park, 5);
}

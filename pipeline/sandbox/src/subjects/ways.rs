//! Roads, junctions and railways as subjects.

use std::f32::consts::{FRAC_PI_2, TAU};

use super::{ground, road_of};
use crate::composer::{Composer, Setting};

use crate::geometry::offset;
use crate::objects::Cover;
use crate::scene::Shape;

pub fn street(c: &mut Composer, value: &str) {
    c.base(Cover::Lawn);
    let bend = if c.dice().chance(0.45) { c.dice().range(8.0, 16.0) } else { 0.0 };
    let middle = c.middle();
    let line = c.line(middle, bend);
    let focus = c.maker.road(value, line.clone());
    let width = c.maker.road_width(value);
    c.add_focus(focus);
    let mut side = None;
    if c.dice().chance(0.45) {
        let u = c.dice().range(-20.0, 20.0);
        let from = middle.inner(u, 0.0, FRAC_PI_2);
        let reach = c.reach() * c.maker.dice.sign();
        let line = from.outline(&[(0.0, 0.0), (reach, 0.0)]);
        let kind = c.dice().choose(&["residential", "service", "footway"]);
        let road = c.maker.road(kind, line.clone());
        c.add(road);
        side = Some((line, c.maker.road_width(kind)));
    }
    c.houses_along(&line, width);
    if let Some((line, width)) = side {
        c.houses_along(&line, width);
    }
    c.fill(Setting::Suburb, 3);
    if c.dice().chance(0.2) {
        let row = offset(&line, width / 2.0 + 4.0);
        let trees = c.maker.tree_row(row);
        c.lay(trees);
    }
    c.scatter_trees(1.0);
}

/// A road through open land; fields or woods on both sides, sometimes a junction.
pub fn highway(c: &mut Composer, value: &str) {
    let cover = c.open_land();
    c.base(cover);
    if c.dice().chance(0.75) {
        let cover = c.open_land();
        let distance = c.dice().range(0.0, 5.0);
        c.beyond(cover, distance);
    }
    let bend = if c.dice().chance(0.4) { 12.0 } else { 0.0 };
    let middle = c.middle();
    let line = c.line(middle, bend);
    if value != "track" && c.dice().chance(0.4) {
        let turn = FRAC_PI_2 + c.maker.dice.range(-0.5, 0.5);
        let u = c.dice().range(-25.0, 25.0);
        let other = c.line(middle.inner(u, 0.0, turn), 0.0);
        let kind = c.dice().choose(&["track", "tertiary", "residential"]);
        let road = c.maker.road(kind, other);
        c.add(road);
    }
    let focus = c.maker.road(value, line.clone());
    c.add_focus(focus);
    let cleared = c.maker.road_width(value) + 5.0;
    c.clear_crowns(&line, cleared);
    if c.dice().chance(0.35) {
        let row = offset(&line, c.maker.road_width(value) / 2.0 + 6.0);
        let trees = c.maker.tree_row(row);
        c.lay(trees);
    }
    c.fill(Setting::Rural, 4);
}

pub fn crossing(c: &mut Composer) {
    c.base(Cover::Lawn);
    let value = c.dice().choose(&["tertiary", "residential", "primary"]);
    let middle = c.middle();
    let line = c.line(middle, 0.0);
    let width = c.maker.road_width(value);
    let road = c.maker.road(value, line.clone());
    c.add(road);
    let path = middle.inner(0.0, 0.0, FRAC_PI_2);
    let foot = c.line(path, 0.0);
    let foot = c.maker.road("footway", foot);
    c.add(foot);
    let zebra = c.maker.zebra(middle, width);
    c.add_focus(zebra);
    c.houses_along(&line, width);
    let setting = c.dice().choose(&[Setting::Suburb, Setting::Town]);
    c.fill(setting, 4);
    c.scatter_trees(0.7);
}

pub fn roundabout(c: &mut Composer) {
    let setting = c.dice().choose(&[Setting::Suburb, Setting::Rural, Setting::Town]);
    ground(c, setting, 30.0);
    let value = c.dice().choose(&["tertiary", "primary", "residential"]);
    let middle = c.middle();
    let arms = c.dice().whole(3, 4);
    let reach = c.reach();
    let mut streets = Vec::new();
    for arm in 0..arms {
        let turn = arm as f32 / arms as f32 * TAU + c.maker.dice.range(-0.15, 0.15);
        let line = middle.inner(0.0, 0.0, turn).outline(&[(4.0, 0.0), (reach, 0.0)]);
        let kind = if arm < 2 { value } else { "residential" };
        let road = c.maker.road(kind, line.clone());
        c.add(road);
        streets.push((line, c.maker.road_width(kind)));
    }
    let radius = c.dice().range(13.0, 16.0);
    let ring = c.maker.roundabout(middle, radius, value);
    c.add_focus(ring);
    c.mark(&Shape::Area(middle.ellipse(radius + 8.0, radius + 8.0)));
    if setting == Setting::Suburb {
        for (line, width) in &streets {
            c.houses_along(line, *width);
        }
    }
    c.fill(setting, 5);
    c.scatter_trees(0.8);
}

pub fn railway(c: &mut Composer) {
    let setting = c.dice().choose(&[Setting::Rural, Setting::Industrial, Setting::Suburb]);
    ground(c, setting, 10.0);
    let tracks = c.dice().whole(1, 4);
    let middle = c.middle();
    let bend = if c.dice().chance(0.3) { 9.0 } else { 0.0 };
    let line = c.line(middle, bend);
    c.clear_crowns(&line, tracks as f32 * 6.0 + 8.0);
    let focus = c.maker.railway(&line, tracks);
    c.add_focus(focus);
    if c.dice().chance(0.6) {
        let value = road_of(c, setting);
        let distance = tracks as f32 * 3.0 + c.maker.dice.range(9.0, 20.0);
        let line = c.side_road_along(value, distance);
        if setting == Setting::Suburb {
            let width = c.maker.road_width(value);
            c.houses_along(&line, width);
        }
    }
    c.fill(setting, 5);
    c.scatter_trees(0.7);
}

//! Open land, sports and single works as subjects.

use super::centred;
use crate::composer::{Composer, Setting};

use crate::geometry::Point;
use crate::objects::Cover;
use crate::scene::Shape;

/// A parcel as the focus, with a neighbour parcel, a way along the edge and a few things on it.
pub fn land(c: &mut Composer, cover: Cover) {
    let (outline, angle) = (c.everywhere(), c.angle);
    let focus = c.maker.parcel(cover, outline, angle);
    c.lay_focus(focus);
    if c.dice().chance(0.75) {
        let distance = c.dice().range(16.0, 34.0);
        let mut other = c.open_land();
        if other == cover {
            other = Cover::Meadow;
        }
        let edge = c.beyond(other, distance);
        let with_road = c.dice().chance(0.6);
        if with_road {
            let value = c.dice().choose(&["track", "track", "tertiary", "unclassified"]);
            let road = c.maker.road(value, edge.clone());
            c.add(road);
        }
        c.clear_crowns(&edge, if with_road { 11.0 } else { 3.0 });
    } else if c.dice().chance(0.6) {
        let distance = c.dice().range(-10.0, 10.0);
        let frame = c.middle().inner(0.0, distance, 0.0);
        let line = c.line(frame, 9.0);
        let value = if cover == Cover::Wood && c.dice().chance(0.4) { "path" } else { "track" };
        c.clear_crowns(&line, 7.0);
        let road = c.maker.road(value, line);
        c.add(road);
    }
    if c.maker.winter {
        let frame = c.middle().inner(0.0, 14.0, 0.7);
        let line = c.line(frame, 10.0);
        c.clear_crowns(&line, 9.0);
        let track = c.maker.ski_track(line);
        c.add(track);
    }
    // Keep the middle for the focus: only the rim is built on.
    let middle = c.middle();
    c.mark(&Shape::Area(middle.ellipse(26.0, 26.0)));
    if cover != Cover::Wood {
        let count = c.dice().whole(1, 4);
        c.fill(Setting::Rural, count);
    }
}

pub fn soccer(c: &mut Composer) {
    let width = c.maker.dice.range(60.0, 70.0);
    centred(c, Setting::Park, 28.0, |maker, frame| maker.soccer(frame, width));
}

pub fn tennis(c: &mut Composer) {
    let courts = c.maker.dice.whole(1, 4);
    centred(c, Setting::Park, 20.0, |maker, frame| maker.tennis(frame, courts));
}

pub fn solar(c: &mut Composer) {
    let width = c.maker.dice.range(50.0, 66.0);
    centred(c, Setting::Rural, 26.0, |maker, frame| maker.solar(frame, width, 44.0));
}

pub fn turbine(c: &mut Composer) {
    let covers = [Cover::Farmland, Cover::Meadow, Cover::Farmland];
    let cover = c.dice().choose(&covers);
    c.base(cover);
    if c.dice().chance(0.6) {
        let cover = c.open_land();
        c.beyond(cover, 30.0);
    }
    c.side_road("track", 22.0);
    let middle = c.middle();
    let shadow = Point::from_angle(c.country().shadow_degrees.to_radians());
    let foot = middle.origin - shadow * 12.0;
    let focus = c.maker.wind_turbine(foot);
    c.add_focus(focus);
    let way = vec![foot, foot + shadow * 46.0];
    c.mark(&Shape::Way { line: way, width: 26.0 });
    c.fill(Setting::Rural, 3);
}

pub fn cemetery(c: &mut Composer) {
    let (width, depth) = (c.maker.dice.range(48.0, 60.0), c.maker.dice.range(36.0, 46.0));
    centred(c, Setting::Suburb, depth / 2.0 + 4.0, |maker, frame| maker.cemetery(frame, width, depth));
}

pub fn allotments(c: &mut Composer) {
    let (width, depth) = (c.maker.dice.range(54.0, 66.0), c.maker.dice.range(36.0, 48.0));
    centred(c, Setting::Suburb, depth / 2.0 + 5.0, |maker, frame| maker.allotments(frame, width, depth));
}

//! Buildings and yards as subjects.

use std::f32::consts::FRAC_PI_2;

use super::{centred, ground, road_of};
use crate::composer::{Composer, Setting};

use crate::geometry::Frame;
use crate::objects::Cover;
use crate::scene::{Brush, Layer, Object, Texture, tags};

pub fn house(c: &mut Composer) {
    c.base(Cover::Lawn);
    let value = c.dice().choose(&["residential", "service", "residential"]);
    let width = c.maker.road_width(value);
    let distance = c.dice().range(18.0, 22.0) + width / 2.0;
    let line = c.side_road(value, distance);
    let middle = c.middle();
    let focus = c.maker.house(middle, 1.6);
    c.add_focus(focus);
    c.houses_along(&line, width);
    let country = c.country().index;
    let pool_share = [0.0, 0.15, 0.6][country];
    let winter = c.maker.winter;
    if !winter
        && c.dice().chance(pool_share)
        && let Some(frame) = c.place(8.0)
    {
        let pool = c.maker.pool(frame, 10.0);
        c.add(pool);
    }
    c.fill(Setting::Suburb, 4);
    c.scatter_trees(1.0);
}

pub fn apartments(c: &mut Composer) {
    ground(c, Setting::Town, 0.0);
    let value = c.dice().choose(&["residential", "tertiary", "service"]);
    let width = c.maker.road_width(value);
    let edge = c.width.min(c.height) / 2.0;
    let distance = (edge * 0.72).min(30.0 + width);
    c.side_road(value, distance);
    let middle = c.middle();
    let blocks = c.dice().whole(2, 3);
    let size = c.dice().range(34.0, 42.0);
    let focus = c.maker.apartments(middle, size);
    c.add_focus(focus);
    for block in 1..blocks {
        let v = 24.0 * block as f32 * if block % 2 == 0 { -0.5 } else { 1.0 };
        let shift = c.dice().range(-6.0, 6.0);
        let frame = middle.inner(shift, v, 0.0);
        if c.free(frame.origin, 9.0) {
            let other = c.maker.apartments(frame, size);
            c.add(other);
        }
    }
    c.fill(Setting::Town, 6);
    c.scatter_trees(0.8);
}

pub fn hall(c: &mut Composer, value: &'static str) {
    let (width, depth) = (c.maker.dice.range(44.0, 56.0), c.maker.dice.range(26.0, 34.0));
    let middle = c.middle();
    ground(c, Setting::Industrial, 0.0);
    if value == "retail" {
        let lot = middle.inner(0.0, depth / 2.0 + 14.0, 0.0);
        let parking = c.maker.parking(lot, width + 8.0, 2);
        c.add(parking);
    }
    let road = road_of(c, Setting::Industrial);
    let distance = depth / 2.0 + 9.0;
    let line = c.line(middle.inner(0.0, -distance, 0.0), 0.0);
    let road = c.maker.road(road, line);
    c.add(road);
    let focus = c.maker.hall(middle, width, depth, value);
    c.add_focus(focus);
    c.fill(Setting::Industrial, 7);
    c.scatter_trees(0.25);
}

pub fn greenhouse(c: &mut Composer) {
    let bays = c.maker.dice.whole(4, 7);
    centred(c, Setting::Rural, 30.0, |maker, frame| maker.greenhouse(frame, bays));
}

pub fn pool(c: &mut Composer) {
    let length = if c.dice().chance(0.3) { 34.0 } else { c.dice().range(15.0, 20.0) };
    centred(c, Setting::Suburb, length * 0.6, |maker, frame| maker.pool(frame, length));
}

pub fn parking(c: &mut Composer) {
    let rows = c.maker.dice.whole(3, 5);
    let width = c.maker.dice.range(46.0, 62.0);
    let setting = c.dice().choose(&[Setting::Town, Setting::Industrial, Setting::Park]);
    centred(c, setting, rows as f32 * 5.25 + 3.0, |maker, frame| {
        maker.parking(Frame::new(frame.origin, frame.angle), width, rows)
    });
}

pub fn tanks(c: &mut Composer) {
    ground(c, Setting::Industrial, 0.0);
    let middle = c.middle();
    let ground = middle.rectangle(70.0, 50.0);
    let soil = c.country().palette.gravel;
    let pad = Brush::fill(Layer::Flat, ground, Texture::natural(soil));
    c.lay(Object::area(tags(&[("landuse", "industrial")]), middle.rectangle(70.0, 50.0), vec![pad]));
    let (columns, rows) = (c.dice().whole(2, 3), c.dice().whole(1, 2));
    let radius = c.dice().range(8.5, 11.0);
    for index in 0..columns * rows {
        let (column, row) = (index % columns, index / columns);
        let u = (column as f32 - (columns as f32 - 1.0) / 2.0) * radius * 2.5;
        let v = (row as f32 - (rows as f32 - 1.0) / 2.0) * radius * 2.5;
        let tank = c.maker.tank(middle.inner(u, v, 0.0), radius * c.country().road_scale.clamp(0.95, 1.05));
        if index == 0 {
            c.add_focus(tank);
        } else {
            c.add(tank);
        }
    }
    let value = road_of(c, Setting::Industrial);
    c.side_road(value, 36.0);
    c.fill(Setting::Industrial, 6);
    c.scatter_trees(0.3);
}

pub fn farm(c: &mut Composer) {
    ground(c, Setting::Rural, 34.0);
    let middle = c.middle();
    let gravel = c.country().palette.gravel;
    let yard = middle.rectangle(58.0, 46.0);
    let brushes = vec![Brush::fill(Layer::Flat, yard.clone(), Texture::natural(gravel))];
    let mut focus_tags = tags(&[("landuse", "farmyard")]);
    c.maker.annotate(&mut focus_tags, true);
    c.lay_focus(Object::area(focus_tags, yard, brushes));
    for (u, v, turn) in [(-8.0, -14.0, 0.0), (20.0, 4.0, FRAC_PI_2), (-14.0, 14.0, 0.0)] {
        let barn = c.maker.barn(middle.inner(u, v, turn));
        c.add(barn);
    }
    let silo = c.maker.silo(middle.inner(3.0, 8.0, 0.0), 1);
    c.add(silo);
    c.side_road("track", 32.0);
    c.fill(Setting::Rural, 4);
    c.scatter_trees(0.6);
}

//! Houses on their plots, and the clutter of yards.

use std::f32::consts::FRAC_PI_2;

use super::Composer;
use crate::geometry::{Frame, Point, along, blob, length, offset};
use crate::scene::{Brush, Layer, Object, Shape, Tags, Texture, lit, mix};

impl Composer {
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
                if let Some(place) = along(&row, distance).filter(|place| built && self.inside(place.origin, 3.0)) {
                    let turn = if self.dice().chance(0.7) { 0.0 } else { FRAC_PI_2 };
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
        let ground = self.maker.varied(if paved { palette.pavement } else { palette.lawn }, 0.14);
        let outline = frame.rectangle(step - 0.8, 24.0);
        let mut brushes = vec![Brush::fill(Layer::Cover, outline.clone(), Texture::natural(ground))];
        if self.dice().chance([0.35, 0.8, 0.7][country.index]) {
            let edge = if country.index == 2 { palette.pavement } else { lit(palette.broadleaved, 0.75) };
            let fence: Vec<Point> = outline.iter().chain(outline.first()).copied().collect();
            brushes.push(Brush::stroke(Layer::Cover, fence, 0.9, Texture::natural(edge)));
        }
        if self.dice().chance(0.5) {
            let bed = frame.inner(self.maker.dice.range(-0.3, 0.3) * step, self.maker.dice.sign() * 9.0, 0.0);
            let (width, depth) = (self.dice().range(2.5, 6.0), self.dice().range(2.0, 4.0));
            let soil = self.maker.varied(mix(palette.soil, palette.broadleaved, 0.3), 0.15);
            brushes.push(Brush::fill(Layer::Cover, bed.rectangle(width, depth), Texture::natural(soil)));
        }
        self.lay(Object::area(Tags::new(), Vec::new(), brushes));
    }

    /// A paved strip from a house to the street; drawn, not mapped.
    fn drive(&mut self, house: Frame, to_street: f32) {
        if self.dice().chance(0.6) {
            let line = house.outline(&[(5.0, 0.0), (5.0, to_street)]);
            let colour = self.country().palette.pavement;
            let brushes = vec![Brush::stroke(Layer::Flat, line, 2.2, Texture::plain(colour))];
            self.lay(Object::area(Tags::new(), Vec::new(), brushes));
        }
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
                brushes.push(Brush::Shadow { outline: frame.rectangle(8.0, 2.6), height: 2.6 });
                brushes.push(Brush::fill(Layer::Roof, frame.rectangle(8.0, 2.6), Texture::plain(colour)));
                self.mark(&shape);
            }
        }
        self.lay(Object::area(Tags::new(), Vec::new(), brushes));
    }
}

//! What stands around a focus object, by the kind of place and the country.

use super::Composer;
use crate::geometry::blob;
use crate::objects::Cover;

/// What kind of place a tile shows: decides what else stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    Suburb,
    Town,
    Rural,
    Industrial,
    Park,
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

impl Composer {
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
            Setting::Industrial => {
                self.dice().weighted(&[(4.0, Hall), (2.5, Parking), (1.4, Tank), (0.5 * cold, Solar), (0.5, Silo)])
            }
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
            Neighbour::Orchard => maker.parcel(Cover::Orchard, frame.rectangle(30.0, 20.0), frame.angle),
            Neighbour::Tennis => maker.tennis(frame, 1),
        };
        self.add(object);
    }
}

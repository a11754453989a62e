//! The subjects of the tiles: what the focus object is, how the place around it is laid out, and
//! how common it is in each country.

mod built;
mod land;
mod waters;
mod ways;

use std::f32::consts::FRAC_PI_2;

use crate::composer::{Composer, Setting};
use crate::geometry::Frame;
use crate::objects::{Cover, Maker};
use crate::scene::{Object, Shape};

/// A subject: arranges a whole scene around one focus object.
pub struct Subject {
    pub name: &'static str,
    /// How common it is in Finland, Germany and Spain.
    weights: [f32; 3],
    /// Can be told under snow.
    winter: bool,
    pub arrange: fn(&mut Composer),
}

const fn subject(name: &'static str, weights: [f32; 3], winter: bool, arrange: fn(&mut Composer)) -> Subject {
    Subject { name, weights, winter, arrange }
}

/// All subjects.
pub static SUBJECTS: &[Subject] = &[
    subject("residential road", [3.0, 4.0, 4.0], true, |c| ways::street(c, "residential")),
    subject("primary road", [2.0, 2.0, 2.0], true, |c| ways::highway(c, "primary")),
    subject("motorway", [1.0, 2.0, 1.5], true, |c| ways::highway(c, "motorway")),
    subject("service road", [1.0, 1.5, 1.0], true, |c| ways::street(c, "service")),
    subject("track", [2.0, 2.5, 2.5], false, |c| ways::highway(c, "track")),
    subject("crossing", [1.0, 1.5, 1.5], true, ways::crossing),
    subject("roundabout", [0.7, 1.0, 2.0], true, ways::roundabout),
    subject("house", [2.0, 2.5, 2.5], true, built::house),
    subject("apartments", [2.0, 2.0, 2.0], true, built::apartments),
    subject("industrial hall", [1.5, 2.0, 2.0], true, |c| built::hall(c, "industrial")),
    subject("retail hall", [1.0, 1.5, 1.0], true, |c| built::hall(c, "retail")),
    subject("school", [1.2, 1.2, 1.2], true, |c| centred(c, Setting::Suburb, 30.0, Maker::school)),
    subject("church", [0.8, 1.3, 1.2], true, |c| centred(c, Setting::Suburb, 28.0, Maker::church)),
    subject("greenhouse", [0.8, 1.0, 2.0], false, built::greenhouse),
    subject("river", [1.2, 1.6, 1.4], true, waters::river),
    subject("canal", [0.2, 1.2, 1.0], false, waters::canal),
    subject("bridge", [0.8, 1.0, 0.8], true, waters::bridge),
    subject("lake", [3.0, 1.6, 0.3], true, waters::lake),
    subject("reservoir", [0.0, 0.3, 1.5], false, waters::reservoir),
    subject("swimming pool", [0.2, 0.8, 2.5], false, built::pool),
    subject("wood", [3.0, 2.0, 1.0], true, |c| land::land(c, Cover::Wood)),
    subject("farmland", [1.5, 2.5, 2.0], false, |c| land::land(c, Cover::Farmland)),
    subject("meadow", [1.0, 2.0, 0.7], false, |c| land::land(c, Cover::Meadow)),
    subject("orchard", [0.1, 1.0, 3.0], false, |c| land::land(c, Cover::Orchard)),
    subject("vineyard", [0.0, 0.4, 2.0], false, |c| land::land(c, Cover::Vineyard)),
    subject("scrub", [0.3, 0.4, 1.8], false, |c| land::land(c, Cover::Scrub)),
    subject("bog", [2.0, 0.2, 0.0], false, |c| land::land(c, Cover::Wetland)),
    subject("soccer pitch", [1.5, 2.0, 1.5], false, land::soccer),
    subject("tennis courts", [1.0, 1.4, 1.2], false, land::tennis),
    subject("athletics track", [0.8, 1.0, 0.8], false, |c| centred(c, Setting::Park, 40.0, Maker::athletics)),
    subject("basketball court", [0.8, 0.8, 1.2], false, |c| centred(c, Setting::Suburb, 21.0, Maker::basketball)),
    subject("parking", [1.6, 1.6, 1.6], true, built::parking),
    subject("solar plant", [0.4, 1.2, 2.0], false, land::solar),
    subject("railway", [1.6, 1.8, 1.4], true, ways::railway),
    subject("wind turbine", [0.8, 1.6, 1.4], true, land::turbine),
    subject("cemetery", [0.8, 1.2, 0.8], false, land::cemetery),
    subject("storage tanks", [1.0, 1.0, 1.0], true, built::tanks),
    subject("marina", [1.4, 0.8, 0.5], false, waters::marina),
    subject("beach", [1.0, 0.7, 0.9], false, waters::beach),
    subject("quarry", [0.9, 0.8, 1.2], false, |c| centred(c, Setting::Rural, 36.0, Maker::quarry)),
    subject("construction site", [0.9, 1.2, 1.2], false, |c| centred(c, Setting::Town, 32.0, Maker::construction)),
    subject("driving range", [0.7, 0.8, 0.6], false, |c| centred(c, Setting::Park, 34.0, Maker::driving_range)),
    subject("golf course", [0.7, 0.6, 0.6], false, |c| centred(c, Setting::Park, 32.0, Maker::golf)),
    subject("allotments", [0.4, 1.6, 0.2], false, land::allotments),
    subject("helipad", [0.4, 0.5, 0.5], false, |c| centred(c, Setting::Town, 26.0, Maker::helipad)),
    subject("sewage works", [0.6, 0.9, 0.8], false, |c| centred(c, Setting::Rural, 36.0, Maker::wastewater)),
    subject("substation", [0.8, 0.8, 0.8], false, |c| centred(c, Setting::Rural, 30.0, Maker::substation)),
    subject("farm", [1.2, 1.4, 0.8], true, built::farm),
];

/// A subject by the habits of a country; in winter only those that snow does not hide.
pub fn choose(composer: &mut Composer) -> &'static Subject {
    let (index, winter) = (composer.country().index, composer.maker.winter);
    let weighted: Vec<(f32, &'static Subject)> = SUBJECTS
        .iter()
        .map(|subject| {
            let shown = !winter || subject.winter;
            (if shown { subject.weights[index] } else { 0.0 }, subject)
        })
        .collect();
    composer.dice().weighted(&weighted)
}

/// The ground of a setting and, in open land, a second parcel with its edge.
fn ground(c: &mut Composer, setting: Setting, clear: f32) {
    match setting {
        Setting::Suburb | Setting::Park => c.base(Cover::Lawn),
        Setting::Town => {
            let paved = c.dice().chance(0.35);
            c.base(if paved { Cover::Paved } else { Cover::Lawn });
        }
        Setting::Industrial => c.base(Cover::Paved),
        Setting::Rural => {
            let cover = c.open_land();
            // Nothing can be told on a closed wood: fields and meadows carry the focus.
            c.base(if matches!(cover, Cover::Wood | Cover::Orchard | Cover::Wetland) { Cover::Meadow } else { cover });
            if c.dice().chance(0.6) {
                let cover = c.open_land();
                c.beyond(cover, clear);
            }
        }
    }
}

fn road_of(c: &mut Composer, setting: Setting) -> &'static str {
    match setting {
        Setting::Suburb => c.dice().choose(&["residential", "residential", "service", "tertiary"]),
        Setting::Town => c.dice().choose(&["tertiary", "residential", "primary"]),
        Setting::Rural => c.dice().choose(&["track", "track", "tertiary", "unclassified"]),
        Setting::Industrial => c.dice().choose(&["service", "unclassified", "tertiary"]),
        Setting::Park => c.dice().choose(&["service", "footway", "residential"]),
    }
}

/// A focus object in the middle, a road past it, and what the setting has around it.
fn centred(c: &mut Composer, setting: Setting, radius: f32, make: impl FnOnce(&mut Maker, Frame) -> Object) {
    ground(c, setting, radius + 4.0);
    let turn = if c.dice().chance(0.5) { 0.0 } else { FRAC_PI_2 };
    let (u, v) = (c.dice().range(-3.0, 3.0), c.dice().range(-3.0, 3.0));
    let frame = c.middle().inner(u, v, turn + c.maker.dice.range(-0.08, 0.08));
    let focus = make(&mut c.maker, frame);
    // Roads keep clear of the focus, so that it stays whole.
    let edge = c.width.min(c.height) / 2.0 - 4.0;
    let mut street = None;
    if c.dice().chance(0.85) {
        let value = road_of(c, setting);
        let distance = (radius + c.maker.road_width(value) / 2.0 + 3.0).max(edge * 0.75).min(edge + 3.0);
        street = Some((c.side_road(value, distance), c.maker.road_width(value)));
    }
    c.add_focus(focus);
    // Yards and aprons belong to the focus although its outline leaves them out.
    c.mark(&Shape::Area(frame.ellipse(radius, radius)));
    if let (Setting::Suburb, Some((line, width))) = (setting, street) {
        c.houses_along(&line, width);
    }
    let count = c.dice().whole(4, 9);
    c.fill(setting, count);
    c.scatter_trees(if setting == Setting::Industrial { 0.2 } else { 0.8 });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::country::all;
    use crate::dice::Dice;
    use crate::titles;

    #[test]
    fn every_subject_has_a_focus_that_can_be_described_in_every_country() {
        for country in all() {
            for (subject, stream) in SUBJECTS.iter().zip(0..) {
                for winter in [false, subject.winter] {
                    let side = country.view_units;
                    let mut composer = Composer::new(country, Dice::new(3, stream), side, side, winter);
                    (subject.arrange)(&mut composer);
                    let scene = composer.finish();
                    let focus = &scene.objects[scene.focus];
                    assert!(
                        !titles::describe(&focus.tags).is_empty(),
                        "{} in {}: {:?}",
                        subject.name,
                        country.name,
                        focus.tags
                    );
                }
            }
        }
    }

    #[test]
    fn under_snow_only_subjects_that_snow_does_not_hide_are_chosen() {
        let country = all()[0];
        for stream in 0..200 {
            let mut composer = Composer::new(country, Dice::new(3, stream), 100.0, 100.0, true);
            let subject = choose(&mut composer);
            assert!(subject.winter && subject.weights[0] > 0.0, "{}", subject.name);
        }
    }
}

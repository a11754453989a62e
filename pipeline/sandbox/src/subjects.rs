//! The subjects of the tiles: what the focus object is, how the place around it is laid out, and
//! how common it is in each country.

use std::f32::consts::{FRAC_PI_2, PI, TAU};

use crate::composer::{Composer, Setting};
use crate::geometry::{Frame, Point, offset};
use crate::objects::{Cover, Maker};
use crate::scene::{Brush, Layer, Object, Shape, Texture, tags};

/// A subject: arranges a whole scene around one focus object.
pub struct Subject {
    pub name: &'static str,
    /// How common it is in Finland, Germany and Spain.
    weights: [f32; 3],
    /// Can be told under snow.
    winter: bool,
    pub arrange: fn(&mut Composer),
}

const fn subject(
    name: &'static str,
    weights: [f32; 3],
    winter: bool,
    arrange: fn(&mut Composer),
) -> Subject {
    Subject {
        name,
        weights,
        winter,
        arrange,
    }
}

/// All subjects.
pub static SUBJECTS: &[Subject] = &[
    subject("residential road", [3.0, 4.0, 4.0], true, |c| {
        street(c, "residential")
    }),
    subject("primary road", [2.0, 2.0, 2.0], true, |c| {
        highway(c, "primary")
    }),
    subject("motorway", [1.0, 2.0, 1.5], true, |c| {
        highway(c, "motorway")
    }),
    subject("service road", [1.0, 1.5, 1.0], true, |c| {
        street(c, "service")
    }),
    subject("track", [2.0, 2.5, 2.5], false, |c| highway(c, "track")),
    subject("crossing", [1.0, 1.5, 1.5], true, crossing),
    subject("roundabout", [0.7, 1.0, 2.0], true, roundabout),
    subject("house", [2.0, 2.5, 2.5], true, house),
    subject("apartments", [2.0, 2.0, 2.0], true, apartments),
    subject("industrial hall", [1.5, 2.0, 2.0], true, |c| {
        hall(c, "industrial")
    }),
    subject("retail hall", [1.0, 1.5, 1.0], true, |c| hall(c, "retail")),
    subject("school", [1.2, 1.2, 1.2], true, |c| {
        centred(c, Setting::Suburb, 30.0, Maker::school)
    }),
    subject("church", [0.8, 1.3, 1.2], true, |c| {
        centred(c, Setting::Suburb, 28.0, Maker::church)
    }),
    subject("greenhouse", [0.8, 1.0, 2.0], false, greenhouse),
    subject("river", [1.2, 1.6, 1.4], true, river),
    subject("canal", [0.2, 1.2, 1.0], false, canal),
    subject("bridge", [0.8, 1.0, 0.8], true, bridge),
    subject("lake", [3.0, 1.6, 0.3], true, lake),
    subject("reservoir", [0.0, 0.3, 1.5], false, reservoir),
    subject("swimming pool", [0.2, 0.8, 2.5], false, pool),
    subject("wood", [3.0, 2.0, 1.0], true, |c| land(c, Cover::Wood)),
    subject("farmland", [1.5, 2.5, 2.0], false, |c| {
        land(c, Cover::Farmland)
    }),
    subject("meadow", [1.0, 2.0, 0.7], false, |c| land(c, Cover::Meadow)),
    subject("orchard", [0.1, 1.0, 3.0], false, |c| {
        land(c, Cover::Orchard)
    }),
    subject("vineyard", [0.0, 0.4, 2.0], false, |c| {
        land(c, Cover::Vineyard)
    }),
    subject("scrub", [0.3, 0.4, 1.8], false, |c| land(c, Cover::Scrub)),
    subject("bog", [2.0, 0.2, 0.0], false, |c| land(c, Cover::Wetland)),
    subject("soccer pitch", [1.5, 2.0, 1.5], false, soccer),
    subject("tennis courts", [1.0, 1.4, 1.2], false, tennis),
    subject("athletics track", [0.8, 1.0, 0.8], false, |c| {
        centred(c, Setting::Park, 40.0, Maker::athletics)
    }),
    subject("basketball court", [0.8, 0.8, 1.2], false, |c| {
        centred(c, Setting::Suburb, 21.0, Maker::basketball)
    }),
    subject("parking", [1.6, 1.6, 1.6], true, parking),
    subject("solar plant", [0.4, 1.2, 2.0], false, solar),
    subject("railway", [1.6, 1.8, 1.4], true, railway),
    subject("wind turbine", [0.8, 1.6, 1.4], true, turbine),
    subject("cemetery", [0.8, 1.2, 0.8], false, cemetery),
    subject("storage tanks", [1.0, 1.0, 1.0], true, tanks),
    subject("marina", [1.4, 0.8, 0.5], false, marina),
    subject("beach", [1.0, 0.7, 0.9], false, beach),
    subject("quarry", [0.9, 0.8, 1.2], false, |c| {
        centred(c, Setting::Rural, 36.0, Maker::quarry)
    }),
    subject("construction site", [0.9, 1.2, 1.2], false, |c| {
        centred(c, Setting::Town, 32.0, Maker::construction)
    }),
    subject("driving range", [0.7, 0.8, 0.6], false, |c| {
        centred(c, Setting::Park, 34.0, Maker::driving_range)
    }),
    subject("golf course", [0.7, 0.6, 0.6], false, |c| {
        centred(c, Setting::Park, 32.0, Maker::golf)
    }),
    subject("allotments", [0.4, 1.6, 0.2], false, allotments),
    subject("helipad", [0.4, 0.5, 0.5], false, |c| {
        centred(c, Setting::Town, 26.0, Maker::helipad)
    }),
    subject("sewage works", [0.6, 0.9, 0.8], false, |c| {
        centred(c, Setting::Rural, 36.0, Maker::wastewater)
    }),
    subject("substation", [0.8, 0.8, 0.8], false, |c| {
        centred(c, Setting::Rural, 30.0, Maker::substation)
    }),
    subject("farm", [1.2, 1.4, 0.8], true, farm),
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
            c.base(
                if matches!(cover, Cover::Wood | Cover::Orchard | Cover::Wetland) {
                    Cover::Meadow
                } else {
                    cover
                },
            );
            if c.dice().chance(0.6) {
                let cover = c.open_land();
                c.beyond(cover, clear);
            }
        }
    }
}

fn road_of(c: &mut Composer, setting: Setting) -> &'static str {
    match setting {
        Setting::Suburb => c
            .dice()
            .choose(&["residential", "residential", "service", "tertiary"]),
        Setting::Town => c.dice().choose(&["tertiary", "residential", "primary"]),
        Setting::Rural => c
            .dice()
            .choose(&["track", "track", "tertiary", "unclassified"]),
        Setting::Industrial => c.dice().choose(&["service", "unclassified", "tertiary"]),
        Setting::Park => c.dice().choose(&["service", "footway", "residential"]),
    }
}

/// A focus object in the middle, a road past it, and what the setting has around it.
fn centred(
    c: &mut Composer,
    setting: Setting,
    radius: f32,
    make: impl FnOnce(&mut Maker, Frame) -> Object,
) {
    ground(c, setting, radius + 4.0);
    let turn = if c.dice().chance(0.5) { 0.0 } else { FRAC_PI_2 };
    let (u, v) = (c.dice().range(-3.0, 3.0), c.dice().range(-3.0, 3.0));
    let frame = c
        .middle()
        .inner(u, v, turn + c.maker.dice.range(-0.08, 0.08));
    let focus = make(&mut c.maker, frame);
    // Roads keep clear of the focus, so that it stays whole.
    let edge = c.width.min(c.height) / 2.0 - 4.0;
    let mut street = None;
    if c.dice().chance(0.85) {
        let value = road_of(c, setting);
        let distance = (radius + c.maker.road_width(value) / 2.0 + 3.0)
            .max(edge * 0.75)
            .min(edge + 3.0);
        street = Some((c.side_road(value, distance), c.maker.road_width(value)));
    }
    c.add_focus(focus);
    if let (Setting::Suburb, Some((line, width))) = (setting, street) {
        c.houses_along(&line, width);
    }
    let count = c.dice().whole(4, 9);
    c.fill(setting, count);
    c.scatter_trees(if setting == Setting::Industrial {
        0.2
    } else {
        0.8
    });
}

fn street(c: &mut Composer, value: &str) {
    c.base(Cover::Lawn);
    let bend = if c.dice().chance(0.45) {
        c.dice().range(8.0, 16.0)
    } else {
        0.0
    };
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
fn highway(c: &mut Composer, value: &str) {
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

fn crossing(c: &mut Composer) {
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

fn roundabout(c: &mut Composer) {
    let setting = c
        .dice()
        .choose(&[Setting::Suburb, Setting::Rural, Setting::Town]);
    ground(c, setting, 30.0);
    let value = c.dice().choose(&["tertiary", "primary", "residential"]);
    let middle = c.middle();
    let arms = c.dice().whole(3, 4);
    let reach = c.reach();
    let mut streets = Vec::new();
    for arm in 0..arms {
        let turn = arm as f32 / arms as f32 * TAU + c.maker.dice.range(-0.15, 0.15);
        let line = middle
            .inner(0.0, 0.0, turn)
            .outline(&[(4.0, 0.0), (reach, 0.0)]);
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

fn house(c: &mut Composer) {
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

fn apartments(c: &mut Composer) {
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

fn hall(c: &mut Composer, value: &'static str) {
    let (width, depth) = (
        c.maker.dice.range(44.0, 56.0),
        c.maker.dice.range(26.0, 34.0),
    );
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

fn greenhouse(c: &mut Composer) {
    let bays = c.maker.dice.whole(4, 7);
    centred(c, Setting::Rural, 30.0, |maker, frame| {
        maker.greenhouse(frame, bays)
    });
}

/// Open water or a river in the land, with a road or a parcel beside it.
fn banks(c: &mut Composer) {
    let cover = c.open_land();
    c.base(cover);
    if c.dice().chance(0.7) {
        let cover = c.open_land();
        let distance = c.dice().range(-4.0, 12.0);
        c.beyond(cover, distance);
    }
}

fn river(c: &mut Composer) {
    banks(c);
    let (value, width) = c
        .dice()
        .weighted(&[(3.0, ("river", 20.0)), (1.5, ("stream", 4.5))]);
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

fn canal(c: &mut Composer) {
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

fn bridge(c: &mut Composer) {
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

fn lake(c: &mut Composer) {
    banks(c);
    let value = c.dice().choose(&["lake", "lake", "pond"]);
    let radius = if value == "lake" {
        c.dice().range(32.0, 44.0)
    } else {
        c.dice().range(15.0, 21.0)
    };
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

fn reservoir(c: &mut Composer) {
    let radius = c.maker.dice.range(24.0, 30.0);
    centred(c, Setting::Rural, radius, |maker, frame| {
        maker.still_water(frame, radius, "reservoir")
    });
}

fn pool(c: &mut Composer) {
    let length = if c.dice().chance(0.3) {
        34.0
    } else {
        c.dice().range(15.0, 20.0)
    };
    centred(c, Setting::Suburb, length * 0.6, |maker, frame| {
        maker.pool(frame, length)
    });
}

/// A parcel as the focus, with a neighbour parcel, a way along the edge and a few things on it.
fn land(c: &mut Composer, cover: Cover) {
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
            let value = c
                .dice()
                .choose(&["track", "track", "tertiary", "unclassified"]);
            let road = c.maker.road(value, edge.clone());
            c.add(road);
        }
        c.clear_crowns(&edge, if with_road { 11.0 } else { 3.0 });
    } else if c.dice().chance(0.6) {
        let distance = c.dice().range(-10.0, 10.0);
        let frame = c.middle().inner(0.0, distance, 0.0);
        let line = c.line(frame, 9.0);
        let value = if cover == Cover::Wood && c.dice().chance(0.4) {
            "path"
        } else {
            "track"
        };
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

fn soccer(c: &mut Composer) {
    let width = c.maker.dice.range(60.0, 70.0);
    centred(c, Setting::Park, 28.0, |maker, frame| {
        maker.soccer(frame, width)
    });
}

fn tennis(c: &mut Composer) {
    let courts = c.maker.dice.whole(1, 4);
    centred(c, Setting::Park, 20.0, |maker, frame| {
        maker.tennis(frame, courts)
    });
}

fn parking(c: &mut Composer) {
    let rows = c.maker.dice.whole(3, 5);
    let width = c.maker.dice.range(46.0, 62.0);
    let setting = c
        .dice()
        .choose(&[Setting::Town, Setting::Industrial, Setting::Park]);
    centred(c, setting, rows as f32 * 5.25 + 3.0, |maker, frame| {
        maker.parking(Frame::new(frame.origin, frame.angle), width, rows)
    });
}

fn solar(c: &mut Composer) {
    let width = c.maker.dice.range(50.0, 66.0);
    centred(c, Setting::Rural, 26.0, |maker, frame| {
        maker.solar(frame, width, 44.0)
    });
}

fn railway(c: &mut Composer) {
    let setting = c
        .dice()
        .choose(&[Setting::Rural, Setting::Industrial, Setting::Suburb]);
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

fn turbine(c: &mut Composer) {
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
    c.mark(&Shape::Way {
        line: way,
        width: 26.0,
    });
    c.fill(Setting::Rural, 3);
}

fn cemetery(c: &mut Composer) {
    let (width, depth) = (
        c.maker.dice.range(48.0, 60.0),
        c.maker.dice.range(36.0, 46.0),
    );
    centred(c, Setting::Suburb, depth / 2.0 + 4.0, |maker, frame| {
        maker.cemetery(frame, width, depth)
    });
}

fn tanks(c: &mut Composer) {
    ground(c, Setting::Industrial, 0.0);
    let middle = c.middle();
    let ground = middle.rectangle(70.0, 50.0);
    let soil = c.country().palette.gravel;
    let pad = Brush::fill(Layer::Flat, ground, Texture::natural(soil));
    c.lay(Object::area(
        tags(&[("landuse", "industrial")]),
        middle.rectangle(70.0, 50.0),
        vec![pad],
    ));
    let (columns, rows) = (c.dice().whole(2, 3), c.dice().whole(1, 2));
    let radius = c.dice().range(8.5, 11.0);
    for index in 0..columns * rows {
        let (column, row) = (index % columns, index / columns);
        let u = (column as f32 - (columns as f32 - 1.0) / 2.0) * radius * 2.5;
        let v = (row as f32 - (rows as f32 - 1.0) / 2.0) * radius * 2.5;
        let tank = c.maker.tank(
            middle.inner(u, v, 0.0),
            radius * c.country().road_scale.clamp(0.95, 1.05),
        );
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

/// Water beyond a shore near the middle: the shore line, with the water on its right.
fn shore(c: &mut Composer, bend: f32) -> (Vec<Point>, Vec<Point>) {
    let frame = c.middle().inner(
        0.0,
        c.maker.dice.range(-6.0, 2.0),
        if c.maker.dice.chance(0.5) { PI } else { 0.0 },
    );
    let line = c.line(frame, bend);
    let reach = c.reach();
    let mut water = line.clone();
    water.extend(frame.outline(&[(reach, 2.0 * reach), (-reach, 2.0 * reach)]));
    (line, water)
}

fn marina(c: &mut Composer) {
    c.base(Cover::Lawn);
    let (line, water) = shore(c, 0.0);
    let water = c.maker.open_water(water);
    c.add(water);
    let pavement = c.country().palette.pavement;
    let quay = Brush::stroke(
        Layer::Road,
        offset(&line, -3.0),
        7.0,
        Texture::plain(pavement),
    );
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
    c.mark(&Shape::Way {
        line: offset(&line, -3.0),
        width: 8.0,
    });
    let road = c.dice().choose(&["service", "residential", "tertiary"]);
    let width = c.maker.road_width(road);
    let road = c.maker.road(road, offset(&line, -11.0 - width / 2.0));
    c.add(road);
    c.fill(Setting::Park, 6);
    c.scatter_trees(0.8);
}

fn beach(c: &mut Composer) {
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

fn allotments(c: &mut Composer) {
    let (width, depth) = (
        c.maker.dice.range(54.0, 66.0),
        c.maker.dice.range(36.0, 48.0),
    );
    centred(c, Setting::Suburb, depth / 2.0 + 5.0, |maker, frame| {
        maker.allotments(frame, width, depth)
    });
}

fn farm(c: &mut Composer) {
    ground(c, Setting::Rural, 34.0);
    let middle = c.middle();
    let gravel = c.country().palette.gravel;
    let yard = middle.rectangle(58.0, 46.0);
    let brushes = vec![Brush::fill(
        Layer::Flat,
        yard.clone(),
        Texture::natural(gravel),
    )];
    let mut focus_tags = tags(&[("landuse", "farmyard")]);
    c.maker.annotate(&mut focus_tags, true);
    c.lay_focus(Object::area(focus_tags, yard, brushes));
    for (u, v, turn) in [
        (-8.0, -14.0, 0.0),
        (20.0, 4.0, FRAC_PI_2),
        (-14.0, 14.0, 0.0),
    ] {
        let barn = c.maker.barn(middle.inner(u, v, turn));
        c.add(barn);
    }
    let silo = c.maker.silo(middle.inner(3.0, 8.0, 0.0), 1);
    c.add(silo);
    c.side_road("track", 32.0);
    c.fill(Setting::Rural, 4);
    c.scatter_trees(0.6);
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
                    let mut composer =
                        Composer::new(country, Dice::new(3, stream), side, side, winter);
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
            assert!(
                subject.winter && subject.weights[0] > 0.0,
                "{}",
                subject.name
            );
        }
    }
}

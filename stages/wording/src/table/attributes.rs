//! What can be said about an object besides its name.

/// `surface`: "with an asphalt surface". Values that only say how well a road is kept are left out.
pub const SURFACES: &[(&str, &str)] = &[
    ("artificial_turf", "artificial turf"),
    ("asphalt", "asphalt"),
    ("clay", "clay"),
    ("cobblestone", "cobblestone"),
    ("compacted", "gravel"),
    ("concrete", "concrete"),
    ("concrete:plates", "concrete"),
    ("dirt", "dirt"),
    ("earth", "dirt"),
    ("fine_gravel", "gravel"),
    ("grass", "grass"),
    ("grass_paver", "grass paver"),
    ("gravel", "gravel"),
    ("ground", "dirt"),
    ("hard", "hard"),
    ("metal", "metal"),
    ("mud", "muddy"),
    ("paved", "paved"),
    ("paving_stones", "paving stone"),
    ("pebblestone", "pebble"),
    ("rock", "rocky"),
    ("sand", "sandy"),
    ("sett", "cobblestone"),
    ("stone", "stone"),
    ("tartan", "synthetic"),
    ("unhewn_cobblestone", "cobblestone"),
    ("unpaved", "unpaved"),
    ("wood", "wooden"),
];

/// `roof:shape`: "with a red gabled roof".
pub const ROOF_SHAPES: &[(&str, &str)] = &[
    ("cone", "conical"),
    ("dome", "domed"),
    ("flat", "flat"),
    ("gabled", "gabled"),
    ("gambrel", "gambrel"),
    ("half-hipped", "half-hipped"),
    ("hipped", "hipped"),
    ("mansard", "mansard"),
    ("onion", "onion-domed"),
    ("pyramidal", "pyramidal"),
    ("round", "rounded"),
    ("saltbox", "gabled"),
    ("sawtooth", "sawtooth"),
    ("skillion", "sloping"),
];

/// `roof:material`.
pub const ROOF_MATERIALS: &[(&str, &str)] = &[
    ("concrete", "concrete"),
    ("copper", "copper"),
    ("glass", "glass"),
    ("grass", "green"),
    ("gravel", "gravel"),
    ("metal", "metal"),
    ("roof_tiles", "tiled"),
    ("slate", "slate"),
    ("solar_panels", "solar panel"),
    ("thatch", "thatched"),
    ("tile", "tiled"),
    ("wood", "wooden"),
];

/// `crossing`, `crossing_ref`, `crossing:markings`: "with zebra markings".
pub const MARKINGS: &[(&str, &str)] = &[
    ("island", "a traffic island"),
    ("ladder", "zebra markings"),
    ("lines", "painted lines"),
    ("marked", "painted markings"),
    ("traffic_signals", "traffic lights"),
    ("zebra", "zebra markings"),
];

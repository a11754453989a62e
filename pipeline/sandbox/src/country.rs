//! The countries of the sandbox: where their tiles lie, how they look, what is common there.

use crate::scene::Colour;

/// Side of a geographic cell, degrees: splits are made by cell, so tiles are spread over cells.
pub const CELL_DEGREES: f64 = 0.02;

/// A block of cells that lies inside the country.
#[derive(Debug, Clone, Copy)]
pub struct Region {
    /// Longitude of the west edge over `CELL_DEGREES`.
    pub west_cell: i32,
    /// Latitude of the south edge over `CELL_DEGREES`.
    pub south_cell: i32,
    pub columns: u32,
    pub rows: u32,
}

/// Colours of surfaces in summer.
#[derive(Debug, Clone, Copy)]
pub struct Palette {
    pub lawn: Colour,
    pub meadow: Colour,
    pub soil: Colour,
    pub forest_floor: Colour,
    pub broadleaved: Colour,
    pub needleleaved: Colour,
    pub asphalt: Colour,
    pub gravel: Colour,
    pub pavement: Colour,
    pub water: Colour,
    pub marking: Colour,
    /// Weight, value of `roof:colour`, colour.
    pub house_roofs: &'static [(f32, (&'static str, Colour))],
    pub hall_roofs: &'static [(f32, (&'static str, Colour))],
    /// Weight, value of `crop`, colour between the furrows, colour of the furrows.
    pub crops: &'static [(f32, (&'static str, Colour, Colour))],
}

/// What the camera does to the picture.
#[derive(Debug, Clone, Copy)]
pub struct Sensor {
    /// Standard deviation of the blur, as a share of the short side.
    pub blur: f32,
    /// Standard deviation of the noise, 0-255.
    pub noise: f32,
    /// Factor for each channel.
    pub tint: Colour,
    /// Contrast around middle grey.
    pub contrast: f32,
    /// Share of white that the air adds.
    pub haze: f32,
}

/// Local words for tags that no picture shows.
#[derive(Debug, Clone, Copy)]
pub struct Words {
    pub city: &'static str,
    pub streets: &'static [&'static str],
    pub places: &'static [&'static str],
    pub operators: &'static [&'static str],
    /// Share of objects with `addr:*` tags.
    pub address_share: f32,
    /// Share of objects with a name.
    pub name_share: f32,
    /// A second language of names, e.g. `name:sv`.
    pub second_name_key: Option<&'static str>,
    pub survey: &'static str,
}

/// One country (or foreign source) of the sandbox.
#[derive(Debug, Clone, Copy)]
pub struct Country {
    /// Column of the weights in the table of subjects.
    pub index: usize,
    pub name: &'static str,
    /// Source token of the image names.
    pub source: &'static str,
    pub region: Region,
    pub gsd_meters: f64,
    /// Scene units across the short side: objects look larger where this is small.
    pub view_units: f32,
    pub palette: Palette,
    pub sensor: Sensor,
    pub words: Words,
    /// Where shadows fall, degrees clockwise from east, and their length per unit of height.
    pub shadow_degrees: f32,
    pub shadow_length: f32,
    /// Share of tiles taken under snow.
    pub winter_share: f32,
    /// Share of trees that are conifers.
    pub conifer_share: f32,
    /// Trees scattered over a tile of open land.
    pub trees: u32,
    /// Width of roads against the nominal one.
    pub road_scale: f32,
    /// Houses along a road, share of places that are built on.
    pub density: f32,
}

pub const FINLAND: Country = Country {
    index: 0,
    name: "finland",
    source: "FI",
    region: Region { west_cell: 1175, south_cell: 3062, columns: 30, rows: 25 },
    gsd_meters: 0.5,
    view_units: 112.0,
    palette: Palette {
        lawn: [98.0, 116.0, 82.0],
        meadow: [122.0, 134.0, 92.0],
        soil: [120.0, 108.0, 98.0],
        forest_floor: [52.0, 66.0, 52.0],
        broadleaved: [84.0, 112.0, 66.0],
        needleleaved: [46.0, 74.0, 56.0],
        asphalt: [104.0, 106.0, 112.0],
        gravel: [158.0, 150.0, 142.0],
        pavement: [150.0, 150.0, 152.0],
        water: [26.0, 40.0, 58.0],
        marking: [228.0, 206.0, 110.0],
        house_roofs: &[
            (3.0, ("grey", [112.0, 116.0, 124.0])),
            (3.0, ("red", [140.0, 52.0, 46.0])),
            (2.0, ("black", [52.0, 54.0, 60.0])),
            (1.0, ("green", [66.0, 98.0, 80.0])),
            (0.7, ("white", [212.0, 214.0, 218.0])),
        ],
        hall_roofs: &[
            (3.0, ("grey", [140.0, 144.0, 150.0])),
            (2.0, ("white", [214.0, 216.0, 220.0])),
            (1.5, ("black", [62.0, 64.0, 70.0])),
            (1.0, ("blue", [78.0, 108.0, 150.0])),
        ],
        crops: &[
            (2.0, ("barley", [170.0, 164.0, 106.0], [156.0, 148.0, 90.0])),
            (2.0, ("grass", [108.0, 146.0, 78.0], [98.0, 132.0, 70.0])),
            (1.0, ("rapeseed", [206.0, 198.0, 70.0], [192.0, 182.0, 60.0])),
            (1.0, ("fallow", [112.0, 98.0, 86.0], [96.0, 84.0, 74.0])),
        ],
    },
    sensor: Sensor { blur: 0.0046, noise: 4.5, tint: [0.96, 1.0, 1.05], contrast: 0.95, haze: 0.05 },
    words: Words {
        city: "Tampere",
        streets: &[
            "Koulukatu",
            "Rantatie",
            "Hämeenkatu",
            "Metsäpolku",
            "Järvikuja",
            "Kirkkotie",
            "Pyynikintie",
            "Asemakatu",
            "Niittytie",
            "Kuusitie",
        ],
        places: &[
            "Näsijärvi",
            "Pyhäjärvi",
            "Kaupin urheilupuisto",
            "Iidesjärvi",
            "Särkänniemi",
            "Hakametsä",
            "Suolijärvi",
            "Peltolammi",
        ],
        operators: &["Tampereen kaupunki", "Väylävirasto", "Fingrid Oyj"],
        address_share: 0.25,
        name_share: 0.45,
        second_name_key: Some("name:sv"),
        survey: "Maanmittauslaitos",
    },
    shadow_degrees: -62.0,
    shadow_length: 1.25,
    winter_share: 0.14,
    conifer_share: 0.75,
    trees: 34,
    road_scale: 0.9,
    density: 0.45,
};

pub const GERMANY: Country = Country {
    index: 1,
    name: "germany",
    source: "DE",
    region: Region { west_cell: 640, south_cell: 2607, columns: 30, rows: 25 },
    gsd_meters: 0.2,
    view_units: 98.0,
    palette: Palette {
        lawn: [104.0, 140.0, 74.0],
        meadow: [124.0, 158.0, 84.0],
        soil: [144.0, 120.0, 92.0],
        forest_floor: [58.0, 76.0, 44.0],
        broadleaved: [70.0, 112.0, 50.0],
        needleleaved: [48.0, 78.0, 46.0],
        asphalt: [134.0, 134.0, 136.0],
        gravel: [176.0, 164.0, 146.0],
        pavement: [172.0, 164.0, 158.0],
        water: [56.0, 82.0, 78.0],
        marking: [236.0, 236.0, 232.0],
        house_roofs: &[
            (5.0, ("red", [152.0, 74.0, 56.0])),
            (3.0, ("brown", [112.0, 80.0, 64.0])),
            (1.5, ("grey", [110.0, 110.0, 114.0])),
            (0.8, ("black", [64.0, 62.0, 64.0])),
        ],
        hall_roofs: &[
            (3.0, ("grey", [158.0, 158.0, 158.0])),
            (2.0, ("white", [218.0, 218.0, 214.0])),
            (1.0, ("green", [100.0, 142.0, 104.0])),
            (1.0, ("black", [78.0, 78.0, 80.0])),
            (0.8, ("red", [166.0, 84.0, 66.0])),
        ],
        crops: &[
            (2.5, ("wheat", [206.0, 184.0, 112.0], [192.0, 168.0, 98.0])),
            (2.0, ("rapeseed", [226.0, 208.0, 58.0], [210.0, 194.0, 52.0])),
            (2.0, ("maize", [92.0, 138.0, 56.0], [74.0, 112.0, 48.0])),
            (1.5, ("fallow", [152.0, 124.0, 94.0], [134.0, 106.0, 80.0])),
        ],
    },
    sensor: Sensor { blur: 0.003, noise: 2.6, tint: [1.0, 1.01, 0.98], contrast: 1.0, haze: 0.03 },
    words: Words {
        city: "Potsdam",
        streets: &[
            "Hauptstraße",
            "Schulstraße",
            "Am Anger",
            "Bahnhofstraße",
            "Lindenallee",
            "Gartenweg",
            "Mühlenweg",
            "Dorfstraße",
            "Waldstraße",
            "Ringstraße",
        ],
        places: &[
            "Havel",
            "Schwielowsee",
            "Sportplatz Geltow",
            "Alter Friedhof",
            "Glindower Heide",
            "Sankt-Marien-Kirche",
            "Templiner See",
            "Ravensberge",
        ],
        operators: &["Stadt Potsdam", "DB InfraGO AG", "Landesforst Brandenburg"],
        address_share: 0.6,
        name_share: 0.4,
        second_name_key: None,
        survey: "GeoBasis-DE/LGB",
    },
    shadow_degrees: -112.0,
    shadow_length: 0.8,
    winter_share: 0.0,
    conifer_share: 0.3,
    trees: 26,
    road_scale: 1.0,
    density: 0.75,
};

pub const SPAIN: Country = Country {
    index: 2,
    name: "spain",
    source: "ES",
    region: Region { west_cell: -60, south_cell: 2070, columns: 30, rows: 25 },
    gsd_meters: 0.1,
    view_units: 88.0,
    palette: Palette {
        lawn: [150.0, 146.0, 96.0],
        meadow: [184.0, 170.0, 116.0],
        soil: [204.0, 172.0, 128.0],
        forest_floor: [128.0, 118.0, 80.0],
        broadleaved: [94.0, 110.0, 62.0],
        needleleaved: [66.0, 88.0, 52.0],
        asphalt: [164.0, 158.0, 152.0],
        gravel: [216.0, 196.0, 164.0],
        pavement: [206.0, 190.0, 172.0],
        water: [64.0, 106.0, 96.0],
        marking: [246.0, 244.0, 238.0],
        house_roofs: &[
            (5.0, ("orange", [206.0, 116.0, 74.0])),
            (2.5, ("white", [236.0, 230.0, 220.0])),
            (2.0, ("brown", [166.0, 106.0, 74.0])),
            (1.0, ("beige", [214.0, 192.0, 160.0])),
        ],
        hall_roofs: &[
            (4.0, ("white", [232.0, 230.0, 226.0])),
            (2.0, ("grey", [182.0, 178.0, 172.0])),
            (1.5, ("blue", [104.0, 146.0, 184.0])),
            (1.0, ("red", [186.0, 92.0, 70.0])),
        ],
        crops: &[
            (3.0, ("barley", [222.0, 198.0, 142.0], [208.0, 182.0, 124.0])),
            (2.0, ("fallow", [196.0, 156.0, 112.0], [178.0, 138.0, 96.0])),
            (1.5, ("alfalfa", [112.0, 148.0, 72.0], [100.0, 132.0, 66.0])),
            (1.0, ("sunflower", [190.0, 172.0, 66.0], [120.0, 128.0, 60.0])),
        ],
    },
    sensor: Sensor { blur: 0.0018, noise: 2.2, tint: [1.04, 1.0, 0.95], contrast: 1.1, haze: 0.0 },
    words: Words {
        city: "Zaragoza",
        streets: &[
            "Calle Mayor",
            "Avenida de Aragón",
            "Calle del Carmen",
            "Camino de la Huerta",
            "Calle San Jorge",
            "Plaza del Pilar",
            "Camino de los Olivos",
            "Calle de la Iglesia",
        ],
        places: &[
            "Río Ebro",
            "Parque Grande",
            "Campo Municipal",
            "Embalse de la Loteta",
            "Iglesia de San Miguel",
            "Polígono Malpica",
            "Huerva",
            "Montes de Torrero",
        ],
        operators: &["Ayuntamiento de Zaragoza", "Adif", "Confederación Hidrográfica del Ebro"],
        address_share: 0.15,
        name_share: 0.35,
        second_name_key: None,
        survey: "PNOA",
    },
    shadow_degrees: -98.0,
    shadow_length: 0.5,
    winter_share: 0.0,
    conifer_share: 0.35,
    trees: 14,
    road_scale: 1.15,
    density: 0.9,
};

/// A foreign source: the look of Germany on another continent. Its rows are there to be left out.
pub const UNITED_STATES: Country = Country {
    name: "united_states",
    source: "US",
    region: Region { west_cell: -4930, south_cell: 1930, columns: 20, rows: 20 },
    gsd_meters: 0.6,
    ..GERMANY
};

/// The three countries, in the order of their indices.
pub fn all() -> [&'static Country; 3] {
    [&FINLAND, &GERMANY, &SPAIN]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn countries_stand_at_their_index_and_have_enough_cells() {
        for (index, country) in all().into_iter().enumerate() {
            assert_eq!(country.index, index);
            assert!(country.region.columns * country.region.rows >= 200);
        }
    }
}

//! Writes one contact sheet per country: 6 x 6 tiles as PNG, their titles beside as text.
//!
//! `cargo run -p sandbox --example contact_sheet -- FOLDER [SEED]`

use std::error::Error;
use std::path::PathBuf;

use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};
use sandbox::{Settings, preview};

const COLUMNS: u32 = 6;
const SIDE_PX: u32 = 200;
const GAP_PX: u32 = 6;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("usage: contact_sheet FOLDER [SEED]")?);
    let seed = arguments.next().map_or(Ok(0), |text| text.parse())?;
    std::fs::create_dir_all(&folder)?;
    let settings = Settings { seed, ..Settings::default() };
    let tiles = preview(&settings, (COLUMNS * COLUMNS) as usize)?;
    for sheet_tiles in tiles.chunk_by(|a, b| a.country == b.country) {
        let side = COLUMNS * (SIDE_PX + GAP_PX);
        let mut sheet = RgbImage::from_pixel(side, side, Rgb([255; 3]));
        let mut titles = String::new();
        for (index, tile) in (0..).zip(sheet_tiles) {
            let picture = image::load_from_memory(&tile.jpeg)?.to_rgb8();
            let picture = imageops::resize(&picture, SIDE_PX, SIDE_PX, FilterType::CatmullRom);
            let (column, row) = (index % COLUMNS, index / COLUMNS);
            let place = |cell: u32| i64::from(cell * (SIDE_PX + GAP_PX));
            imageops::replace(&mut sheet, &picture, place(column), place(row));
            titles.push_str(&format!("row {} column {}: {}\n", row + 1, column + 1, tile.title));
        }
        let country = sheet_tiles[0].country;
        sheet.save(folder.join(format!("{country}.png")))?;
        std::fs::write(folder.join(format!("{country}.txt")), titles)?;
    }
    Ok(())
}

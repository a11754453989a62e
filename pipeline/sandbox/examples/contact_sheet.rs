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
    let folder = PathBuf::from(
        arguments
            .next()
            .ok_or("usage: contact_sheet FOLDER [SEED]")?,
    );
    let seed = arguments.next().map_or(Ok(0), |text| text.parse())?;
    std::fs::create_dir_all(&folder)?;
    let settings = Settings {
        seed,
        ..Settings::default()
    };
    for (country, tiles) in preview(&settings, (COLUMNS * COLUMNS) as usize)? {
        let side = COLUMNS * (SIDE_PX + GAP_PX);
        let mut sheet = RgbImage::from_pixel(side, side, Rgb([255; 3]));
        let mut titles = String::new();
        for (index, (jpeg, title)) in (0..).zip(&tiles) {
            let tile = image::load_from_memory(jpeg)?.to_rgb8();
            let tile = imageops::resize(&tile, SIDE_PX, SIDE_PX, FilterType::CatmullRom);
            let (column, row) = (index % COLUMNS, index / COLUMNS);
            let place = |cell: u32| i64::from(cell * (SIDE_PX + GAP_PX));
            imageops::replace(&mut sheet, &tile, place(column), place(row));
            titles.push_str(&format!("row {} column {}: {title}\n", row + 1, column + 1));
        }
        sheet.save(folder.join(format!("{country}.png")))?;
        std::fs::write(folder.join(format!("{country}.txt")), titles)?;
    }
    Ok(())
}

//! Places and images that examples generate.

use osm::{ImageBox, Place, Rect, SubjectKind};

/// A generator of its own: the same numbers everywhere.
pub struct Dice(pub u64);

impl Dice {
    /// A number from 0, less than `below`.
    pub fn next(&mut self, below: i64) -> i64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below.max(1) as u64) as i64
    }
}

/// Most of what is mapped lies in cities: places crowd around 40,000 centres.
pub fn place(dice: &mut Dice) -> Place {
    let city = dice.next(40_000);
    let middle = (city * 7_919 % 3_200_000 * 1_000 - 1_600_000_000, city * 104_729 % 1_300_000 * 1_000 - 550_000_000);
    let by = |dice: &mut Dice| dice.next(1_500_000) - 750_000;
    Place { lon: (middle.0 + by(dice)) as i32, lat: (middle.1 + by(dice)) as i32 }
}

/// The box of an image, at its lower left corner.
pub fn image(number: i64, place: Place) -> ImageBox {
    let high = Place { lon: place.lon + 30_000, lat: place.lat + 18_000 };
    let image_id = format!("a{number}_FI_19");
    ImageBox { image_id, kind: SubjectKind::Area, id: number, rect: Rect { low: place, high } }
}

/// Most memory that this process has had.
pub fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

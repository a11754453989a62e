//! Pictures in DEC's sixel format: bands of six lines, a pass for each colour of a band.

use std::fmt::Write;

use pixels::Rgb;

/// Levels of each channel: 216 colours, which every terminal that draws sixels has room for.
const LEVELS: u32 = 6;
const BAND: usize = 6;
/// Thresholds that spread the error of rounding over four by four pixels, in sixteenths.
const BAYER: [[u32; 4]; 4] = [[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]];

/// The escape sequence that draws a picture, pixel for pixel, and ends without a line break.
pub(crate) fn sixel(picture: &Rgb) -> String {
    let (width, height) = (picture.width as usize, picture.height as usize);
    let colours: Vec<u8> =
        (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).map(|(x, y)| colour(picture, x, y)).collect();
    let mut drawn = format!("\x1bPq\"1;1;{width};{height}");
    let percent = |level: u32| level * 100 / (LEVELS - 1);
    for colour in 0..LEVELS.pow(3) {
        if colours.contains(&(colour as u8)) {
            let [r, g, b] = [colour / LEVELS.pow(2), colour / LEVELS % LEVELS, colour % LEVELS].map(percent);
            _ = write!(drawn, "#{colour};2;{r};{g};{b}");
        }
    }
    for band in colours.chunks(BAND * width.max(1)) {
        let mut here: Vec<u8> = band.to_vec();
        here.sort_unstable();
        here.dedup();
        for colour in here {
            _ = write!(drawn, "#{colour}");
            let columns = (0..width).map(|x| {
                let lines = band.iter().skip(x).step_by(width).enumerate();
                lines.fold(0u8, |bits, (line, is)| bits | u8::from(*is == colour) << line)
            });
            runs(&mut drawn, columns);
            drawn.push('$');
        }
        drawn.push('-');
    }
    drawn + "\x1b\\"
}

/// Number of the colour that stands for a pixel.
fn colour(picture: &Rgb, x: usize, y: usize) -> u8 {
    let at = 3 * (y * picture.width as usize + x);
    let threshold = BAYER[y % 4][x % 4];
    let level =
        |value: u8| ((u32::from(value) * (LEVELS - 1) * 16 + threshold * 255 + 127) / (255 * 16)).min(LEVELS - 1);
    picture.data[at..at + 3].iter().fold(0, |colour, value| colour * LEVELS + level(*value)) as u8
}

/// Writes columns of six pixels, and how often each comes.
fn runs(drawn: &mut String, columns: impl Iterator<Item = u8>) {
    let mut columns = columns.peekable();
    while let Some(bits) = columns.next() {
        let mut times = 1;
        while columns.next_if_eq(&bits).is_some() {
            times += 1;
        }
        let sign = char::from(b'?' + bits);
        match times {
            1..=3 => (0..times).for_each(|_| drawn.push(sign)),
            _ => _ = write!(drawn, "!{times}{sign}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Draws the sequence as a terminal does.
    fn drawn(text: &str) -> Rgb {
        let body = text.strip_prefix("\x1bPq").and_then(|t| t.strip_suffix("\x1b\\")).unwrap();
        let mut signs = body.chars().peekable();
        let mut palette: BTreeMap<u32, [u8; 3]> = BTreeMap::new();
        let (mut size, mut pen, mut x, mut band) = (None, [0; 3], 0usize, 0usize);
        let mut pixels: Vec<u8> = Vec::new();
        let numbers = |signs: &mut std::iter::Peekable<std::str::Chars<'_>>| -> Vec<u32> {
            let mut text = String::new();
            while let Some(sign) = signs.next_if(|c| c.is_ascii_digit() || *c == ';') {
                text.push(sign);
            }
            text.split(';').filter_map(|number| number.parse().ok()).collect()
        };
        while let Some(sign) = signs.next() {
            let mut put = |bits: u8, times: u32, x: &mut usize| {
                let (width, height): (usize, usize) = size.unwrap();
                for _ in 0..times {
                    for line in (0..6).filter(|line| bits & (1 << line) != 0) {
                        assert!(*x < width && band * 6 + line < height, "it draws beside the picture");
                        let at = 3 * ((band * 6 + line) * width + *x);
                        pixels[at..at + 3].copy_from_slice(&pen);
                    }
                    *x += 1;
                }
            };
            match sign {
                '"' => {
                    let all = numbers(&mut signs);
                    size = Some((all[2] as usize, all[3] as usize));
                    pixels = vec![0; 3 * all[2] as usize * all[3] as usize];
                }
                '#' => match numbers(&mut signs)[..] {
                    [number] => pen = palette[&number],
                    [number, 2, r, g, b] => _ = palette.insert(number, [r, g, b].map(|p| (p * 255 / 100) as u8)),
                    ref other => panic!("{other:?}"),
                },
                '!' => {
                    let times = numbers(&mut signs)[0];
                    put(signs.next().unwrap() as u8 - b'?', times, &mut x);
                }
                '$' => x = 0,
                '-' => (x, band) = (0, band + 1),
                sign => put(sign as u8 - b'?', 1, &mut x),
            }
        }
        let (width, height) = size.unwrap();
        Rgb::new(width as u32, height as u32, pixels).unwrap()
    }

    #[test]
    fn what_a_terminal_draws_looks_like_the_picture() {
        // shades that run across it; neither side is a whole number of bands
        let (width, height) = (37u32, 23u32);
        let data = (0..width * height).flat_map(|i| {
            let (x, y) = (i % width, i / width);
            [(x * 255 / 36) as u8, (y * 255 / 22) as u8, ((x + y) * 255 / 58) as u8]
        });
        let picture = Rgb::new(width, height, data.collect()).unwrap();
        let seen = drawn(&sixel(&picture));
        assert_eq!((seen.width, seen.height), (width, height));
        let off = |a: &u8, b: &u8| i32::from(a.abs_diff(*b));
        let differences: Vec<i32> = picture.data.iter().zip(&seen.data).map(|(a, b)| off(a, b)).collect();
        assert!(differences.iter().all(|d| *d <= 51), "no more than a level off: {:?}", differences.iter().max());
        let mean = |rgb: &Rgb| rgb.data.iter().map(|v| f64::from(*v)).sum::<f64>() / f64::from(3 * width * height);
        assert!((mean(&picture) - mean(&seen)).abs() < 3.0, "{} {}", mean(&picture), mean(&seen));
    }

    #[test]
    fn what_repeats_is_counted() {
        let white = Rgb::new(100, 6, vec![255; 1800]).unwrap();
        assert_eq!(sixel(&white), "\x1bPq\"1;1;100;6#215;2;100;100;100#215!100~$-\x1b\\");
    }
}

//! Damaged, contradictory and oversized files: an error of the right kind, never a panic and never a
//! silently grey picture.

use std::path::{Path, PathBuf};

use pixels::{DecodeLimits, PixelError, Rgb, decode, dimensions};

const LIMITS: DecodeLimits = DecodeLimits { max_pixels: 4_000_000, max_bytes: 1 << 20 };

fn golden(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    std::fs::read(folder.join(name)).unwrap()
}

/// Position of the first marker of this kind, of its 0xff.
fn marker(jpeg: &[u8], code: u8) -> usize {
    let found = jpeg.windows(2).position(|pair| pair == [0xff, code]);
    found.unwrap_or_else(|| panic!("no marker {code:02x}"))
}

/// The file with other bytes from `offset` behind its frame header's marker on: length (0), bits a
/// channel (2), height (3), width (5).
fn with_frame(jpeg: &[u8], code: u8, offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut changed = jpeg.to_vec();
    let start = marker(jpeg, code) + 2 + offset;
    changed[start..start + bytes.len()].copy_from_slice(bytes);
    changed
}

fn assert_broken(result: Result<Rgb, PixelError>, case: &str) {
    assert!(matches!(result, Err(PixelError::Broken { .. })), "{case}: {result:?}");
}

fn assert_unsupported(result: Result<Rgb, PixelError>, case: &str) {
    assert!(matches!(result, Err(PixelError::Unsupported { .. })), "{case}: {result:?}");
}

#[test]
fn images_without_pixels_are_broken() {
    let jpeg = golden("baseline_420.jpg");
    assert_broken(decode(&with_frame(&jpeg, 0xc0, 3, &[0, 0]), &LIMITS), "no height");
    assert_broken(decode(&with_frame(&jpeg, 0xc0, 5, &[0, 0]), &LIMITS), "no width");
    let mut png = golden("rgb.png");
    png[16..20].fill(0);
    assert_broken(decode(&png, &LIMITS), "png without width");
    assert!(dimensions(&png).is_err());
}

#[test]
fn limits_hold_before_anything_is_decoded() {
    let huge = with_frame(&golden("baseline_420.jpg"), 0xc0, 3, &[0xff; 4]);
    assert_eq!(dimensions(&huge), Ok((65_535, 65_535)));
    let error = decode(&huge, &DecodeLimits::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "image too large: 4294836225 pixels, the limit is 64000000; raise the limit if the source is trusted"
    );
    let mut png = golden("rgb.png");
    png[16..24].fill(0x7f);
    let too_large = |result| matches!(result, Err(PixelError::TooLarge { .. }));
    assert!(too_large(decode(&png, &LIMITS)));
    let unlimited = DecodeLimits { max_pixels: u64::MAX, max_bytes: u64::MAX };
    assert!(too_large(decode(&png, &unlimited)));
    assert!(too_large(decode(&huge, &unlimited)));
    let small = DecodeLimits { max_bytes: 100, ..LIMITS };
    assert!(too_large(decode(&golden("rgb.jpg"), &small)));
}

/// The value of a TIFF's tag, a number of 16 bits, in a file of ours.
fn with_tag(tiff: &[u8], tag: u16, value: u16) -> Vec<u8> {
    let mut changed = tiff.to_vec();
    let number = |at: usize| u32::from_le_bytes(tiff[at..at + 4].try_into().unwrap()) as usize;
    let directory = number(4);
    let entries = u16::from_le_bytes(tiff[directory..directory + 2].try_into().unwrap()) as usize;
    let entry = (0..entries)
        .map(|entry| directory + 2 + 12 * entry)
        .find(|at| tiff[*at..*at + 2] == tag.to_le_bytes())
        .unwrap_or_else(|| panic!("no tag {tag}"));
    changed[entry + 8..entry + 12].copy_from_slice(&u32::from(value).to_le_bytes());
    changed
}

#[test]
fn damaged_tiffs_bitmaps_and_webps_are_refused() {
    let too_large = |result: Result<Rgb, PixelError>| matches!(result, Err(PixelError::TooLarge { .. }));
    let lzw = golden("lzw.tif");
    // 256 and 257: width and height
    let huge = with_tag(&with_tag(&with_tag(&lzw, 256, 60_000), 257, 60_000), 278, 60_000);
    assert_eq!(dimensions(&huge), Ok((60_000, 60_000)));
    assert!(too_large(decode(&huge, &LIMITS)));
    assert_broken(decode(&with_tag(&lzw, 256, 0), &LIMITS), "no width");
    for name in ["raw.tif", "lzw.tif", "packbits.tif", "deflate.tif", "rgb.bmp", "palette.bmp", "lossless.webp"] {
        let whole = golden(name);
        // the last bytes may fill a row, or describe more than pixels
        for end in 0..whole.len() - 200 {
            let result = decode(&whole[..end], &LIMITS);
            assert!(result.is_err(), "{name}: {end} of {} bytes", whole.len());
        }
    }
    let mut bitmap = golden("rgb.bmp");
    bitmap[18..26].copy_from_slice(&[0x60, 0xea, 0, 0, 0x60, 0xea, 0, 0]);
    assert!(too_large(decode(&bitmap, &LIMITS)), "60,000 x 60,000");
}

#[test]
fn a_fourth_band_is_no_opacity() {
    // 277: samples a pixel; Pillow's RGBA as an aerial camera's infrared would lie
    assert_unsupported(decode(&golden("four_bands.tif"), &LIMITS), "infrared");
}

#[test]
fn other_formats_and_codings_are_named() {
    assert_unsupported(decode(b"GIF89a...", &LIMITS), "gif");
    assert_broken(decode(b"II+\0\x08\0\0\0", &LIMITS), "the head of a BigTIFF");
    assert_broken(decode(b"RIFF....WEBP", &LIMITS), "the head of a webp");
    assert_broken(decode(b"RIFF....WAVEfmt ", &LIMITS), "sound");
    assert_broken(decode(b"", &LIMITS), "nothing");
    assert_broken(decode(b"<html>not found</html>", &LIMITS), "an error page");
    let jpeg = golden("baseline_420.jpg");
    assert_unsupported(decode(&with_frame(&jpeg, 0xc0, 2, &[12]), &LIMITS), "12 bits");
    assert_unsupported(decode(&with_frame(&jpeg, 0xc0, 2, &[16]), &LIMITS), "16 bits");
    let mut coding = jpeg.clone();
    for (code, name) in [(0xc3, "lossless"), (0xc5, "hierarchical"), (0xc9, "arithmetic-coded")] {
        coding[marker(&jpeg, 0xc0) + 1] = code;
        let error = decode(&coding, &LIMITS).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn files_cut_anywhere_are_broken() {
    for name in ["baseline_420.jpg", "progressive_444.jpg", "restarts.jpg", "cmyk.jpg", "rgba.png"] {
        let whole = golden(name);
        assert!(decode(&whole, &LIMITS).is_ok());
        // The last chunk of a PNG carries no pixels.
        let end = whole.len() - if name.ends_with("png") { 12 } else { 0 };
        for length in 0..end {
            assert_broken(decode(&whole[..length], &LIMITS), &format!("{name} to {length}"));
        }
    }
}

#[test]
fn last_scans_that_end_early_are_broken_even_with_an_end_marker() {
    let names = ["baseline_420.jpg", "baseline_422.jpg", "restarts.jpg", "grey.jpg", "cmyk.jpg", "progressive_444.jpg"];
    for name in names {
        let jpeg = golden(name);
        let pairs = jpeg.windows(2);
        let last_scan = pairs.into_iter().rposition(|pair| pair == [0xff, 0xda]);
        // The last symbols may by chance be valid when the bits that follow are ones.
        for length in last_scan.unwrap() + 12..jpeg.len() - 6 {
            let mut cut = jpeg[..length].to_vec();
            cut.extend([0xff, 0xd9]);
            let case = format!("{name} to {length} of {}", jpeg.len());
            assert_broken(decode(&cut, &LIMITS), &case);
        }
    }
}

#[test]
fn sequential_scans_must_code_each_component_once() {
    let jpeg = golden("baseline_420.jpg");
    let scan = marker(&jpeg, 0xda);
    let mut twice = jpeg[..jpeg.len() - 2].to_vec();
    twice.extend_from_slice(&jpeg[scan..]);
    assert_broken(decode(&twice, &LIMITS), "two scans of everything");
    let mut never = jpeg[..scan].to_vec();
    never.extend([0xff, 0xd9]);
    assert_broken(decode(&never, &LIMITS), "no scan");
}

#[test]
fn bytes_after_the_end_do_no_harm() {
    for name in ["baseline_420.jpg", "progressive_444.jpg", "rgb.png"] {
        let whole = golden(name);
        let mut followed = whole.clone();
        followed.extend(golden("restarts.jpg"));
        assert_eq!(decode(&followed, &LIMITS), decode(&whole, &LIMITS), "{name}");
    }
}

#[test]
fn random_damage_never_panics() {
    let mut state = 7u32;
    let mut random = |below: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % below
    };
    let names = [
        "baseline_420.jpg",
        "baseline_422.jpg",
        "progressive_444.jpg",
        "restarts.jpg",
        "cmyk.jpg",
        "grey.jpg",
        "rgba.png",
        "palette_transparent.png",
        "sixteen_bit.png",
        "raw.tif",
        "lzw.tif",
        "packbits.tif",
        "deflate.tif",
        "rgb.bmp",
        "palette.bmp",
        "lossless.webp",
    ];
    let (mut refused, mut read) = (0, 0);
    for name in names {
        let whole = golden(name);
        for _ in 0..400 {
            let mut damaged = whole.clone();
            for _ in 0..1 + random(4) {
                let position = random(damaged.len());
                match random(3) {
                    0 => damaged[position] = random(256) as u8,
                    1 => damaged[position] ^= 1 << random(8),
                    _ => drop(damaged.remove(position)),
                }
            }
            match decode(&damaged, &LIMITS) {
                Ok(rgb) => {
                    read += 1;
                    assert_eq!(rgb.data.len(), 3 * rgb.width as usize * rgb.height as usize);
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 500 && read > 100, "{refused} refused, {read} read");
}

#[test]
fn encoded_images_come_back() {
    let rgb = striped(31, 17);
    let png = pixels::encode_png(&rgb);
    assert_eq!(decode(&png, &LIMITS).unwrap(), rgb);
    let jpeg = decode(&pixels::encode_jpeg(&rgb, 100), &LIMITS).unwrap();
    let differences = jpeg.data.iter().zip(&rgb.data).map(|(a, b)| a.abs_diff(*b));
    assert!(differences.max().unwrap() <= 6);
    for quality in [0, 255] {
        assert!(decode(&pixels::encode_jpeg(&rgb, quality), &LIMITS).is_ok());
    }
}

/// Soft diagonal stripes.
fn striped(width: u32, height: u32) -> Rgb {
    let mut data = Vec::new();
    for y in 0..height {
        for x in 0..width {
            let value = ((x * 5 + y * 3) % 200).abs_diff(100) as u8;
            data.extend([value, 100 + value, 250 - value]);
        }
    }
    Rgb::new(width, height, data).unwrap()
}

/// The files of `jpeg_torture` below the test data, or nothing with a word about it.
fn torture(kind: &str) -> Vec<PathBuf> {
    let Some(root) = std::env::var_os("URBANCROSS_TEST_DATA") else {
        println!("skipped: URBANCROSS_TEST_DATA is not set");
        return Vec::new();
    };
    let mut folders = vec![PathBuf::from(root).join("data/jpeg_torture").join(kind)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "jpg") {
                files.push(path);
            }
        }
    }
    files.sort();
    assert!(!files.is_empty());
    files
}

#[test]
fn files_that_crashed_decoders_do_not_crash_this_one() {
    let files = torture("crashtest");
    let decoded = files.iter().map(|path| decode(&std::fs::read(path).unwrap(), &LIMITS));
    let refused = decoded.filter(|result| result.is_err()).count();
    assert!(refused >= files.len() * 9 / 10, "{refused} of {} refused", files.len());
}

#[test]
fn odd_but_valid_files_are_read_right() {
    for path in torture("reftest") {
        let name = path.file_name().unwrap().to_string_lossy();
        let decoded = decode(&std::fs::read(&path).unwrap(), &LIMITS);
        let lossless = ["lossless", "MR4", "XA1"];
        if lossless.iter().any(|word| name.contains(word)) {
            assert_unsupported(decoded, &name);
            continue;
        }
        let ours = decoded.unwrap_or_else(|error| panic!("{name}: {error}"));
        let reference = std::fs::read(path.with_extension("png")).unwrap();
        let theirs = decode(&reference, &LIMITS).unwrap();
        assert_eq!((ours.width, ours.height), (theirs.width, theirs.height), "{name}");
        if ours.width <= 4 && ours.height <= 4 {
            // libjpeg repeats the chroma of so small images, zune-jpeg interpolates it.
            continue;
        }
        let differences = ours.data.iter().zip(&theirs.data).map(|(a, b)| a.abs_diff(*b));
        let largest = differences.clone().max().unwrap();
        let mean = differences.map(f64::from).sum::<f64>() / ours.data.len() as f64;
        assert!(mean < 0.7 && largest <= 8, "{name}: mean {mean}, largest {largest}");
    }
}

/// A picture of 3 x 2 pixels in a BigTIFF, one strip of plain RGB.
fn big_tiff(pixels: &[u8; 18]) -> Vec<u8> {
    let (short, long) = (3u16, 16u16);
    let entries: [(u16, u16, u64, [u8; 8]); 9] = [
        (256, short, 1, [3, 0, 0, 0, 0, 0, 0, 0]),
        (257, short, 1, [2, 0, 0, 0, 0, 0, 0, 0]),
        (258, short, 3, [8, 0, 8, 0, 8, 0, 0, 0]),
        (259, short, 1, [1, 0, 0, 0, 0, 0, 0, 0]),
        (262, short, 1, [2, 0, 0, 0, 0, 0, 0, 0]),
        (273, long, 1, (16 + 8 + 9 * 20 + 8u64).to_le_bytes()),
        (277, short, 1, [3, 0, 0, 0, 0, 0, 0, 0]),
        (278, short, 1, [2, 0, 0, 0, 0, 0, 0, 0]),
        (279, long, 1, 18u64.to_le_bytes()),
    ];
    let mut bytes = [&b"II+\0\x08\0\0\0"[..], &16u64.to_le_bytes(), &9u64.to_le_bytes()].concat();
    for (tag, kind, count, value) in entries {
        bytes.extend([&tag.to_le_bytes()[..], &kind.to_le_bytes(), &count.to_le_bytes(), &value].concat());
    }
    bytes.extend(0u64.to_le_bytes());
    bytes.extend(pixels);
    bytes
}

#[test]
fn a_big_tiff_is_read_and_a_damaged_one_refused() {
    let pixels: [u8; 18] = std::array::from_fn(|at| at as u8 * 10);
    let whole = big_tiff(&pixels);
    let rgb = decode(&whole, &LIMITS).unwrap();
    assert_eq!((rgb.width, rgb.height, rgb.data.as_slice()), (3, 2, &pixels[..]));
    for cut in 0..whole.len() {
        assert!(decode(&whole[..cut], &LIMITS).is_err(), "{cut}");
    }
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0xff;
        let _ = decode(&damaged, &LIMITS);
    }
}

/// Numbers of a sensor lie at the lower end of sixteen bits: a byte of each would be all but black.
#[test]
fn tiffs_with_sixteen_bits_a_band_are_refused() {
    for image in [image::DynamicImage::new_rgb16(8, 8), image::DynamicImage::new_luma16(8, 8)] {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image.write_to(&mut bytes, image::ImageFormat::Tiff).unwrap();
        let why = decode(&bytes.into_inner(), &LIMITS).unwrap_err().to_string();
        assert!(why.contains("16 bits a band"), "{why}");
    }
}

//! Colour values of OpenStreetMap (`red`, `#FFD700`, `RAL…`) to the colour words people use.

/// Colour words and a typical sRGB value each; hex values take the nearest word.
/// Several shades may share a word: roofs are mostly shades of red, brown and grey.
const SHADES: &[(&str, [i32; 3])] = &[
    ("white", [245, 245, 245]),
    ("grey", [192, 192, 192]),
    ("grey", [128, 128, 128]),
    ("dark grey", [70, 70, 72]),
    ("black", [15, 15, 15]),
    ("red", [220, 30, 30]),
    ("red", [178, 60, 45]),
    ("dark red", [120, 20, 20]),
    ("brown", [139, 80, 40]),
    ("brown", [110, 75, 60]),
    ("orange", [245, 140, 30]),
    ("yellow", [250, 220, 40]),
    ("beige", [222, 200, 165]),
    ("green", [50, 140, 60]),
    ("light green", [145, 190, 165]),
    ("blue", [40, 80, 200]),
    ("light blue", [140, 180, 230]),
    ("pink", [240, 160, 180]),
    ("purple", [120, 50, 140]),
];

/// Other names that mappers use, with the word they stand for.
const NAMES: &[(&str, &str)] = &[
    ("anthracite", "dark grey"),
    ("dark gray", "dark grey"),
    ("darkgray", "dark grey"),
    ("darkgrey", "dark grey"),
    ("darkred", "dark red"),
    ("gold", "yellow"),
    ("gray", "grey"),
    ("lightgray", "grey"),
    ("light gray", "grey"),
    ("light grey", "grey"),
    ("lightgrey", "grey"),
    ("maroon", "dark red"),
    ("silver", "grey"),
    ("tan", "beige"),
    ("terracotta", "red"),
];

/// The plain word for a colour value; `None` when it is neither a known name nor `#rgb` / `#rrggbb`.
pub fn plain_colour(value: &str) -> Option<&'static str> {
    if let Some(hex) = value.strip_prefix('#') {
        return Some(nearest_shade(parse_hex(hex)?));
    }
    let value = value.replace('_', " ");
    let other_name = NAMES.iter().find(|(name, _)| *name == value);
    let word = other_name.map_or(value.as_str(), |(_, word)| word);
    let shade = SHADES.iter().find(|(shade, _)| *shade == word);
    shade.map(|(word, _)| *word)
}

fn parse_hex(hex: &str) -> Option<[i32; 3]> {
    if !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let (digits, scale) = match hex.len() {
        3 => (1, 17),
        6 => (2, 1),
        _ => return None,
    };
    let mut rgb = [0; 3];
    for (channel, text) in rgb.iter_mut().zip(hex.as_bytes().chunks(digits)) {
        let text = std::str::from_utf8(text).ok()?;
        *channel = i32::from_str_radix(text, 16).ok()? * scale;
    }
    Some(rgb)
}

fn nearest_shade(rgb: [i32; 3]) -> &'static str {
    let distance = |shade: &[i32; 3]| -> i32 { shade.iter().zip(rgb).map(|(a, b)| (a - b) * (a - b)).sum() };
    SHADES.iter().min_by_key(|(_, shade)| distance(shade)).map_or("grey", |(word, _)| *word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_and_named_colours_become_plain_words() {
        for (value, word) in [
            ("red", "red"),
            ("#FFD700", "yellow"),
            ("#f00", "red"),
            ("#bfbab8", "grey"),
            ("#DDB692", "beige"),
            ("maroon", "dark red"),
            ("dark_grey", "dark grey"),
            ("light grey", "grey"),
        ] {
            assert_eq!(plain_colour(value), Some(word), "{value}");
        }
    }

    #[test]
    fn other_text_is_no_colour() {
        for value in ["", "#", "#12", "#gggggg", "#ééé", "see photo", "#+1+1+1"] {
            assert_eq!(plain_colour(value), None, "{value}");
        }
    }
}

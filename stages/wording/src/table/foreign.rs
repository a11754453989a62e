//! Values in the mapper's own language, for the few keys where that happens: OpenStreetMap's values are English by
//! convention, and other languages stand in names. Data only; German, Spanish and Finnish, lower case, sorted.
//!
//! A word that means two things under its key is left out: then the general word ("a building") is right.

const BUILDINGS: &[(&str, &str)] = &[
    ("almacén", "warehouse"),
    ("apartamentos", "apartments"),
    ("autotalli", "garage"),
    ("capilla", "chapel"),
    ("casa", "house"),
    ("cobertizo", "shed"),
    ("einfamilienhaus", "detached"),
    ("ermita", "chapel"),
    ("escuela", "school"),
    ("garaje", "garage"),
    ("gewaechshaus", "greenhouse"),
    ("gewächshaus", "greenhouse"),
    ("granero", "barn"),
    ("haus", "house"),
    ("huette", "hut"),
    ("hütte", "hut"),
    ("iglesia", "church"),
    ("invernadero", "greenhouse"),
    ("kapelle", "chapel"),
    ("kappeli", "chapel"),
    ("kasvihuone", "greenhouse"),
    ("kerrostalo", "apartments"),
    ("kirche", "church"),
    ("kirkko", "church"),
    ("koulu", "school"),
    ("krankenhaus", "hospital"),
    ("kuhstall", "cowshed"),
    ("lagerhalle", "warehouse"),
    ("lato", "barn"),
    ("mehrfamilienhaus", "apartments"),
    ("mökki", "cabin"),
    ("navetta", "cowshed"),
    ("omakotitalo", "detached"),
    ("pferdestall", "stable"),
    ("reihenhaus", "terrace"),
    ("rivitalo", "terrace"),
    ("sairaala", "hospital"),
    ("scheune", "barn"),
    ("schule", "school"),
    ("schuppen", "shed"),
    ("talli", "stable"),
    ("talo", "house"),
    ("turm", "tower"),
    ("vaja", "shed"),
    ("varasto", "warehouse"),
    ("wohnhaus", "house"),
];

const SPORTS: &[(&str, &str)] = &[
    ("baloncesto", "basketball"),
    ("fussball", "soccer"),
    ("futbol", "soccer"),
    ("fußball", "soccer"),
    ("fútbol", "soccer"),
    ("jalkapallo", "soccer"),
    ("koripallo", "basketball"),
    ("tenis", "tennis"),
];

const SURFACES: &[(&str, &str)] = &[
    ("adoquines", "paving_stones"),
    ("arena", "sand"),
    ("asfalto", "asphalt"),
    ("asfaltti", "asphalt"),
    ("beton", "concrete"),
    ("betoni", "concrete"),
    ("césped", "grass"),
    ("gras", "grass"),
    ("grava", "gravel"),
    ("hiekka", "sand"),
    ("hormigón", "concrete"),
    ("kies", "gravel"),
    ("kopfsteinpflaster", "cobblestone"),
    ("nurmi", "grass"),
    ("schotter", "gravel"),
    ("sora", "gravel"),
    ("tierra", "ground"),
];

const COLOURS: &[(&str, &str)] = &[
    ("amarillo", "yellow"),
    ("azul", "blue"),
    ("blanco", "white"),
    ("blau", "blue"),
    ("braun", "brown"),
    ("gelb", "yellow"),
    ("grau", "grey"),
    ("gris", "grey"),
    ("grün", "green"),
    ("harmaa", "grey"),
    ("keltainen", "yellow"),
    ("marrón", "brown"),
    ("musta", "black"),
    ("negro", "black"),
    ("punainen", "red"),
    ("rojo", "red"),
    ("rot", "red"),
    ("ruskea", "brown"),
    ("schwarz", "black"),
    ("sininen", "blue"),
    ("valkoinen", "white"),
    ("verde", "green"),
    ("vihreä", "green"),
    ("weiß", "white"),
];

/// OpenStreetMap's value for a word of another language under this key.
pub fn english(key: &str, value: &str) -> Option<&'static str> {
    let words = match key {
        "building" => BUILDINGS,
        "sport" => SPORTS,
        "surface" => SURFACES,
        "roof:colour" => COLOURS,
        _ => return None,
    };
    super::find(words, value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tags;
    use crate::clean::clean_tags;

    #[test]
    fn words_are_sorted_lower_case_and_lead_to_known_values() {
        for (key, words) in
            [("building", BUILDINGS), ("sport", SPORTS), ("surface", SURFACES), ("roof:colour", COLOURS)]
        {
            assert!(words.windows(2).all(|pair| pair[0].0 < pair[1].0), "{key} is not sorted");
            for (foreign, value) in words {
                assert_eq!(foreign.to_lowercase(), *foreign);
                let clean = |value: &str| clean_tags(&Tags::from([(key.to_owned(), value.to_owned())]));
                assert_eq!(clean(foreign), clean(value), "{key}={foreign}");
                assert_eq!(clean(value).get(key).map(String::as_str), Some(*value), "{key}={value} is not known");
            }
        }
    }
}

//! Tags of other languages and scripts: what can be seen gets its English word, what cannot stays out.

use wording::{Tags, caption, caption_from_title, phrase, unknown_tags, variants_from_tags};

fn tags(pairs: &[(&str, &str)]) -> Tags {
    pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

#[test]
fn names_of_any_script_say_nothing_that_is_seen() {
    let market = tags(&[
        ("place", "square"),
        ("highway", "pedestrian"),
        ("area", "yes"),
        ("name", "Kauppatori"),
        ("name:fi", "Kauppatori"),
        ("name:sv", "Salutorget"),
        ("name:ru", "Рыночная площадь"),
        ("name:zh", "市集廣場"),
        ("name:he", "כיכר השוק"),
        ("addr:street", "Eteläesplanadi"),
        ("note:de", "Straße gesperrt"),
        ("operator", "Stadtwerke Köln"),
        ("description", "площадь у моря"),
    ]);
    let plain = phrase(&tags(&[("place", "square"), ("highway", "pedestrian"), ("area", "yes")]));
    assert_eq!(phrase(&market), plain);
    let line = caption(&market, &[market.clone(), tags(&[("name", "Рынок")])]).expect("a pedestrian street is seen");
    assert!(line.is_ascii(), "{line}");
    for variant in variants_from_tags(&market, std::slice::from_ref(&market)).expect("the same") {
        assert!(variant.embedding_text().is_ascii(), "{variant:?}");
    }
    for only_named in [[("name", "Kauppatori")], [("name:fi", "Straße")], [("note", "Школа")], [("школа", "yes")]]
    {
        assert_eq!(phrase(&tags(&only_named)), None);
    }
}

#[test]
fn words_of_other_languages_are_known_where_mappers_use_them() {
    for (object, expected) in [
        (&[("building", "Wohnhaus")][..], "a house"),
        (&[("building", "iglesia")], "a church"),
        (&[("building", "Kerrostalo")], "an apartment building"),
        (&[("building", "GEWÄCHSHAUS")], "a greenhouse"),
        (&[("building", "kirche"), ("roof:colour", "Weiß")], "a church with a white roof"),
        (&[("leisure", "pitch"), ("sport", "Fußball")], "a soccer pitch"),
        (&[("leisure", "pitch"), ("sport", "jalkapallo;tennis")], "a soccer pitch"),
        (&[("highway", "residential"), ("surface", "hormigón")], "a residential road with a concrete surface"),
        // an unknown word leaves the general one; a word counts under its own key alone
        (&[("building", "здание")], "a building"),
        (&[("building", "рынок"), ("roof:colour", "красный")], "a building"),
        (&[("building", "yes"), ("roof:colour", "kirche")], "a building"),
    ] {
        assert_eq!(phrase(&tags(object)).as_deref(), Some(expected), "{object:?}");
    }
    assert_eq!(phrase(&tags(&[("amenity", "iglesia")])), None);
    assert!(unknown_tags(&tags(&[("building", "talo")])).is_empty());
    assert_eq!(unknown_tags(&tags(&[("building", "здание")])).len(), 1, "and it is counted");
}

#[test]
fn titles_leave_names_out_too() {
    let title = "a satellite image of building of kirche with name of Kauppatori, surrounded by road of residential; \
                 name of Рыночная площадь; ";
    let line = caption_from_title(title, None).expect("a church is seen");
    assert!(line.is_ascii() && line.contains("church") && !line.contains("kauppatori"), "{line}");
}

/// Every object of a real extract, whatever is written in it.
#[test]
fn real_extracts_give_english_alone() {
    let Some(folder) = std::env::var_os("URBANCROSS_TEST_DATA") else {
        println!("skipped: URBANCROSS_TEST_DATA is not set");
        return;
    };
    let text = std::fs::read_to_string(std::path::Path::new(&folder).join("data/osm/bautzen.osm")).expect("an extract");
    let (mut objects, mut named, mut phrases) = (0, 0, 0);
    let mut object = Tags::new();
    for line in text.lines() {
        let quoted: Vec<&str> = line.split('"').collect();
        if let [start, key, _, value, _] = quoted[..]
            && start.trim() == "<tag k="
        {
            object.insert(key.to_owned(), value.to_owned());
        } else if line.trim_start().starts_with("</") {
            let object = std::mem::take(&mut object);
            objects += usize::from(!object.is_empty());
            named += usize::from(object.contains_key("name"));
            if let Some(phrase) = phrase(&object) {
                phrases += 1;
                assert!(phrase.bytes().all(|b| b.is_ascii_lowercase() || b" ,-".contains(&b)), "{phrase}");
            }
        }
    }
    assert!(objects > 100 && named > 20 && phrases > 50, "{objects} objects, {named} named, {phrases} phrases");
}

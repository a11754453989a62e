//! What captions read like: the examples of the papers, the known failures, and plain good English.

use wording::{
    MAX_CAPTION_CHARS, Tags, caption, caption_from_title, geotags_text, normalise_caption, phrase, skyscript_title,
};

/// "highway=residential surface=asphalt" → tags.
fn tags(text: &str) -> Tags {
    text.split_whitespace()
        .map(|tag| {
            let (key, value) = tag.split_once('=').expect("key=value");
            (key.to_owned(), value.to_owned())
        })
        .collect()
}

fn all_tags(texts: &[&str]) -> Vec<Tags> {
    texts.iter().map(|text| tags(text)).collect()
}

#[test]
fn objects_are_named_in_plain_english() {
    for (object, expected) in [
        ("leisure=pitch sport=soccer", "a soccer pitch"),
        ("leisure=pitch sport=tennis surface=clay", "a tennis court with a clay surface"),
        ("leisure=pitch", "a sports pitch"),
        ("highway=residential surface=asphalt", "a residential road with an asphalt surface"),
        ("building=church roof:colour=red", "a church with a red roof"),
        ("building=church amenity=place_of_worship religion=christian", "a church"),
        ("building=cathedral amenity=place_of_worship religion=christian", "a cathedral"),
        ("building=yes amenity=place_of_worship religion=muslim", "a mosque"),
        ("building=house roof:colour=#aa3322 roof:shape=gabled", "a house with a red gabled roof"),
        ("building=yes", "a building"),
        ("building=apartments building:levels=9", "an apartment building"),
        ("highway=crossing crossing=zebra", "a pedestrian crossing with zebra markings"),
        ("highway=crossing crossing=uncontrolled crossing_ref=zebra", "a pedestrian crossing with zebra markings"),
        (
            "highway=motorway lanes=3 surface=asphalt bridge=yes",
            "a motorway with an asphalt surface and three lanes on a bridge",
        ),
        ("highway=traffic_signals lanes=4", "a road intersection with traffic lights and four lanes"),
        ("highway=primary junction=roundabout", "a roundabout"),
        ("highway=service service=parking_aisle", "a parking lot aisle"),
        ("natural=water water=pond", "a pond"),
        ("natural=wood leaf_type=needleleaved", "coniferous woodland"),
        ("natural=tree_row", "a row of trees"),
        ("landuse=grass", "grass"),
        ("landuse=allotments", "allotment gardens"),
        ("landuse=farmland crop=maize", "a corn field"),
        ("power=generator generator:source=solar building=yes", "solar panels"),
        ("power=generator generator:source=wind", "a wind turbine"),
        ("man_made=storage_tank content=oil", "an oil storage tank"),
        ("amenity=school", "a school"),
        ("railway=yes", "railway tracks"),
        ("bridge=yes railway=rail", "a railway on a bridge"),
    ] {
        assert_eq!(phrase(&tags(object)).as_deref(), Some(expected), "{object}");
    }
}

#[test]
fn what_cannot_be_seen_has_no_phrase() {
    for object in [
        "",
        "name=Bahnhof addr:city=Bautzen",
        "amenity=bench backrest=yes",
        "boundary=administrative admin_level=8",
        "highway=primary tunnel=yes",
        "amenity=parking parking=underground",
        "railway=abandoned",
        "disused:amenity=school",
        "building=no",
        "surface=asphalt lanes=2",
        "tracktype=grade2",
    ] {
        assert_eq!(phrase(&tags(object)), None, "{object}");
    }
}

#[test]
fn failures_of_appendix_a_1_3_do_not_return() {
    // Vocabulary that a captioner parrots.
    let track = tags("highway=track tracktype=grade2 surface=gravel");
    assert_eq!(phrase(&track).as_deref(), Some("a farm track with a gravel surface"));
    assert!(!geotags_text(&track, &[]).contains("grade"));
    let title = "a satellite image of road of track with tracktype of grade2, surrounded by golf of driving range ";
    assert_eq!(
        caption_from_title(title, None).as_deref(),
        Some("a satellite image of a farm track, surrounded by a golf driving range")
    );
    // Words with two meanings.
    for (object, expected) in [
        ("golf=driving_range", "a golf driving range"),
        ("golf=green", "a golf green"),
        ("golf=bunker", "a golf bunker"),
        ("military=bunker", "a bunker"),
        ("leisure=track", "a running track"),
        ("highway=track", "a farm track"),
        ("aeroway=apron", "an airport apron"),
        ("power=plant", "a power plant"),
        ("landuse=plant_nursery", "a plant nursery"),
        ("power=tower", "a transmission tower"),
        ("man_made=tower tower:type=cooling", "a cooling tower"),
        ("landuse=basin", "a water basin"),
        ("sport=football", "a football pitch"),
        ("man_made=works", "a factory"),
        ("leisure=common", "a public green"),
    ] {
        assert_eq!(phrase(&tags(object)).as_deref(), Some(expected), "{object}");
    }
}

#[test]
fn surroundings_are_counted_and_independent_of_their_order() {
    let center = tags("leisure=pitch sport=soccer");
    let around =
        all_tags(&["building=house", "highway=residential", "amenity=bench", "highway=residential surface=asphalt"]);
    let expected = "a satellite image of a soccer pitch, surrounded by two residential roads and a house";
    assert_eq!(caption(&center, &around).as_deref(), Some(expected));
    let reversed: Vec<Tags> = around.into_iter().rev().collect();
    assert_eq!(caption(&center, &reversed).as_deref(), Some(expected));

    let houses = all_tags(&["building=house"; 3]);
    assert_eq!(
        caption(&tags("building=house"), &houses[..1]).as_deref(),
        Some("a satellite image of a house, surrounded by another house")
    );
    assert_eq!(
        caption(&tags("building=house"), &houses).as_deref(),
        Some("a satellite image of a house, surrounded by three other houses")
    );
    assert_eq!(
        caption(&tags("landuse=meadow"), &all_tags(&["natural=tree"; 40])).as_deref(),
        Some("a satellite image of a meadow, surrounded by many trees")
    );
    assert_eq!(caption(&tags("name=x"), &houses).as_deref(), Some("a satellite image of three houses"));
    assert_eq!(caption(&tags("name=x"), &[]), None);
}

#[test]
fn captions_name_the_five_most_frequent_kinds() {
    let mut around = all_tags(&[
        "landuse=grass",
        "natural=scrub",
        "natural=wood",
        "barrier=hedge",
        "barrier=wall",
        "amenity=school",
    ]);
    around.extend(all_tags(&["highway=residential"; 2]));
    let caption = caption(&tags("building=house"), &around).expect("nameable");
    assert_eq!(
        caption,
        "a satellite image of a house, surrounded by two residential roads, grass, a hedge, a school and scrub"
    );
    assert!(caption.len() <= MAX_CAPTION_CHARS);
}

#[test]
fn skyscript_grammar_is_written_as_observed() {
    let center = tags("highway=crossing crossing=zebra name=x");
    let around = all_tags(&["highway=residential", "highway=tertiary"]);
    assert_eq!(
        skyscript_title(&center, &around),
        "a satellite image of road of crossing with crossing of zebra, surrounded by road of residential; road of tertiary "
    );
    assert_eq!(
        skyscript_title(&tags("aeroway=runway surface=asphalt lanes=2 bridge=yes"), &[]),
        "a satellite image of airport of runway with bridge and lanes of 2 and surface of asphalt"
    );
    assert_eq!(
        geotags_text(&tags("amenity=school highway=residential"), &all_tags(&["highway=service"])),
        "amenity of school, road of residential; surrounded by road of service;"
    );
    assert_eq!(geotags_text(&tags("name=x"), &[]), "");
}

#[test]
fn titles_read_back_give_the_caption_of_their_tags() {
    let around = all_tags(&["highway=residential", "highway=residential", "natural=water water=pond", "building=yes"]);
    for center in [
        "highway=crossing crossing=zebra",
        "leisure=pitch sport=soccer surface=artificial_turf",
        "power=generator generator:source=solar",
        "building=church roof:colour=#aa3322 roof:shape=gabled",
        "man_made=storage_tank content=oil",
        "amenity=place_of_worship religion=christian",
        "building=yes",
        "area:highway=footway",
        "highway=motorway bridge=yes lanes=3",
    ] {
        let center = tags(center);
        let title = skyscript_title(&center, &around);
        assert_eq!(caption_from_title("x", Some(&title)), caption(&center, &around), "{title}");
        let geotags = geotags_text(&center, &around);
        assert_eq!(caption_from_title(&geotags, None), caption(&center, &around), "{geotags}");
    }
}

#[test]
fn titles_in_the_papers_forms_are_understood() {
    for (title, expected) in [
        (
            "a satellite image of road of crossing with crossing of zebra, surrounded by road of residential; road of tertiary ",
            "a satellite image of a pedestrian crossing with zebra markings, surrounded by a residential road and a tertiary road",
        ),
        (
            "An aerial image. It shows: road of crossing with crossing of zebra",
            "an aerial image of a pedestrian crossing with zebra markings",
        ),
        (
            "A satellite image. It shows: a satellite image of amenity of fountain, surrounded by natural tree, road of footway",
            "a satellite image of a fountain, surrounded by a footpath and a tree",
        ),
        ("An aerial image. It shows: Two ponds near a farm.", "an aerial image of two ponds near a farm"),
        (
            "Generator source of solar, surrounded by road of service, building",
            "a satellite image of a building and a service road",
        ),
        (
            "a satellite image of man made of storage tank with content of oil, surrounded by land use of industrial",
            "a satellite image of an oil storage tank, surrounded by an industrial area",
        ),
        ("a satellite image of building with foo of bar", "a satellite image of a building"),
    ] {
        assert_eq!(caption_from_title(title, None).as_deref(), Some(expected), "{title}");
    }
}

#[test]
fn other_titles_stay_as_they_are() {
    let title = "a satellite image of a beautiful house I will never be able to afford";
    let multi = "a satellite image of a beautiful house, surrounded by a yard";
    assert_eq!(caption_from_title(title, Some(multi)).as_deref(), Some(title));
    for title in [
        "a satellite image of the last mall in the world",
        "building with a red door",
        "bridge over a river",
        "two photos of a barn",
    ] {
        assert_eq!(caption_from_title(title, None).as_deref(), Some(title));
    }
    assert_eq!(caption_from_title("", None), None);
    assert_eq!(caption_from_title(" \n", Some("  ")), None);
    assert_eq!(caption_from_title("a satellite image of ", None), None);
    assert_eq!(caption_from_title("", Some("some yard")).as_deref(), Some("some yard"));
}

#[test]
fn equal_captions_share_a_key_whatever_their_punctuation() {
    let a = caption_from_title("a satellite image of road of residential ", None).expect("grammar");
    assert_eq!(normalise_caption(&a), normalise_caption("A satellite image of a residential road."));
}

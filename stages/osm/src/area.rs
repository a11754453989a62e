//! Which closed ways are areas, and where objects lie.

use crate::Place;
use crate::element::{Kind, ObjectId, Tags};
use crate::shape::Shape;

/// Keys whose closed ways are lines that come back to where they began.
const LINE_KEYS: [&str; 3] = ["highway", "barrier", "railway"];
/// Values that are lines under keys whose others are areas.
const LINES: [(&str, &str); 18] = [
    ("aeroway", "taxiway"),
    ("man_made", "cutline"),
    ("man_made", "embankment"),
    ("man_made", "pipeline"),
    ("natural", "arete"),
    ("natural", "cliff"),
    ("natural", "coastline"),
    ("natural", "ridge"),
    ("natural", "tree_row"),
    ("power", "cable"),
    ("power", "line"),
    ("power", "minor_line"),
    ("waterway", "canal"),
    ("waterway", "ditch"),
    ("waterway", "drain"),
    ("waterway", "river"),
    ("waterway", "stream"),
    ("aerialway", "gondola"),
];

/// Whether a closed way with these tags encloses something that belongs to it.
pub(crate) fn is_area(tags: &Tags) -> bool {
    match tags.get("area").map(String::as_str) {
        Some("yes") => true,
        Some("no") => false,
        _ => {
            !LINE_KEYS.iter().any(|key| tags.contains_key(*key))
                && !LINES.iter().any(|(key, value)| tags.get(*key).is_some_and(|v| v == value))
        }
    }
}

/// Whether a relation is an area that several ways enclose.
pub(crate) fn is_multipolygon(tags: &Tags) -> bool {
    tags.get("type").is_some_and(|kind| kind == "multipolygon")
}

/// Ways of a relation. A relation's other members do not shape it.
pub(crate) fn member_ways(members: &[ObjectId]) -> impl Iterator<Item = i64> + '_ {
    members.iter().filter(|member| member.kind == Kind::Way).map(|member| member.id)
}

/// Where a way lies, as far as its nodes are known: lines end at gaps, and what has gaps encloses nothing. `encloses`:
/// whether it does where it is closed, as [`is_area`] says of its tags.
pub(crate) fn way_shape(
    refs: &[i64],
    encloses: impl FnOnce() -> bool,
    place: &mut dyn FnMut(i64) -> Option<Place>,
) -> Shape {
    let mut shape = Shape::default();
    let mut is_whole = true;
    let mut line = Vec::new();
    for id in refs {
        match place(*id) {
            Some(place) => line.push(place),
            None => {
                is_whole = false;
                shape.lines.extend(Some(std::mem::take(&mut line)).filter(|line| !line.is_empty()));
            }
        }
    }
    shape.lines.extend(Some(line).filter(|line| !line.is_empty()));
    shape.is_area = is_whole && is_closed(refs) && encloses();
    shape
}

/// Whether a way comes back to where it began.
pub(crate) fn is_closed(refs: &[i64]) -> bool {
    refs.len() >= 4 && refs.first() == refs.last()
}

/// Where a multipolygon lies. Its ways enclose something if they all are there and every end meets another.
pub(crate) fn relation_shape<R: AsRef<[i64]>>(ways: &[Option<(R, Shape)>]) -> Shape {
    let mut shape = Shape::default();
    let mut is_whole = true;
    let mut ends: Vec<i64> = Vec::new();
    for way in ways {
        let Some((refs, of_way)) = way else {
            is_whole = false;
            continue;
        };
        let refs = refs.as_ref();
        is_whole &= of_way.lines.len() == 1;
        shape.lines.extend(of_way.lines.iter().cloned());
        if let (Some(first), Some(last)) = (refs.first(), refs.last())
            && first != last
        {
            ends.extend([*first, *last]);
        }
    }
    ends.sort_unstable();
    let meet = ends.chunk_by(|a, b| a == b).all(|same| same.len() % 2 == 0);
    shape.is_area = is_whole && meet && !shape.lines.is_empty();
    shape
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(pairs: &[(&str, &str)]) -> Tags {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    #[test]
    fn roads_enclose_nothing_unless_they_say_so() {
        assert!(is_area(&tags(&[("building", "yes")])));
        assert!(!is_area(&tags(&[("highway", "residential")])));
        assert!(is_area(&tags(&[("highway", "pedestrian"), ("area", "yes")])));
        assert!(!is_area(&tags(&[("waterway", "river")])));
        assert!(is_area(&tags(&[("waterway", "riverbank")])));
    }

    #[test]
    fn a_multipolygon_of_two_halves_encloses_and_one_half_does_not() {
        let at = |lon, lat| Place { lon, lat };
        let line = |places: &[Place]| Shape { lines: vec![places.to_vec()], is_area: false };
        let (a, b) = (line(&[at(0, 0), at(9, 0), at(9, 9)]), line(&[at(9, 9), at(0, 9), at(0, 0)]));
        let one: (&[i64], Shape) = (&[1, 2, 3], a);
        let other: (&[i64], Shape) = (&[3, 4, 1], b);
        assert!(relation_shape(&[Some(one.clone()), Some(other.clone())]).is_area);
        assert!(!relation_shape(&[Some(one.clone())]).is_area);
        assert!(!relation_shape(&[Some(one), None]).is_area);
        assert!(!relation_shape::<&[i64]>(&[]).is_area);
    }

    #[test]
    fn a_way_with_a_gap_is_lines() {
        let shape =
            way_shape(&[1, 2, 3, 4, 1], || true, &mut |id| (id != 3).then_some(Place { lon: id as i32, lat: 0 }));
        assert_eq!((shape.lines.len(), shape.is_area), (2, false));
    }
}

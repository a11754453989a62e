//! The rows of SkyScript's CSVs that a build wants, and where archives have them: in few bytes each, as there may be millions.

use std::collections::BTreeMap;

use sources::name::ImageName;

use super::ObjectRange;
use super::rows::{get_option, get_text, put_option, put_text};
use crate::archive::{MemberPlace, WantedMembers, WantedNames};

/// Rows whose texts lie together, and are given up together.
const ROWS_TOGETHER: usize = 4_096;

/// A row's texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row<'a> {
    pub(super) filepath: &'a str,
    pub(super) title: &'a str,
    pub(super) title_multi_objects: Option<&'a str>,
}

/// Which of a row's two places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Image,
    Meta,
}

/// A member of one of the archives.
#[derive(Debug, Clone, Copy)]
struct Place {
    archive: u32,
    stored: bool,
    crc32: u32,
    compressed_bytes: u64,
    uncompressed_bytes: u64,
    header_offset: u64,
}

/// Rows that are given up together.
#[derive(Default)]
struct Together {
    texts: Vec<u8>,
    begins: Vec<usize>,
    /// None before an archive was looked through.
    places: Vec<[Option<Place>; 2]>,
}

/// Rows by order of arrival, and the numbers of those that count by image.
#[derive(Default)]
pub(super) struct Wanted {
    together: Vec<Together>,
    rows: u32,
    /// In order of the images. Beside each the first bytes of its id: most comparisons need no more.
    order: Vec<(u64, u32)>,
    archives: Vec<(String, Option<String>)>,
}

/// The file's stem, as [`ImageName::parse`] took it.
fn id_of(filepath: &str) -> &str {
    let file = filepath.split_once('/').map_or(filepath, |(_, file)| file);
    file.strip_suffix(".jpg").unwrap_or(file)
}

/// The first bytes of an id, in the same order.
fn first_bytes(id: &str) -> u64 {
    let mut first = [0; 8];
    first.iter_mut().zip(id.bytes()).for_each(|(to, byte)| *to = byte);
    u64::from_be_bytes(first)
}

impl Wanted {
    /// Rows that came, whether they count or not.
    pub(super) fn arrived(&self) -> u32 {
        self.rows
    }

    /// Rows that count.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn push(&mut self, row: Row<'_>) {
        if (self.rows as usize).is_multiple_of(ROWS_TOGETHER) {
            if let Some(full) = self.together.last_mut() {
                full.texts.shrink_to_fit();
                full.begins.shrink_to_fit();
            }
            self.together.push(Together::default());
        }
        let Some(to) = self.together.last_mut() else { return };
        to.begins.push(to.texts.len());
        put_text(&mut to.texts, row.filepath);
        put_text(&mut to.texts, row.title);
        put_option(&mut to.texts, row.title_multi_objects);
        self.rows += 1;
    }

    pub(super) fn row(&self, number: u32) -> Option<Row<'_>> {
        let rows = self.together.get(number as usize / ROWS_TOGETHER)?;
        let mut bytes = rows.texts.get(*rows.begins.get(number as usize % ROWS_TOGETHER)?..)?;
        let bytes = &mut bytes;
        Some(Row { filepath: get_text(bytes)?, title: get_text(bytes)?, title_multi_objects: get_option(bytes)? })
    }

    pub(super) fn filepath(&self, number: u32) -> &str {
        self.row(number).map_or("", |row| row.filepath)
    }

    fn id(&self, number: u32) -> &str {
        id_of(self.filepath(number))
    }

    /// Takes the rows from `first` on among those that count. Of an image that is there twice the first row counts: gives
    /// the others, each with the one that counts.
    pub(super) fn settle(&mut self, first: u32) -> Vec<(u32, u32)> {
        let mut order = std::mem::take(&mut self.order);
        order.extend((first..self.rows).map(|number| (first_bytes(self.id(number)), number)));
        order.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| self.id(a.1).cmp(self.id(b.1))));
        let mut again = Vec::new();
        order.dedup_by(|next, kept| {
            let is_same = next.0 == kept.0 && self.id(next.1) == self.id(kept.1);
            again.extend(is_same.then_some((next.1, kept.1)));
            is_same
        });
        self.order = order;
        again.sort_unstable();
        again
    }

    /// Leaves so many, the first by image.
    pub(super) fn truncate(&mut self, most: usize) {
        self.order.truncate(most);
    }

    /// Rows that count, in order of the images.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> {
        self.order.iter().map(|(_, number)| *number)
    }

    /// The row of an image.
    fn number_of(&self, id: &str) -> Option<u32> {
        let first = first_bytes(id);
        let from = self.order.partition_point(|(other, _)| *other < first);
        let same = self.order[from..].partition_point(|(other, _)| *other == first);
        let same = &self.order[from..from + same];
        let found = same.binary_search_by(|(_, number)| self.id(*number).cmp(id)).ok()?;
        Some(same[found].1)
    }

    /// Archives of images, and those of their records, without their ending.
    pub(super) fn parts(&self) -> BTreeMap<String, String> {
        let mut parts = BTreeMap::new();
        for name in self.numbers().filter_map(|number| ImageName::parse(self.filepath(number)).ok()) {
            if !parts.contains_key(&name.part) {
                parts.insert(name.part.clone(), name.meta_part());
            }
        }
        parts
    }

    /// What is wanted of an archive.
    pub(super) fn names<'a>(&'a self, part: &'a str, folder: &'a str, of: Of) -> Names<'a> {
        Names { wanted: self, part, folder, of }
    }

    /// Notes where an archive has the wanted members; gives the names of those that it holds twice. The last one counts.
    pub(super) fn place(
        &mut self,
        archive: &str,
        found: &WantedMembers,
        (part, folder, of): (&str, &str, Of),
    ) -> Vec<String> {
        let number = self.archives.len() as u32;
        self.archives.push((archive.to_owned(), found.etag.clone()));
        let mut twice = Vec::new();
        for member in &found.members {
            let row = self.names(part, folder, of).row(&member.name);
            let Some(row) = row.map(|row| row as usize) else { continue };
            let Some(rows) = self.together.get_mut(row / ROWS_TOGETHER) else { continue };
            rows.places.resize(rows.begins.len(), [None; 2]);
            let Some(places) = rows.places.get_mut(row % ROWS_TOGETHER) else { continue };
            let place = Place {
                archive: number,
                stored: member.stored,
                crc32: member.crc32,
                compressed_bytes: member.compressed_bytes,
                uncompressed_bytes: member.uncompressed_bytes,
                header_offset: member.header_offset,
            };
            if places[of as usize].replace(place).is_some() {
                twice.push(member.name.clone());
            }
        }
        twice
    }

    fn placed(&self, number: u32, of: Of) -> Option<Place> {
        let rows = self.together.get(number as usize / ROWS_TOGETHER)?;
        rows.places.get(number as usize % ROWS_TOGETHER)?[of as usize]
    }

    /// Whether an archive has a row's image or record.
    pub(super) fn is_placed(&self, number: u32, of: Of) -> bool {
        self.placed(number, of).is_some()
    }

    fn range(&self, number: u32, of: Of, name: String) -> Option<ObjectRange> {
        let place = self.placed(number, of)?;
        let (object, etag) = self.archives.get(place.archive as usize)?.clone();
        let member = MemberPlace {
            name,
            stored: place.stored,
            crc32: place.crc32,
            compressed_bytes: place.compressed_bytes,
            uncompressed_bytes: place.uncompressed_bytes,
            header_offset: place.header_offset,
        };
        Some(ObjectRange { object, etag, bytes: None, member: Some(member) })
    }

    /// Hands out every row that counts and whose image was found, in order of arrival, and gives it up soon after.
    pub(super) fn drain(mut self, mut take: impl FnMut(Row<'_>, &ImageName, ObjectRange, Option<ObjectRange>)) {
        let mut counts = vec![false; self.rows as usize];
        self.numbers().for_each(|number| counts[number as usize] = true);
        self.order = Vec::new();
        for number in 0..self.rows {
            if counts[number as usize]
                && let Some(row) = self.row(number)
                && let Ok(name) = ImageName::parse(row.filepath)
                && let Some(image) = self.range(number, Of::Image, name.image_path())
            {
                take(row, &name, image, self.range(number, Of::Meta, name.meta_path()));
            }
            if (number as usize + 1).is_multiple_of(ROWS_TOGETHER) {
                self.together[number as usize / ROWS_TOGETHER] = Together::default();
            }
        }
    }
}

/// Names of an archive's wanted members.
pub(super) struct Names<'a> {
    wanted: &'a Wanted,
    part: &'a str,
    folder: &'a str,
    of: Of,
}

impl Names<'_> {
    fn ending(&self) -> &'static str {
        match self.of {
            Of::Image => ".jpg",
            Of::Meta => ".pickle",
        }
    }

    fn is_of_part(&self, number: u32) -> bool {
        self.wanted.filepath(number).split_once('/').is_some_and(|(part, _)| part == self.part)
    }

    /// The row that a member belongs to.
    fn row(&self, name: &str) -> Option<u32> {
        let id = name.strip_prefix(self.folder)?.strip_prefix('/')?.strip_suffix(self.ending())?;
        self.wanted.number_of(id).filter(|number| self.is_of_part(*number))
    }
}

impl WantedNames for Names<'_> {
    fn contains(&self, name: &str) -> bool {
        self.row(name).is_some()
    }

    fn in_order(&self) -> Box<dyn Iterator<Item = String> + '_> {
        let numbers = self.wanted.numbers().filter(|number| self.is_of_part(*number));
        Box::new(numbers.map(|number| format!("{}/{}{}", self.folder, self.wanted.id(number), self.ending())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row<'a>(filepath: &'a str, title: &'a str) -> Row<'a> {
        Row { filepath, title, title_multi_objects: Some(title).filter(|title| title.len() > 1) }
    }

    #[test]
    fn the_first_row_of_an_image_counts_and_is_placed() {
        let mut wanted = Wanted::default();
        let paths = ["images2/w22222222_FI_19.jpg", "images3/a1_FI_19.jpg", "images2/w22222221_FI_19.jpg"];
        paths.iter().for_each(|path| wanted.push(row(path, "x")));
        assert_eq!(wanted.settle(0), []);
        wanted.push(row("images2/a1_FI_19.jpg", "later"));
        wanted.push(row("images2/w22222222_FI_20.jpg", "new"));
        wanted.push(row("images4/w22222222_FI_20.jpg", "again"));
        assert_eq!(wanted.settle(3), [(3, 1), (5, 4)]);
        assert_eq!(wanted.numbers().collect::<Vec<_>>(), [1, 2, 0, 4]);
        assert_eq!(wanted.row(4), Some(row("images2/w22222222_FI_20.jpg", "new")));
        let parts = wanted.parts();
        assert_eq!(parts["images2"], "meta2");
        assert_eq!(parts.len(), 2);
        let names: Vec<String> = wanted.names("images2", "meta2", Of::Meta).in_order().collect();
        assert!(names.is_sorted() && names.len() == 3, "{names:?}");
        assert!(names.iter().all(|name| wanted.names("images2", "meta2", Of::Meta).contains(name)));
        let images = wanted.names("images2", "images2", Of::Image);
        assert!(!images.contains("images2/a1_FI_19.jpg") && !images.contains("images2/w22222222_FI_19.pickle"));
        let member = |name: &str, crc32| MemberPlace {
            name: name.into(),
            stored: true,
            crc32,
            compressed_bytes: 1,
            uncompressed_bytes: 2,
            header_offset: 3,
        };
        let members = vec![member(paths[0], 7), member("images2/other.jpg", 8), member(paths[0], 9)];
        let found = WantedMembers { etag: Some("e".into()), members, ..WantedMembers::default() };
        assert_eq!(wanted.place("images2.zip", &found, ("images2", "images2", Of::Image)), [paths[0]]);
        assert!(wanted.is_placed(0, Of::Image) && !wanted.is_placed(0, Of::Meta) && !wanted.is_placed(1, Of::Image));
        wanted.truncate(3);
        let mut drained = Vec::new();
        wanted.drain(|row, name, image, meta| {
            let crc32 = image.member.map(|member| member.crc32);
            drained.push((row.title.to_owned(), name.image_id.clone(), image.object, crc32, meta));
        });
        assert_eq!(drained, [("x".into(), "w22222222_FI_19".into(), "images2.zip".into(), Some(9), None)]);
    }

    #[test]
    fn many_rows_are_found_and_given_up_in_order() {
        let mut wanted = Wanted::default();
        let path = |number: u32| format!("images2/w{}_FI_19.jpg", number.wrapping_mul(2_654_435_761) % 50_000);
        (0..20_000).for_each(|number| wanted.push(row(&path(number), "a title")));
        let again = wanted.settle(0).len();
        assert_eq!(wanted.len() + again, 20_000);
        let members: Vec<MemberPlace> = (wanted.names("images2", "images2", Of::Image).in_order())
            .map(|name| MemberPlace {
                name,
                stored: false,
                crc32: 0,
                compressed_bytes: 0,
                uncompressed_bytes: 0,
                header_offset: 0,
            })
            .collect();
        let found = WantedMembers { members, ..WantedMembers::default() };
        assert!(wanted.place("images2.zip", &found, ("images2", "images2", Of::Image)).is_empty());
        let (all, mut drained) = (wanted.len(), 0);
        wanted.drain(|_, _, _, _| drained += 1);
        assert_eq!(drained, all);
    }
}

//! Images and their boxes, in columns: there are millions.

use crate::image_box::{ImageBox, SubjectKind};
use crate::shape::Rect;

/// Images in order of their names, or of arrival until they are [sorted](Images::sorted). An image takes its name and 40
/// bytes.
#[derive(Debug, Clone, Default)]
pub struct Images {
    names: String,
    ends: Vec<u64>,
    /// Number and kind of the object that each was taken for.
    subjects: Vec<u64>,
    rects: Vec<Rect>,
}

const KINDS: [SubjectKind; 4] = [SubjectKind::Node, SubjectKind::Way, SubjectKind::Area, SubjectKind::Relation];

impl Images {
    /// Adds one.
    pub fn push(&mut self, image: &ImageBox) {
        self.names.push_str(&image.image_id);
        self.ends.push(self.names.len() as u64);
        self.subjects.push(((image.id as u64) << 2) | image.kind as u64);
        self.rects.push(image.rect);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    fn name(&self, number: usize) -> &str {
        let begins = number.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let ends = self.ends.get(number).copied().unwrap_or(begins);
        self.names.get(begins as usize..ends as usize).unwrap_or_default()
    }

    /// The name of an image; `None`: so many there are not.
    pub fn image_id(&self, number: u32) -> Option<&str> {
        ((number as usize) < self.len()).then(|| self.name(number as usize))
    }

    /// All names.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|number| self.name(number))
    }

    /// What an image shows.
    pub fn rect(&self, number: u32) -> Option<Rect> {
        self.rects.get(number as usize).copied()
    }

    /// Kind and number of the object that an image was taken for.
    pub fn subject(&self, number: u32) -> Option<(SubjectKind, i64)> {
        let subject = *self.subjects.get(number as usize)?;
        Some((*KINDS.get(subject as usize & 3)?, (subject >> 2) as i64))
    }

    /// An image.
    pub fn get(&self, number: u32) -> Option<ImageBox> {
        let (image_id, (kind, id), rect) = (self.image_id(number)?, self.subject(number)?, self.rect(number)?);
        Some(ImageBox { image_id: image_id.to_owned(), kind, id, rect })
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = ImageBox> {
        (0..self.len() as u32).filter_map(|number| self.get(number))
    }

    /// The number of an image, where they are sorted.
    pub fn number_of(&self, image_id: &str) -> Option<u32> {
        self.number_from(0, image_id).ok()
    }

    /// The number of an image that is not below `from`, or where it would be: who looks for names in order goes on from
    /// the last one.
    ///
    /// # Errors
    /// The number of the first image after it.
    pub fn number_from(&self, from: u32, image_id: &str) -> Result<u32, u32> {
        let (mut low, mut step) = (from as usize, 1);
        // twice as far each time, and back by halves
        let mut high = low;
        while high < self.len() && self.name(high) < image_id {
            (low, high, step) = (high + 1, high + step, step * 2);
        }
        high = high.min(self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.name(middle) < image_id { low = middle + 1 } else { high = middle }
        }
        if low < self.len() && self.name(low) == image_id { Ok(low as u32) } else { Err(low as u32) }
    }

    /// Finds images one after the other, faster where they come in order.
    pub fn finder(&self) -> Finder<'_> {
        Finder { images: self, at: 0 }
    }

    /// Those at these places, in that order.
    fn taken(&self, numbers: &[u32]) -> Images {
        let mut images = Images {
            names: String::with_capacity(numbers.iter().map(|number| self.name(*number as usize).len()).sum()),
            ends: Vec::with_capacity(numbers.len()),
            subjects: Vec::with_capacity(numbers.len()),
            rects: Vec::with_capacity(numbers.len()),
        };
        for number in numbers.iter().map(|number| *number as usize) {
            images.names.push_str(self.name(number));
            images.ends.push(images.names.len() as u64);
            images.subjects.push(self.subjects[number]);
            images.rects.push(self.rects[number]);
        }
        images
    }

    /// In order of their names, and where each of them was. Of an image that is there twice the last one counts.
    pub fn sorted(mut self) -> (Images, Vec<u32>) {
        let mut order: Vec<u32> = (0..self.len() as u32).collect();
        let is_sorted = (1..self.len()).all(|at| self.name(at - 1) < self.name(at));
        if !is_sorted {
            order.sort_by(|a, b| self.name(*a as usize).cmp(self.name(*b as usize)));
            order.reverse();
            order.dedup_by(|a, b| self.name(*a as usize) == self.name(*b as usize));
            order.reverse();
            self = self.taken(&order);
        }
        self.names.shrink_to_fit();
        self.ends.shrink_to_fit();
        self.subjects.shrink_to_fit();
        self.rects.shrink_to_fit();
        (self, order)
    }

    /// Those that fit, in the same order.
    pub fn filtered(&self, fits: impl Fn(u32) -> bool) -> Images {
        let numbers: Vec<u32> = (0..self.len() as u32).filter(|number| fits(*number)).collect();
        self.taken(&numbers)
    }
}

/// Where the last image was found.
pub struct Finder<'a> {
    images: &'a Images,
    at: u32,
}

impl Finder<'_> {
    /// As [`Images::number_of`].
    pub fn find(&mut self, image_id: &str) -> Option<u32> {
        let is_further = self.images.image_id(self.at).is_some_and(|at| at <= image_id);
        let found = self.images.number_from(if is_further { self.at } else { 0 }, image_id);
        self.at = found.unwrap_or_else(|next| next.saturating_sub(1));
        found.ok()
    }
}

impl FromIterator<ImageBox> for Images {
    fn from_iter<T: IntoIterator<Item = ImageBox>>(boxes: T) -> Self {
        let mut images = Images::default();
        boxes.into_iter().for_each(|image| images.push(&image));
        images
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str, id: i64) -> ImageBox {
        ImageBox::new(name, SubjectKind::Area, id, [25.0, 60.0, 25.001, 60.001]).unwrap()
    }

    #[test]
    fn of_an_image_that_is_there_twice_the_last_counts() {
        let all = ["c", "a", "b", "a", "c", "aa"];
        let (images, order) = (0..).zip(all).map(|(id, name)| image(name, id + 1)).collect::<Images>().sorted();
        assert_eq!(images.ids().collect::<Vec<_>>(), ["a", "aa", "b", "c"]);
        assert_eq!(order, [3, 5, 2, 4]);
        assert_eq!(images.iter().map(|image| image.id).collect::<Vec<_>>(), [4, 6, 3, 5]);
        assert_eq!(images.number_of("b"), Some(2));
        assert_eq!(images.filtered(|number| number % 2 == 1).ids().collect::<Vec<_>>(), ["aa", "c"]);
    }

    #[test]
    fn names_are_found_from_anywhere_before_them() {
        let (images, _) = (0..300).map(|id| image(&format!("n{:03}", id * 2), id + 1)).collect::<Images>().sorted();
        for from in [0, 1, 7, 150, 299, 300] {
            for number in 0..600u32 {
                let found = images.number_from(from, &format!("n{number:03}"));
                let expected = if number % 2 == 0 { Ok(number / 2) } else { Err(number / 2 + 1) };
                let is_before = number.div_ceil(2) < from;
                assert_eq!(found, if is_before { Err(from) } else { expected }, "{number} from {from}");
            }
        }
        let mut finder = images.finder();
        for number in (0..600u32).map(|step| step * 7_919 % 600).chain(0..600) {
            let expected = number.is_multiple_of(2).then_some(number / 2);
            assert_eq!(finder.find(&format!("n{number:03}")), expected);
        }
        assert!(Images::default().number_of("x").is_none() && Images::default().finder().find("x").is_none());
    }
}

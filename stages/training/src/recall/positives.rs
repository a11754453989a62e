//! Which captions are right for which images.

use std::collections::HashMap;

use super::Pairs;
use choices::Protocol;

/// Lists of different lengths in one allocation.
#[derive(Debug)]
struct Lists {
    starts: Vec<u32>,
    values: Vec<u32>,
}

impl Lists {
    /// Collects (list, value) pairs; every list comes out sorted and without repeats.
    fn new(count: usize, mut pairs: Vec<(u32, u32)>) -> Self {
        pairs.sort_unstable();
        pairs.dedup();
        let mut starts = vec![0; count + 1];
        for &(list, _) in &pairs {
            starts[list as usize + 1] += 1;
        }
        for list in 0..count {
            starts[list + 1] += starts[list];
        }
        Self { starts, values: pairs.into_iter().map(|(_, value)| value).collect() }
    }

    fn len(&self) -> usize {
        self.starts.len() - 1
    }

    fn get(&self, list: u32) -> &[u32] {
        let list = list as usize;
        &self.values[self.starts[list] as usize..self.starts[list + 1] as usize]
    }
}

/// Rows and columns of S as they are computed: `rows` are images, `columns` captions sorted by own image, so that
/// positives lie in few tiles.
pub(super) struct Layout {
    /// Gallery row of the image at each row of S.
    pub(super) rows: Vec<u32>,
    /// Gallery row of the caption at each column of S.
    pub(super) columns: Vec<u32>,
    /// Row of S of each column's own image.
    own_row: Vec<u32>,
    /// Equal for byte-equal images, counted from 0.
    pub(super) row_class: Vec<u32>,
    /// Equal for equal captions, counted from 0.
    pub(super) column_class: Vec<u32>,
    /// Caption classes of each row's own captions.
    own_classes: Lists,
    pub(super) distinct_images: usize,
    pub(super) distinct_captions: usize,
    /// Caption classes of each image class, under any of its copies.
    classes_of_image_class: Lists,
}

impl Layout {
    pub(super) fn new(pairs: &Pairs, protocol: Protocol) -> Self {
        let (image_class, first_image) = classes(pairs.image_keys_n);
        let (caption_class, first_caption) = classes(pairs.caption_keys_m);
        let own_image = pairs.own_image_m;
        let class_pairs =
            (0..own_image.len()).map(|c| (image_class[own_image[c] as usize], caption_class[c])).collect();
        let classes_of_image_class = Lists::new(first_image.len(), class_pairs);
        let (distinct_images, distinct_captions) = (first_image.len(), first_caption.len());

        let (rows, mut columns): (Vec<u32>, Vec<u32>) = match protocol {
            Protocol::Standard => ((0..image_class.len() as u32).collect(), (0..caption_class.len() as u32).collect()),
            Protocol::Dedup => (first_image, first_caption),
        };
        let row_of_image = |image: u32| match protocol {
            Protocol::Standard => image,
            Protocol::Dedup => image_class[image as usize],
        };
        columns.sort_by_key(|&c| row_of_image(own_image[c as usize]));
        let own_row: Vec<u32> = columns.iter().map(|&c| row_of_image(own_image[c as usize])).collect();
        let row_class = rows.iter().map(|&i| image_class[i as usize]).collect();
        let column_class: Vec<u32> = columns.iter().map(|&c| caption_class[c as usize]).collect();
        let own_classes = Lists::new(rows.len(), own_row.iter().copied().zip(column_class.iter().copied()).collect());
        Self {
            rows,
            columns,
            own_row,
            row_class,
            column_class,
            own_classes,
            distinct_images,
            distinct_captions,
            classes_of_image_class,
        }
    }

    /// Whether any two captions or images are equal, so that groups are larger than pairs.
    pub(super) fn has_twins(&self) -> bool {
        self.distinct_images < self.rows.len() || self.distinct_captions < self.columns.len()
    }

    /// An image's own captions.
    pub(super) fn own_pairs(&self) -> Positives {
        let rows = self.rows.len();
        Positives::new(self.own_row.clone(), Lists::new(rows, (0..rows as u32).map(|r| (r, r)).collect()))
    }

    /// Captions equal to any caption of the image or of a byte-equal image.
    pub(super) fn grouped(&self) -> Positives {
        let labels = (0u32..)
            .zip(&self.row_class)
            .flat_map(|(row, &class)| self.classes_of_image_class.get(class).iter().map(move |&label| (row, label)))
            .collect();
        Positives::new(self.column_class.clone(), Lists::new(self.rows.len(), labels))
    }

    /// In row `row`, the caption at `column` equals one of the row's own.
    pub(super) fn twin_of_own_caption(&self, row: usize, column: usize) -> bool {
        self.own_classes.get(row as u32).binary_search(&self.column_class[column]).is_ok()
    }

    /// In column `column`, the image at `row` is byte-equal to the column's own.
    pub(super) fn twin_of_own_image(&self, row: usize, column: usize) -> bool {
        self.row_class[row] == self.row_class[self.own_row[column] as usize]
    }
}

/// Which rows a protocol ranks, by keys that are equal for equal ones: for each row the place, among those that are
/// ranked, of the one that stands for it, and the rows that are.
pub fn ranked(keys: &[u64], protocol: Protocol) -> (Vec<u32>, Vec<u32>) {
    match protocol {
        Protocol::Standard => {
            let all: Vec<u32> = (0..keys.len() as u32).collect();
            (all.clone(), all)
        }
        Protocol::Dedup => classes(keys),
    }
}

/// Numbers equal keys from 0 in order of first appearance; returns each key's class and each class's first row.
fn classes(keys: &[u64]) -> (Vec<u32>, Vec<u32>) {
    let mut class_of_key = HashMap::with_capacity(keys.len());
    let mut first = Vec::new();
    let classes = (0u32..)
        .zip(keys)
        .map(|(row, &key)| {
            *class_of_key.entry(key).or_insert_with(|| {
                first.push(row);
                first.len() as u32 - 1
            })
        })
        .collect();
    (classes, first)
}

/// A relation of rows and columns of S: every column has one label, every row a set of labels; the pair is positive
/// when the column's label is in the row's set. Linear in memory even when everything is positive.
pub(super) struct Positives {
    label_of_column: Vec<u32>,
    columns_of_label: Lists,
    labels_of_row: Lists,
}

impl Positives {
    fn new(label_of_column: Vec<u32>, labels_of_row: Lists) -> Self {
        let labels = label_of_column.iter().max().map_or(0, |&label| label as usize + 1);
        let labels = labels.max(labels_of_row.values.iter().max().map_or(0, |&label| label as usize + 1));
        let columns_of_label = Lists::new(labels, label_of_column.iter().copied().zip(0..).collect());
        Self { label_of_column, columns_of_label, labels_of_row }
    }

    pub(super) fn contains(&self, row: usize, column: usize) -> bool {
        self.labels_of_row.get(row as u32).binary_search(&self.label_of_column[column]).is_ok()
    }

    /// Positive columns of `row` between `start` and `end`.
    pub(super) fn columns(&self, row: usize, (start, end): (usize, usize)) -> impl Iterator<Item = usize> {
        self.labels_of_row.get(row as u32).iter().flat_map(move |&label| {
            let columns = self.columns_of_label.get(label);
            let from = columns.partition_point(|&column| (column as usize) < start);
            columns[from..].iter().map(|&column| column as usize).take_while(move |&column| column < end)
        })
    }

    /// Positive columns of each row, and how many rows that stands for.
    pub(super) fn columns_of_rows(&self) -> impl Iterator<Item = (Vec<u32>, usize)> {
        let rows = 0..self.labels_of_row.len() as u32;
        rows.map(|row| {
            let labels = self.labels_of_row.get(row).iter();
            (labels.flat_map(|&label| self.columns_of_label.get(label)).copied().collect(), 1)
        })
    }

    /// Positive rows of the columns of each label, and how many columns these are.
    pub(super) fn rows_of_columns(&self) -> impl Iterator<Item = (Vec<u32>, usize)> {
        let labels = self.columns_of_label.len();
        let rows = 0..self.labels_of_row.len() as u32;
        let pairs = rows.flat_map(|row| self.labels_of_row.get(row).iter().map(move |&label| (label, row))).collect();
        let rows_of_label = Lists::new(labels, pairs);
        (0..labels as u32).map(move |label| (rows_of_label.get(label).to_vec(), self.columns_of_label.get(label).len()))
    }

    /// Whether the tile of S holds any positive pair.
    pub(super) fn touches(&self, rows: (usize, usize), columns: (usize, usize)) -> bool {
        (rows.0..rows.1).any(|row| self.columns(row, columns).next().is_some())
    }
}

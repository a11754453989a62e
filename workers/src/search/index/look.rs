//! A search in files of an index. Pure but for the pages that the system reads.

use std::collections::BTreeSet;

use rayon::iter::{IntoParallelIterator, ParallelIterator};
use stages::search::{QuantisedQuery, Shortlist, Top, similarity};

use super::IndexFile;
use super::file::Rows;
use crate::search::Scan;

/// Rows that one thread looks at before it asks for more.
const ROWS_AT_ONCE: usize = 4096;
/// Rows whose products are made in one go: they stay in the nearest cache.
const BLOCK: usize = 256;

/// Files that are looked at, each with the ids that are wanted (`None`: all) and one that is not.
pub type Wanted<'a> = (&'a IndexFile, Option<&'a BTreeSet<String>>, Option<&'a str>);

/// The best of some files' vectors: the same as after comparing each with the query. `None`: a query that no quantised
/// vector can be compared with.
pub fn look(files: &[Wanted<'_>], query: &[f32], most: usize) -> Option<Scan> {
    let quantised = QuantisedQuery::new(query)?;
    let pieces = files.iter().flat_map(|wanted| wanted.0.pieces.iter().map(move |rows| (*wanted, rows)));
    let jobs: Vec<Job<'_>> = pieces
        .flat_map(|((file, wanted, without), rows)| {
            let starts = (0..rows.count()).step_by(ROWS_AT_ONCE);
            let end = move |start: usize| rows.count().min(start + ROWS_AT_ONCE);
            starts.map(move |start| Job { file, rows, start, end: end(start), wanted, without })
        })
        .collect();
    if jobs.iter().any(|job| job.rows.width() != query.len()) {
        return None;
    }
    let nothing = || (Shortlist::new(most), 0);
    let (short, compared) = (0..jobs.len())
        .into_par_iter()
        .fold(nothing, |(mut short, compared), job| {
            let here = jobs[job].shorten(&quantised, |bounds, row| short.offer(bounds, (job, row)));
            (short, compared + here)
        })
        .reduce(nothing, |(mut one, compared), (other, more)| {
            one.merge(other);
            (one, compared + more)
        });
    let mut candidates = short.into_candidates();
    candidates.sort_unstable();
    let mut top = Top::new(most);
    for of_file in candidates.chunk_by(|a, b| std::ptr::eq(jobs[a.0].file, jobs[b.0].file)) {
        let reader = of_file.first().and_then(|(job, _)| jobs[*job].file.reader());
        for &(job, row) in of_file {
            let rows = jobs[job].rows;
            top.offer(similarity(query, &rows.vector(row, reader.as_ref())), rows.id(row), || ());
        }
    }
    Some(Scan { top, compared, outdated: 0 })
}

struct Job<'a> {
    file: &'a IndexFile,
    rows: &'a Rows,
    start: usize,
    end: usize,
    wanted: Option<&'a BTreeSet<String>>,
    without: Option<&'a str>,
}

impl Job<'_> {
    /// Offers the rows that are wanted, and counts them.
    fn shorten(&self, query: &QuantisedQuery, mut offer: impl FnMut((f64, f64), usize)) -> u64 {
        let (mut products, mut compared) = ([0; BLOCK], 0);
        for start in (self.start..self.end).step_by(BLOCK) {
            let end = self.end.min(start + BLOCK);
            let products = &mut products[..end - start];
            query.products(self.rows.codes(start..end), products);
            for (row, product) in (start..end).zip(products) {
                if !self.is_wanted(row) {
                    continue;
                }
                compared += 1;
                offer(query.bounds(*product, self.rows.quantised(row)), row);
            }
        }
        compared
    }

    fn is_wanted(&self, row: usize) -> bool {
        self.wanted.is_none_or(|wanted| wanted.contains(self.rows.id(row)))
            && self.without.is_none_or(|without| without != self.rows.id(row))
    }
}

#[cfg(test)]
mod tests {
    use super::super::IndexWriter;
    use super::*;

    /// Clusters of similar vectors, some of them equal.
    fn vector(row: usize) -> Vec<f32> {
        let number = |at: usize| {
            let noise = ((row / 2 * 7919 + at * 104_729) % 1009) as f32 / 1009.0 - 0.5;
            ((row % 5 * 31 + at * 17) % 13) as f32 / 13.0 - 0.5 + noise / 8.0
        };
        (0..48).map(number).collect()
    }

    #[test]
    fn what_is_found_is_what_a_comparison_with_everything_finds() {
        let folder = tempfile::tempdir().unwrap();
        let ids: Vec<String> = (0..9000).map(|row| format!("i{row:05}")).collect();
        let vectors: Vec<Vec<f32>> = (0..ids.len()).map(vector).collect();
        let rows: Vec<(&str, &[f32])> = ids.iter().zip(&vectors).map(|(id, v)| (id.as_str(), v.as_slice())).collect();
        let file = |name: &str, rows: &[(&str, &[f32])]| {
            let mut writer = IndexWriter::create(&folder.path().join("draft")).unwrap();
            for piece in rows.chunks(3000) {
                assert!(writer.write(piece).unwrap());
            }
            writer.finish(name).unwrap()
        };
        let (one, other, empty) = (file("one", &rows[..8000]), file("other", &rows[8000..]), file("empty", &[]));
        let odd: BTreeSet<String> = ids[..8000].iter().skip(1).step_by(2).cloned().collect();
        for most in [0, 1, 10, 700] {
            let plain = |wanted: &dyn Fn(&str) -> bool| {
                let mut top = Top::new(most);
                for (id, vector) in rows.iter().filter(|(id, _)| wanted(id)) {
                    top.offer(similarity(&vectors[77], vector), id, || ());
                }
                top.into_sorted()
            };
            let all =
                look(&[(&one, None, None), (&other, None, None), (&empty, None, None)], &vectors[77], most).unwrap();
            assert_eq!((all.compared, all.top.into_sorted()), (9000, plain(&|_| true)));
            let some = look(&[(&one, Some(&odd), None), (&other, None, Some("i08001"))], &vectors[77], most).unwrap();
            assert_eq!(some.compared, 4000 + 999);
            assert_eq!(some.top.into_sorted(), plain(&|id| odd.contains(id) || (id >= "i08000" && id != "i08001")));
        }
        assert!(look(&[(&one, None, None)], &vectors[77][1..], 3).is_none(), "another width");
    }

    #[test]
    fn vectors_that_cannot_be_quantised_are_not_indexed() {
        let folder = tempfile::tempdir().unwrap();
        let writer = || IndexWriter::create(&folder.path().join("draft")).unwrap();
        assert!(!writer().write(&[("a", &[1.0, f32::NAN])]).unwrap());
        assert!(!writer().write(&[("a", &[1.0, 2.0]), ("b", &[1.0])]).unwrap());
        assert!(!writer().write(&[("a", &[])]).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left of them");
    }
}

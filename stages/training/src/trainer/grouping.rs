//! Which rows are normalised together, by their place in the global batch.
//!
//! Where a group lies within one rank's rows nothing is exchanged, and W ranks find the same statistics as one by
//! construction. Otherwise ranks add up their shares between the layers.

use models::dual_encoder::Groups;

use crate::error::{Error, Result};

/// The groups of a step, as one rank sees them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grouping {
    /// Rows of a group.
    group_rows: usize,
    /// The first of this rank's rows in the global batch, and their number.
    first_row: usize,
    rank_rows: usize,
    all_rows: usize,
}

impl Grouping {
    /// Groups of so many rows of the global batch (0: one group of all) for a rank that has `rank_rows` of them.
    pub(super) fn new(group_rows: usize, rank_rows: usize, (rank, world_size): (usize, usize)) -> Result<Self> {
        let all_rows = rank_rows * world_size;
        let group_rows = if group_rows == 0 { all_rows } else { group_rows };
        if all_rows == 0 || !all_rows.is_multiple_of(group_rows) {
            let problem = format!("is {group_rows} rows, and the batch has {all_rows}: take a divisor of them");
            return Err(Error::argument("norm_group", problem));
        }
        Ok(Self { group_rows, first_row: rank * rank_rows, rank_rows, all_rows })
    }

    /// Whether some group has rows of several ranks.
    pub(super) fn crosses_ranks(&self) -> bool {
        !self.rank_rows.is_multiple_of(self.group_rows)
    }

    /// Groups of the inputs of `rows` rows from `start` on of this rank: for each input its row among those, and whether
    /// it counts. Numbered from the first group of these rows; through the whole batch where groups cross ranks.
    pub(super) fn of_rows(
        &self,
        (start, rows): (usize, usize),
        row_of_input: impl Iterator<Item = usize>,
        counts: &[bool],
    ) -> Result<Groups> {
        let whole = start.is_multiple_of(self.group_rows) && rows.is_multiple_of(self.group_rows);
        let (first_group, groups) = match self.crosses_ranks() {
            true if rows == self.rank_rows => (0, self.all_rows / self.group_rows),
            false if whole => ((self.first_row + start) / self.group_rows, rows / self.group_rows),
            _ => {
                let problem = format!(
                    "rows {start} to {} of a rank's {} go through the network at once, and groups of {} rows are \
                     normalised together: lower micro_batches, or choose norm_group so that no group is cut",
                    start + rows,
                    self.rank_rows,
                    self.group_rows
                );
                return Err(Error::argument("micro_batches", problem));
            }
        };
        let group = |row: usize| ((self.first_row + start + row) / self.group_rows - first_group) as u32;
        Ok(Groups::new(row_of_input.map(group).collect(), counts, groups))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(grouping: &Grouping, start: usize, rows: usize) -> Result<Vec<usize>> {
        Ok(grouping.of_rows((start, rows), 0..rows, &vec![true; rows])?.counts().collect())
    }

    #[test]
    fn groups_within_a_rank_are_its_own() {
        let second = Grouping::new(4, 8, (1, 2)).unwrap();
        assert!(!second.crosses_ranks());
        assert_eq!(counts(&second, 0, 8).unwrap(), [4, 4]);
        assert_eq!(counts(&second, 4, 4).unwrap(), [4]);
        let message = counts(&second, 0, 6).unwrap_err().to_string();
        assert!(message.contains("rows 0 to 6") && message.contains("groups of 4 rows"), "{message}");
    }

    #[test]
    fn groups_across_ranks_are_all_ranks() {
        for (group_rows, expected) in [(0, vec![4]), (8, vec![4])] {
            let second = Grouping::new(group_rows, 4, (1, 2)).unwrap();
            assert!(second.crosses_ranks());
            assert_eq!(counts(&second, 0, 4).unwrap(), expected);
            assert!(counts(&second, 0, 2).is_err(), "a part cuts the group");
        }
        let third = Grouping::new(6, 4, (2, 3)).unwrap();
        assert_eq!(counts(&third, 0, 4).unwrap(), [0, 4]);
        let middle = Grouping::new(6, 4, (1, 3)).unwrap();
        assert_eq!(counts(&middle, 0, 4).unwrap(), [2, 2]);
        assert!(!Grouping::new(0, 4, (0, 1)).unwrap().crosses_ranks());
        assert!(Grouping::new(5, 4, (0, 2)).is_err());
    }
}

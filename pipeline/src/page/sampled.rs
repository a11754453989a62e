//! How similarities become weights, epoch by epoch (the paper's Figure 3), as small heat maps.

use report::{Block, Heatmap};
use stages::adapt::Sampled;

/// Sources of one epoch that a row shows.
const MOST_CHOSEN: usize = 16;

/// Nothing where no source is learnt from.
pub(super) fn blocks(all: &[Sampled]) -> Vec<Block> {
    let Some((first, others)) = all.split_first() else { return Vec::new() };
    let mut blocks = vec![Block::Heatmap(weights(all)), Block::Heatmap(similarities(first))];
    if !others.is_empty() {
        blocks.push(Block::Details {
            summary: "Similarities of the other epochs".into(),
            blocks: others.iter().map(|one| Block::Heatmap(similarities(one))).collect(),
        });
    }
    blocks
}

/// W_vec: a row for each epoch.
fn weights(all: &[Sampled]) -> Heatmap {
    let most = all.iter().map(|one| one.chosen.len().min(MOST_CHOSEN)).max().unwrap_or(0);
    let label = |one: &Sampled| match (one.chosen.first(), one.chosen.last()) {
        (Some((first, _)), Some((last, _))) => {
            format!("{}: ranks {} to {} of {}", one.epoch + 1, first + 1, last + 1, one.sources)
        }
        _ => format!("{}", one.epoch + 1),
    };
    Heatmap {
        caption:
            "Weights of the sources that the first batch of an epoch learns from, the most similar first, for some epochs \
                  spread over the adaptation. Under the paper's curriculum later epochs learn from sources that are less like \
                  the target."
                .into(),
        row_title: "epoch".into(),
        column_title: "chosen source".into(),
        row_labels: all.iter().map(label).collect(),
        column_labels: (1..=most).map(|at| at.to_string()).collect(),
        values: all.iter().map(|one| one.chosen.iter().take(most).map(|(_, weight)| *weight).collect()).collect(),
        unit: String::new(),
        decimals: Some(2),
    }
}

/// W1 of one batch, by bands.
fn similarities(one: &Sampled) -> Heatmap {
    let band = |at: usize| {
        let (from, to) = (at * one.targets, ((at + 1) * one.targets).min(one.sources));
        format!("{}–{to}", from + 1)
    };
    let bands = one.bands.first().map_or(0, Vec::len);
    Heatmap {
        caption: format!(
            "Epoch {}: mean cosine of each target with the sources of the batch, in bands from the most to the least similar.",
            one.epoch + 1
        ),
        row_title: "target".into(),
        column_title: "sources by rank".into(),
        row_labels: (1..=one.bands.len()).map(|at| at.to_string()).collect(),
        column_labels: (0..bands).map(band).collect(),
        values: one.bands.clone(),
        unit: String::new(),
        decimals: Some(2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_and_ranks_are_counted_from_one() {
        let one = Sampled {
            epoch: 1,
            targets: 2,
            sources: 6,
            bands: vec![vec![0.9, 0.5, 0.1], vec![0.8, 0.4, 0.0]],
            chosen: vec![(2, 1.5), (3, 0.5)],
        };
        assert_eq!(similarities(&one).column_labels, ["1–2", "3–4", "5–6"]);
        assert_eq!(weights(&[one]).row_labels, ["2: ranks 3 to 4 of 6"]);
        assert!(blocks(&[]).is_empty());
    }
}

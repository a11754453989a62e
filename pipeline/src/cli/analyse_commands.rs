//! `urbancross analyse`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use manifests::words::count;

use super::report_commands::open_all;
use super::write_page;
use crate::analyse::{Analysis, analyse as analyse_build, related};
use crate::clock::now;
use crate::page::analysis as page;
use crate::say;
use crate::search::SearchModel;

/// Tags that a line names.
const NAMED: usize = 8;

pub(super) async fn analyse(
    specs: &[PathBuf],
    set: &[String],
    texts: &[String],
    (html, json): (Option<&Path>, bool),
) -> Result<()> {
    let mut all = Vec::new();
    for build in open_all(specs, set).await? {
        let mut analysis = analyse_build(&build).await?;
        if !texts.is_empty() {
            let model = SearchModel::of_build(&build).await?;
            analysis.related = tokio::task::block_in_place(|| related(&model, &analysis.tags.visible, texts))?;
        }
        all.push(analysis);
    }
    if json {
        say!("{}", serde_json::to_string_pretty(&all)?);
    } else {
        all.iter().flat_map(in_words).try_for_each(|line| Ok::<_, anyhow::Error>(say!("{line}")))?;
    }
    match html {
        Some(path) => write_page(path, &page::make(&all, &now())),
        None => Ok(()),
    }
}

fn in_words(one: &Analysis) -> Vec<String> {
    let tags = &one.tags;
    let named = |tags: &mut dyn Iterator<Item = &String>| tags.take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let captions: u64 = one.captions_by_words.values().sum();
    let mut lines = vec![
        format!(
            "{}: {}, {} of them different, {:.1} an image; {}",
            one.country,
            count(tags.tags, "tag"),
            tags.distinct_tags,
            tags.mean_tags,
            count(captions, "caption")
        ),
        format!("  frequent: {}", named(&mut tags.visible.iter().map(|(tag, _)| tag))),
    ];
    let clusters = one.plane.tags.iter().map(|placed| placed.cluster + 1).max().unwrap_or(0);
    lines.extend((0..clusters).map(|cluster| {
        let mut members = one.plane.tags.iter().filter(|placed| placed.cluster == cluster).map(|placed| &placed.tag);
        format!("  go together: {}", named(&mut members))
    }));
    lines.extend(
        one.related.iter().map(|of| format!("  {:?}: {}", of.text, named(&mut of.tags.iter().map(|(tag, _)| tag)))),
    );
    lines
}

//! The page around the blocks: head, facts, table of contents, sections.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::{Block, Level, Report, STYLE, Section};

/// Blocks inside blocks inside blocks: deeper than this is a mistake, not a report.
const MAX_DEPTH: usize = 8;

const SORT: &str = include_str!("sort.js");

/// Nothing may be fetched, whatever a caption manages to say.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; \
    script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// The report as one HTML page that needs nothing else.
pub fn render(report: &Report) -> String {
    let ids = section_ids(&report.sections);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="Content-Security-Policy" content=(CONTENT_SECURITY_POLICY);
                title { (report.title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 dir="auto" { (report.title) }
                    @if !report.subtitle.is_empty() { p.subtitle dir="auto" { (report.subtitle) } }
                    @if !report.generated_at.is_empty() { p.generated { "Generated " (report.generated_at) } }
                    (facts(report))
                }
                div.columns {
                    @if report.sections.len() > 1 { (contents(&report.sections, &ids)) }
                    main {
                        @for (index, (section, id)) in report.sections.iter().zip(&ids).enumerate() {
                            (section_html(index + 1, section, id))
                        }
                    }
                }
                script { (PreEscaped(SORT)) }
            }
        }
    };
    without_control_characters(page.into_string())
}

fn facts(report: &Report) -> Markup {
    html! {
        @if !report.facts.is_empty() {
            dl.facts {
                @for fact in &report.facts {
                    div { dt dir="auto" { (fact.label) } dd dir="auto" { (fact.value) } }
                }
            }
        }
    }
}

fn contents(sections: &[Section], ids: &[String]) -> Markup {
    html! {
        nav aria-label="Contents" {
            ol {
                @for (section, id) in sections.iter().zip(ids) {
                    li { a href={ "#" (id) } dir="auto" { (section.title) } }
                }
            }
        }
    }
}

fn section_html(number: usize, section: &Section, id: &str) -> Markup {
    html! {
        section.chapter id=(id) {
            h2 { a href={ "#" (id) } { span.number { (number) } span dir="auto" { (section.title) } } }
            @if !section.lead.is_empty() { p.lead dir="auto" { (section.lead) } }
            (blocks_html(&section.blocks, 0))
        }
    }
}

fn blocks_html(blocks: &[Block], depth: usize) -> Markup {
    html! { @for block in blocks { (block_html(block, depth)) } }
}

fn block_html(block: &Block, depth: usize) -> Markup {
    if depth >= MAX_DEPTH {
        return html! { p.nothing { "blocks nested too deeply are left out" } };
    }
    match block {
        Block::Paragraph(text) => html! { p dir="auto" { (text) } },
        Block::Note { level, text } => html! {
            p.note.(level.class()) role="note" { strong { (level.word()) } span dir="auto" { (text) } }
        },
        Block::Code { language, text } => html! {
            pre data-language=[Some(language).filter(|language| !language.is_empty())] { code { (text) } }
        },
        Block::Table(table) => table.html(),
        Block::Heatmap(heatmap) => heatmap.html(),
        Block::LineChart(chart) => chart.html(),
        Block::BarChart(chart) => chart.html(),
        Block::Histogram(histogram) => histogram.html(),
        Block::Scatter(scatter) => scatter.html(),
        Block::Timeline(timeline) => timeline.html(),
        Block::TagCloud(cloud) => cloud.html(),
        Block::Images(grid) => grid.html(),
        Block::Retrieval(retrieval) => retrieval.html(),
        Block::SideBySide(pictures) => pictures.html(),
        Block::Found(found) => found.html(),
        Block::Flow(flow) => flow.html(),
        Block::Row(blocks) => html! {
            div.row { @for block in blocks { div { (block_html(block, depth + 1)) } } }
        },
        Block::Details { summary, blocks } => html! {
            details { summary dir="auto" { (summary) } div.folded { (blocks_html(blocks, depth + 1)) } }
        },
    }
}

impl Level {
    fn class(self) -> &'static str {
        match self {
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Level::Info => "Note",
            Level::Warning => "Warning",
            Level::Error => "Error",
        }
    }
}

/// An anchor of letters, digits and hyphens for every section, each once.
fn section_ids(sections: &[Section]) -> Vec<String> {
    let mut ids: Vec<String> = Vec::with_capacity(sections.len());
    for section in sections {
        let name = if section.id.is_empty() { &section.title } else { &section.id };
        let words: Vec<String> = name
            .split(|character: char| !character.is_ascii_alphanumeric())
            .filter(|word| !word.is_empty())
            .map(str::to_ascii_lowercase)
            .collect();
        let stem = if words.is_empty() { "section".to_owned() } else { words.join("-") };
        let numbered = (2..).map(|number| format!("{stem}-{number}"));
        let id = std::iter::once(stem.clone()).chain(numbered).find(|id| !ids.contains(id));
        ids.push(id.unwrap_or(stem));
    }
    ids
}

/// Characters that no HTML or XML page may hold become U+FFFD.
fn without_control_characters(page: String) -> String {
    let forbidden = |character: char| {
        (character.is_control() && !matches!(character, '\n' | '\t')) || matches!(character, '\u{fffe}' | '\u{ffff}')
    };
    if !page.contains(forbidden) {
        return page;
    }
    page.chars().map(|character| if forbidden(character) { '\u{fffd}' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_are_plain_and_unique() {
        let section = |id: &str, title: &str| Section { id: id.into(), title: title.into(), ..Section::default() };
        let sections = [
            section("", "Recall, by country"),
            section("recall-by-country", "x"),
            section("", "検索"),
            section("", "\"><script>"),
            section("", ""),
        ];
        assert_eq!(
            section_ids(&sections),
            ["recall-by-country", "recall-by-country-2", "section", "script", "section-2"]
        );
    }

    #[test]
    fn control_characters_are_replaced() {
        assert_eq!(without_control_characters("a\0b\u{1b}\n\t\u{85}".into()), "a\u{fffd}b\u{fffd}\n\t\u{fffd}");
        assert_eq!(without_control_characters("plain".into()), "plain");
    }
}

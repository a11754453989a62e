//! One image: its picture with the segments over it, captions, tags, what each stage says of it, and what is like it.

use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use maud::{Markup, html};

use super::Asked;
use super::extract::Parameters;
use super::parameters::Named;
use super::picture::FULL;
use crate::ask::{About, Atlas, CaptionOf, Found, Image, ImageName, SegmentOf, Step};
use crate::layout::{Shell, image_path};
use crate::site::Page;
use crate::trouble::Trouble;

const PATH: &str = "/image";

pub(super) fn page(asked: Asked) -> Page {
    Page { nav: None, routes: Router::new().route(PATH, get(show)).with_state(asked) }
}

async fn show(
    State(asked): State<Asked>,
    named: Result<Parameters<Named>, Trouble>,
    Extension(shell): Extension<Shell>,
) -> Response {
    let name = match named {
        Ok(Parameters(named)) => ImageName::from(named),
        Err(trouble) => return shell.trouble(&trouble),
    };
    let known = asked.ask(|atlas| async move { Ok((Atlas::about(&*atlas).await?, atlas.image(name).await?)) }).await;
    match known {
        Ok((about, image)) => {
            let title = format!("Image {}", image.found.image.id);
            shell.page(PATH, &title, Some("image.js"), content(&about, &image))
        }
        Err(trouble) => shell.trouble(&trouble),
    }
}

fn content(about: &About, image: &Image) -> Markup {
    let name = &image.found.image;
    let described = image.captions.first().map_or("no caption", |caption| caption.text.as_str());
    html! {
        h1.id dir="auto" { (name.id) }
        div.image {
            div.picture {
                div #picture .stack data-width=(image.width) data-height=(image.height) {
                    img src=(image_path(FULL, &name.country, &name.id)) width=(image.width) height=(image.height)
                        alt={ "Satellite image: " (described) };
                    @if !image.segments.is_empty() { canvas #overlay aria-hidden="true" {} }
                }
                (segments(&image.segments))
            }
            div.facts {
                (captions(&image.captions))
                (facts(&image.found))
                (tags(&image.found, &image.around))
            }
        }
        section {
            h2 { "Most like it" }
            @if about.models.len() > 1 {
                div.field {
                    label for="model" { "by the model" }
                    select #model { @for model in &about.models { option value=(model.id) { (model.name) } } }
                }
            }
            p #status role="status" aria-live="polite" {}
            div #neighbours data-country=(name.country) data-id=(name.id) {}
        }
        (lineage(&image.lineage))
    }
}

fn captions(captions: &[CaptionOf]) -> Markup {
    html! {
        section {
            h2 { @if captions.len() == 1 { "Caption" } @else { "Captions" } }
            @if captions.is_empty() { p.muted { "It has none." } }
            @for caption in captions {
                figure.caption {
                    blockquote dir="auto" { (caption.text) }
                    figcaption {
                        (caption.source)
                        @for quality in &caption.quality { " · " (quality) }
                        @if let Some(why) = &caption.flagged { " · " strong.flag { "flagged: " (why) } }
                    }
                }
            }
        }
    }
}

fn facts(found: &Found) -> Markup {
    let fact = |name: &str, value: Option<String>| {
        html! { @if let Some(value) = value { div { dt { (name) } dd { (value) } } } }
    };
    html! {
        section {
            h2 { "Facts" }
            dl.list {
                (fact("country", Some(found.image.country.clone())))
                (fact("split", found.split.clone()))
                (fact("year", found.year.map(|year| year.to_string())))
                (fact("resolution", found.gsd_meters.map(|meters| format!("{meters:.2} m a pixel"))))
                (fact("place", found.latitude.zip(found.longitude).map(|(north, east)| format!("{north:.5}, {east:.5}"))))
                @if let Some(object) = found.object.as_deref().filter(|object| object.starts_with("https://")) {
                    div { dt { "object" } dd { a href=(object) rel="noreferrer" { "at OpenStreetMap" } } }
                }
            }
        }
    }
}

fn tags(found: &Found, around: &[Vec<String>]) -> Markup {
    let list = |tags: &[String]| html! { ul.tags { @for tag in tags { li dir="auto" { (tag) } } } };
    html! {
        @if !found.tags.is_empty() || !around.is_empty() {
            section {
                h2 { "Tags" }
                (list(&found.tags))
                @if !around.is_empty() {
                    details {
                        summary { "Of " (around.len()) " objects around it" }
                        @for tags in around { (list(tags)) }
                    }
                }
            }
        }
    }
}

fn segments(segments: &[SegmentOf]) -> Markup {
    html! {
        @if !segments.is_empty() {
            fieldset #segments .segments {
                legend { "Segments" }
                div.tools {
                    button type="button" data-show="previous" aria-label="Previous segment" { "‹" }
                    button type="button" data-show="next" aria-label="Next segment" { "›" }
                    button type="button" data-show="selected" { "Those that train" }
                    button type="button" data-show="all" { "All" }
                    button type="button" data-show="none" { "None" }
                }
                ol {
                    @for (index, segment) in segments.iter().enumerate() {
                        li {
                            label {
                                input type="checkbox" value=(index) data-selected=[segment.selected.then_some("yes")]
                                    data-runs=(runs(&segment.runs));
                                span.swatch {}
                                span { (index + 1) ": " (percent(segment.share)) " of the picture"
                                    @if let Some(similarity) = segment.similarity { ", similarity " (format!("{similarity:.2}")) }
                                    @if segment.selected { ", trains the model" } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    if percent < 1.0 { format!("{percent:.1} %") } else { format!("{percent:.0} %") }
}

fn runs(runs: &[u32]) -> String {
    runs.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
}

fn lineage(lineage: &[Step]) -> Markup {
    html! {
        section {
            h2 { "How it came to be" }
            div.scroll tabindex="0" role="region" aria-label="How it came to be" {
                table.lineage {
                    thead { tr { th scope="col" { "table" } th scope="col" { "what its row says" } } }
                    tbody {
                        @for step in lineage {
                            tr { th scope="row" { (step.stage) } td { @for line in &step.lines { p dir="auto" { (line) } } } }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "\"><img src=x onerror=alert(1)>";

    #[test]
    fn whatever_tables_say_is_text() {
        let hostile = || HOSTILE.to_owned();
        let image = Image {
            found: Found {
                image: ImageName { country: hostile(), id: hostile() },
                tags: vec![hostile()],
                split: Some(hostile()),
                object: Some("javascript:alert(1)".into()),
                ..Found::default()
            },
            captions: vec![CaptionOf {
                text: hostile(),
                source: hostile(),
                quality: vec![hostile()],
                flagged: Some(hostile()),
            }],
            around: vec![vec![hostile()]],
            lineage: vec![Step { stage: hostile(), lines: vec![hostile()] }],
            segments: vec![SegmentOf { runs: vec![1, 2], share: 0.004, selected: true, ..SegmentOf::default() }],
            ..Image::default()
        };
        let page = content(&About::default(), &image).into_string();
        assert!(!page.contains("<img src=x") && !page.contains("javascript:"), "{page}");
        assert!(page.contains("0.4 % of the picture, trains the model"), "{page}");
        assert!(!page.contains("style="));
    }
}

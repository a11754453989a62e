//! Edits of OpenStreetMap: the last refreshes of tags, and what became of one of them, image by image. Without a script.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use maud::{Markup, html};
use serde::Deserialize;

use super::extract::Parameters;
use super::parameters::Named;
use crate::ask::ImageName;
use crate::compute::Compute;
use crate::desk::Desk;
use crate::edits::{Edit, Edited, Moved, Retagged};
use crate::layout::{Nav, Shell, image_path};
use crate::site::Page;
use crate::trouble::Trouble;

const PATH: &str = "/edit";
const PICTURE: &str = "/edit/picture";

#[derive(Clone)]
struct Here {
    desk: Arc<dyn Desk>,
    compute: Arc<Compute>,
    has_images: bool,
}

/// The page; `has_images`: whether the site has a page for each image.
pub fn page(desk: Arc<dyn Desk>, compute: Arc<Compute>, has_images: bool) -> Page {
    let routes = Router::new().route(PATH, get(show)).route(PICTURE, get(picture)).with_state(Here {
        desk,
        compute,
        has_images,
    });
    Page { nav: Some(Nav { path: PATH, name: "Edits" }), routes }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Asked {
    country: String,
    version: String,
}

async fn picture(State(here): State<Here>, Parameters(named): Parameters<Named>) -> Result<Response, Trouble> {
    let jpeg = here.compute.run(async move { here.desk.picture(named.into()).await }).await?;
    Ok(([(CONTENT_TYPE, "image/jpeg"), (CACHE_CONTROL, "private, max-age=600")], jpeg).into_response())
}

async fn show(
    State(here): State<Here>,
    asked: Result<Parameters<Asked>, Trouble>,
    Extension(shell): Extension<Shell>,
) -> Response {
    let asked = match asked {
        Ok(Parameters(asked)) => asked,
        Err(trouble) => return shell.trouble(&trouble),
    };
    let countries = here.desk.countries();
    let country = match asked.country.as_str() {
        "" => countries.first().cloned().unwrap_or_default(),
        named => named.to_owned(),
    };
    let version = match asked.version.as_str() {
        "" => Ok(None),
        number => number.parse().map(Some).map_err(|_| Trouble::Refused(format!("{number:?} is no version"))),
    };
    let (desk, of) = (here.desk.clone(), country.clone());
    let known = here.compute.run(async move {
        let version: Option<u64> = version?;
        let edits = desk.edits(of.clone()).await?;
        let chosen = match (version, edits.first()) {
            (Some(version), _) => Chosen::One(desk.edited(of, version).await?),
            // the list is worth something without it
            (None, Some(newest)) => desk.edited(of, newest.version).await.map_or_else(Chosen::Untold, Chosen::One),
            (None, None) => Chosen::None,
        };
        Ok((edits, chosen))
    });
    match known.await {
        Ok((edits, chosen)) => {
            shell.page(PATH, "Edits", None, content((&countries, &country), &edits, &chosen, here.has_images))
        }
        Err(trouble) => shell.trouble(&trouble),
    }
}

/// The refresh that is looked at.
enum Chosen {
    /// There is none.
    None,
    One(Edited),
    /// Why nothing can be told of the newest one.
    Untold(Trouble),
}

fn address(country: &str, version: Option<u64>) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("country", country);
    version.map(|version| query.append_pair("version", &version.to_string()));
    format!("{PATH}?{}", query.finish())
}

fn content((countries, country): (&[String], &str), edits: &[Edit], chosen: &Chosen, has_images: bool) -> Markup {
    html! {
        h1 { "Edits of OpenStreetMap" }
        p.lead { "Refreshes of tags, and what runs have made of them." }
        @if countries.len() > 1 {
            nav aria-label="Countries" { ul.tags {
                @for one in countries {
                    li { a href=(address(one, None)) aria-current=[(one == country).then_some("page")] { (one) } }
                }
            } }
        }
        @if edits.is_empty() {
            p { "No refresh has moved a row of " (country) " yet. " code { "urbancross tags refresh" } " brings tags up to date." }
        } @else {
            section { h2 { "The last refreshes" } (refreshes(country, edits, chosen)) }
        }
        @if let Chosen::Untold(why) = chosen { p.flag { "Of the newest one nothing can be told: " (why) } }
        @if let Chosen::One(chosen) = chosen {
            section {
                h2 { "What became of " (chosen.edit.origin) }
                p.muted { "Until " (chosen.until) "." }
                (steps(&chosen.steps))
            }
            section {
                h2 { "Images with other tags" }
                @if chosen.images.is_empty() { p.muted { "None that can be shown." } }
                ol.retagged { @for image in &chosen.images { li { (retagged(image, has_images)) } } }
                @if chosen.others > 0 { p.muted { "And " (chosen.others) " more." } }
            }
        }
    }
}

fn refreshes(country: &str, edits: &[Edit], chosen: &Chosen) -> Markup {
    let is_chosen = |edit: &Edit| matches!(chosen, Chosen::One(chosen) if chosen.edit.version == edit.version);
    html! {
        div.scroll tabindex="0" role="region" aria-label="The last refreshes" {
            table.numbers {
                thead { tr {
                    th scope="col" { "refresh" } th scope="col" { "shows" } th.number scope="col" { "images" }
                    th.number scope="col" { "version" } th scope="col" { "written" }
                } }
                tbody {
                    @for edit in edits {
                        tr {
                            th scope="row" {
                                a href=(address(country, Some(edit.version))) aria-current=[is_chosen(edit).then_some("true")] {
                                    (edit.origin)
                                }
                            }
                            td { (edit.moment) }
                            td.number { @match edit.images { Some(images) => (images), None => "many" } }
                            td.number { (edit.version) }
                            td { (edit.written) }
                        }
                    }
                }
            }
        }
    }
}

fn steps(steps: &[Moved]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Rows by step" {
            table.numbers {
                thead { tr {
                    th scope="col" { "step" }
                    @for name in ["changed", "added", "removed", "remade", "same words", "kept"] { th.number scope="col" { (name) } }
                    th scope="col" { "why" }
                } }
                tbody {
                    @for step in steps {
                        tr {
                            th scope="row" { (step.step) }
                            @for rows in [step.changed, step.added, step.removed, step.remade, step.carried, step.kept] {
                                td.number { (rows) }
                            }
                            td { (step.why.join(", ")) }
                        }
                    }
                }
            }
        }
    }
}

fn retagged(of: &Retagged, has_images: bool) -> Markup {
    let ImageName { country, id } = &of.image;
    let none = Vec::new();
    let after = of.tags_after.as_ref().unwrap_or(&none);
    let described = of.captions_after.iter().chain(&of.captions_before).next().map_or("no caption", String::as_str);
    html! {
        @if of.pictured {
            img src=(image_path(PICTURE, country, id)) width="160" height="160" loading="lazy"
                alt={ "Satellite image: " (described) };
        }
        div {
            h3.id dir="auto" { @if has_images && of.pictured { a href=(image_path("/image", country, id)) { (id) } } @else { (id) } }
            @if of.tags_after.is_none() { p.flag { "Its object is gone: the image leaves." } }
            ul.tags {
                @for tag in &of.tags_before {
                    @if after.contains(tag) { li dir="auto" { (tag) } } @else { li dir="auto" { del { (tag) } } }
                }
                @for tag in after.iter().filter(|tag| !of.tags_before.contains(tag)) { li dir="auto" { ins { (tag) } } }
            }
            @if !of.around_gone.is_empty() || !of.around_new.is_empty() {
                p.muted { "around it" }
                ul.tags {
                    @for tags in &of.around_gone { li dir="auto" { del { (tags) } } }
                    @for tags in &of.around_new { li dir="auto" { ins { (tags) } } }
                }
            }
            @if of.captions_before == of.captions_after {
                @for caption in &of.captions_after { p dir="auto" { (caption) } }
                p.muted { "Its caption is what it was." }
            } @else {
                @for caption in &of.captions_before { p dir="auto" { del { (caption) } } }
                @for caption in &of.captions_after { p dir="auto" { ins { (caption) } } }
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
        let edit = Edit { version: 3, written: hostile(), origin: hostile(), moment: hostile(), images: None };
        let image = Retagged {
            image: ImageName { country: hostile(), id: hostile() },
            pictured: true,
            tags_before: vec![hostile(), "a=b".into()],
            tags_after: Some(vec!["a=b".into(), "c=<d>".into()]),
            around_new: vec![hostile()],
            around_gone: vec![hostile()],
            captions_before: vec![hostile()],
            captions_after: Vec::new(),
        };
        let moved = Moved { step: hostile(), why: vec![hostile()], ..Moved::default() };
        let chosen =
            Edited { edit: edit.clone(), until: hostile(), steps: vec![moved], images: vec![image], others: 2 };
        let page = content((&[hostile(), "x".into()], HOSTILE), &[edit], &Chosen::One(chosen), true).into_string();
        assert!(!page.contains("<img src=x") && !page.contains("style=") && !page.contains("<script"), "{page}");
        assert!(page.contains("<li dir=\"auto\">a=b</li>") && page.contains("<ins>c=&lt;d&gt;</ins>"), "{page}");
        assert!(page.contains("And 2 more."));
        let untold = Chosen::Untold(Trouble::Refused("cleared away".into()));
        let page = content((&[], "x"), &[Edit::default()], &untold, true).into_string();
        assert!(page.contains("The last refreshes") && page.contains("cleared away"), "{page}");
    }

    #[test]
    fn an_object_that_is_gone_and_words_that_stay_are_told() {
        let gone = Retagged { tags_before: vec!["a=b".into()], ..Retagged::default() };
        let page = retagged(&gone, false).into_string();
        assert!(page.contains("the image leaves") && page.contains("<del>a=b</del>"), "{page}");
        assert!(!page.contains("<img") && !page.contains("/image?"), "{page}");
        let same = Retagged {
            captions_before: vec!["a lake".into()],
            captions_after: vec!["a lake".into()],
            tags_after: Some(Vec::new()),
            ..Retagged::default()
        };
        let page = retagged(&same, false).into_string();
        assert!(page.contains("<p dir=\"auto\">a lake</p>") && page.contains("is what it was"), "{page}");
    }
}

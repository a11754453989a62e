//! The first page: a query, filters, a map, and what was found, by one model or by two side by side.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use maud::{Markup, html};

use super::Asked;
use super::extract::Parameters;
use super::parameters::{Wanted, some};
use crate::ask::{About, Answer, Atlas, ImageName, Query, Question};
use crate::layout::{Nav, Shell};
use crate::site::Page;
use crate::tiles::Tiles;
use crate::trouble::Trouble;

const PATH: &str = "/";
/// Most bytes of a picture that is searched with. Pictures of a build may be larger, but nobody else sends those.
const PICTURE_BYTES: usize = 8 << 20;

#[derive(Clone)]
struct Search {
    asked: Asked,
    tiles: Option<Tiles>,
}

pub(super) fn page(asked: Asked, tiles: Option<Tiles>) -> Page {
    let picture = post(by_picture).layer(DefaultBodyLimit::max(PICTURE_BYTES));
    let routes = Router::new()
        .route(PATH, get(show))
        .route("/api/search", get(by_words).merge(picture))
        .with_state(Search { asked, tiles });
    Page { nav: Some(Nav { path: PATH, name: "Search" }), routes }
}

fn question(wanted: &Wanted, query: Query) -> Result<Question, Trouble> {
    Ok(Question { query, model: some(&wanted.model), narrowed: wanted.narrowed()?, most: wanted.most()? })
}

async fn by_words(
    State(search): State<Search>,
    Parameters(wanted): Parameters<Wanted>,
) -> Result<Json<Answer>, Trouble> {
    let query = match some(&wanted.like) {
        Some(_) if wanted.like_country.trim().is_empty() => {
            return Err(Trouble::Refused("like_country is missing: name the country of the image, too".into()));
        }
        Some(id) => Query::Like(ImageName { country: wanted.like_country.clone(), id }),
        None => Query::Text(some(&wanted.text).ok_or_else(|| Trouble::Refused("the search is empty".into()))?),
    };
    answer(&search, question(&wanted, query)?).await
}

async fn by_picture(
    State(search): State<Search>,
    Parameters(wanted): Parameters<Wanted>,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<Json<Answer>, Trouble> {
    let bytes = bytes.map_err(|_| {
        Trouble::Refused(format!("the picture is too large: {} MiB are the most; make it smaller", PICTURE_BYTES >> 20))
    })?;
    if bytes.is_empty() {
        return Err(Trouble::Refused("the picture is empty".into()));
    }
    answer(&search, question(&wanted, Query::Picture(bytes.to_vec()))?).await
}

async fn answer(search: &Search, question: Question) -> Result<Json<Answer>, Trouble> {
    search.asked.ask(|atlas| async move { atlas.search(question).await }).await.map(Json)
}

async fn show(State(search): State<Search>, Extension(shell): Extension<Shell>) -> Response {
    match search.asked.ask(|atlas| async move { Atlas::about(&*atlas).await }).await {
        Ok(about) => shell.page(PATH, "Search", Some("search.js"), content(&about, search.tiles.as_ref())),
        Err(trouble) => shell.trouble(&trouble),
    }
}

fn content(about: &About, tiles: Option<&Tiles>) -> Markup {
    html! {
        h1 { "Find satellite images" }
        form #search role="search" action="/" {
            div.ask {
                label for="text" { "What do the pictures show?" }
                div.line {
                    input #text type="search" name="text" maxlength="1000" autocomplete="off"
                        placeholder="two tennis courts beside a road";
                    button.primary type="submit" { "Search" }
                }
                div.line.more {
                    label.file for="picture" { "or by a picture (JPEG or PNG)" }
                    input #picture type="file" accept="image/*" data-most-mib=(PICTURE_BYTES >> 20);
                    @if about.models.len() > 1 {
                        (choice("model", "Model", None, about.models.iter().map(|m| (m.id.as_str(), m.name.as_str()))))
                        (choice("beside", "Beside it", Some("none"), about.models.iter().map(|m| (m.id.as_str(), m.name.as_str()))))
                    }
                }
                p #like .like hidden { span {} " " button #unlike type="button" { "Search by words instead" } }
            }
            (filters(about))
        }
        p #status role="status" aria-live="polite" {}
        div.explore {
            section.answers aria-label="What was found" { div #answers {} }
            (map(tiles))
        }
    }
}

fn filters(about: &About) -> Markup {
    let (from, to) = about.years.map_or((String::new(), String::new()), |(a, b)| (a.to_string(), b.to_string()));
    let (fine, coarse) =
        about.gsd_meters.map_or((String::new(), String::new()), |(a, b)| (format!("{a:.2}"), format!("{b:.2}")));
    html! {
        fieldset.filters {
            legend { "Only images" }
            @if about.countries.len() > 1 {
                (choice("country", "of", Some("all countries"), about.countries.iter().map(|c| (c.as_str(), c.as_str()))))
            }
            (choice("split", "in split", Some("any"), about.splits.iter().map(|s| (s.as_str(), s.as_str()))))
            (field("from_year", "from year", "numeric", &from))
            (field("to_year", "to year", "numeric", &to))
            (field("least_gsd", "from m a pixel", "decimal", &fine))
            (field("most_gsd", "to m a pixel", "decimal", &coarse))
            div.field.wide {
                label for="tags" { "with tags" }
                input #tags name="tags" maxlength="300" list="known-tags" autocomplete="off" placeholder="leisure=pitch building";
                datalist #known-tags { @for tag in &about.tags { option value=(tag) {} } }
            }
            div.field.area {
                span.label #area-label { "in an area" }
                output #area aria-labelledby="area-label" { "anywhere" }
                button #anywhere type="button" hidden { "Anywhere" }
            }
        }
    }
}

fn choice<'a>(
    name: &str,
    label: &str,
    none: Option<&str>,
    options: impl Iterator<Item = (&'a str, &'a str)>,
) -> Markup {
    html! {
        div.field {
            label for=(name) { (label) }
            select id=(name) name=(name) {
                @if let Some(none) = none { option value="" { (none) } }
                @for (value, text) in options { option value=(value) { (text) } }
            }
        }
    }
}

fn field(name: &str, label: &str, mode: &str, placeholder: &str) -> Markup {
    html! {
        div.field {
            label for=(name) { (label) }
            input id=(name) name=(name) inputmode=(mode) size="6" maxlength="12" autocomplete="off" placeholder=(placeholder);
        }
    }
}

fn map(tiles: Option<&Tiles>) -> Markup {
    html! {
        section.map aria-label="Map" {
            div.tools {
                button type="button" data-map="select" aria-pressed="true" title="Drag over the map to choose an area" { "Choose area" }
                button type="button" data-map="move" aria-pressed="false" title="Drag to move the map" { "Move" }
                button type="button" data-map="view" title="Only images in what the map shows now" { "This view" }
                span.spring {}
                button type="button" data-map="in" aria-label="Zoom in" { "+" }
                button type="button" data-map="out" aria-label="Zoom out" { "−" }
                button type="button" data-map="all" { "All" }
            }
            div.canvas {
                canvas #map tabindex="0" role="application" aria-roledescription="map"
                    aria-label="Map of the images. Arrow keys move it, plus and minus zoom, Enter filters by what it shows, Escape shows all."
                    data-tiles=[tiles.map(Tiles::template)] {}
                p #here .here hidden {}
            }
            p.credit {
                span #points {} " Borders © OpenStreetMap contributors (ODbL)."
                @if let Some(tiles) = tiles { " Map " (tiles.credit) "." }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_the_page_are_text() {
        let about = About {
            countries: vec!["<b>".into(), "spain".into()],
            tags: vec!["name=\"><script>".into()],
            ..About::default()
        };
        let page = content(&about, None).into_string();
        assert!(!page.contains("<b>") && !page.contains("<script>"), "{page}");
        assert!(!page.contains("style="), "the policy forbids styles in pages");
    }
}

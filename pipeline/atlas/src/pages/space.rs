//! What a model sees: all images as points, those alike close together.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use maud::{Markup, html};
use serde::Deserialize;

use super::Asked;
use super::extract::Parameters;
use super::packed::Packed;
use crate::ask::{About, Atlas, Layout, Plot};
use crate::layout::{Nav, Shell};
use crate::site::Page;
use crate::trouble::Trouble;

const PATH: &str = "/space";

#[derive(Clone)]
struct Space {
    asked: Asked,
    plots: Arc<Packed<Plot>>,
}

pub(super) fn page(asked: Asked) -> Page {
    let space = Space { asked, plots: Arc::default() };
    let routes = Router::new().route(PATH, get(show)).route("/api/plot", get(plot)).with_state(space);
    Page { nav: Some(Nav { path: PATH, name: "Space" }), routes }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Of {
    model: String,
    layout: Layout,
}

async fn plot(State(space): State<Space>, Parameters(of): Parameters<Of>) -> Result<Response, Trouble> {
    let plots = space.plots;
    let ask = |atlas: Arc<dyn Atlas>| async move {
        Ok(plots.of(atlas.plot(of.model, of.layout).await?, |plot| serde_json::to_vec(plot).unwrap_or_default()))
    };
    let bytes = space.asked.ask(ask).await?;
    Ok(([(CONTENT_TYPE, "application/json")], bytes).into_response())
}

async fn show(State(space): State<Space>, Extension(shell): Extension<Shell>) -> Response {
    match space.asked.ask(|atlas| async move { Atlas::about(&*atlas).await }).await {
        Ok(about) => shell.page(PATH, "Space", Some("space.js"), content(&about)),
        Err(trouble) => shell.trouble(&trouble),
    }
}

fn content(about: &About) -> Markup {
    html! {
        h1 { "What the model sees" }
        p.lead {
            "Every point is an image, by its vector. Images that the model takes for alike lie close together."
        }
        form #choose .filters {
            div.field {
                label for="model" { "model" }
                select #model { @for model in &about.models { option value=(model.id) { (model.name) } } }
            }
            div.field {
                label for="layout" { "layout" }
                select #layout aria-describedby="meaning" {
                    option value="variance" { "variance (PCA)" }
                    option value="neighbours" { "neighbours (t-SNE)" }
                }
            }
            div.field {
                label for="by" { "colours" }
                select #by {
                    option value="class" { "class of tag" }
                    option value="country" { "country" }
                    option value="split" { "split" }
                    option value="error" { "error" }
                }
            }
        }
        p #meaning .muted {
            span data-layout="variance" {
                "The two directions in which the vectors differ most: distances are true in these, and what lies close here may
                 still differ in all others."
            }
            span data-layout="neighbours" hidden {
                "Each image beside those whose vectors are nearest by cosine. Only who is next to whom means something: sizes of
                 clusters, gaps between them and directions mean nothing."
            }
            span #error hidden {
                " Error: the place of an image's own caption among all captions of its country's test split, best first.
                 Captions of the same words do not count as errors. Images that are not held out are not measured. "
                span #unmeasured {}
            }
        }
        p #status role="status" aria-live="polite" {}
        ul #legend .legend aria-label="What the colours mean" {}
        div.explore.space {
            div.canvas {
                canvas #plot tabindex="0" role="application" aria-roledescription="plot"
                    aria-label="Plot of the images. Arrow keys go from point to point, Enter opens the image, plus and minus zoom, Escape shows all." {}
            }
            section #chosen aria-live="polite" aria-label="Chosen image" { p.muted { "Point at an image, or go there with the arrow keys." } }
        }
    }
}

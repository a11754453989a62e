//! Captions that wait for a person, one after the other: accept, edit or reject, by buttons or keys.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use maud::{Markup, html};

use super::extract::{Parameters, Sent};
use super::parameters::Named;
use crate::compute::Compute;
use crate::desk::{Decision, DecisionAsked, Desk, Waiting, WaitingAsked};
use crate::layout::{Nav, Shell};
use crate::site::Page;
use crate::trouble::Trouble;

const PATH: &str = "/review";

#[derive(Clone)]
struct Here {
    desk: Arc<dyn Desk>,
    compute: Arc<Compute>,
}

/// The page. What is sent must be JSON: no form of another site can send that, and the guard refuses what one asks for.
pub fn page(desk: Arc<dyn Desk>, compute: Arc<Compute>) -> Page {
    let routes = Router::new()
        .route(PATH, get(show))
        .route("/api/review", get(waiting).post(decide))
        .route("/review/picture", get(picture))
        .with_state(Here { desk, compute });
    Page { nav: Some(Nav { path: PATH, name: "Review" }), routes }
}

async fn waiting(
    State(here): State<Here>,
    Parameters(asked): Parameters<WaitingAsked>,
) -> Result<Json<Waiting>, Trouble> {
    here.compute.run(async move { here.desk.waiting(asked).await }).await.map(Json)
}

async fn decide(State(here): State<Here>, Sent(asked): Sent<DecisionAsked>) -> Result<Json<Decision>, Trouble> {
    here.compute.run(async move { here.desk.decide(asked).await }).await.map(Json)
}

async fn picture(State(here): State<Here>, Parameters(named): Parameters<Named>) -> Result<Response, Trouble> {
    let jpeg = here.compute.run(async move { here.desk.picture(named.into()).await }).await?;
    Ok(([(CONTENT_TYPE, "image/jpeg"), (CACHE_CONTROL, "private, max-age=600")], jpeg).into_response())
}

async fn show(State(here): State<Here>, Extension(shell): Extension<Shell>) -> Response {
    shell.page(PATH, "Review", Some("review.js"), content(&here.desk.countries()))
}

fn content(countries: &[String]) -> Markup {
    html! {
        h1 { "Captions to review" }
        form #choose .filters {
            div.field {
                label for="country" { "country" }
                select #country { @for country in countries { option value=(country) { (country) } } }
            }
            div.field {
                label for="why" { "what waits" }
                select #why {
                    option value="" { "all" }
                    option value="failed" { "failed" }
                    option value="flagged" { "flagged" }
                    option value="review_again" { "review again" }
                }
            }
            div.field {
                label for="author" { "your name" }
                input #author required maxlength="80" autocomplete="name" placeholder="who decides";
            }
        }
        p #status role="status" aria-live="polite" {}
        noscript { p { "This page needs JavaScript; `urbancross review` does the same." } }
        article #one .image hidden aria-label="The caption that waits" {
            div.picture { div.stack { img #picture alt=""; } }
            div.facts {
                h2 #id .id dir="auto" {}
                p #reason .flag {}
                p #decided .muted {}
                form #edit {
                    label for="text" { "caption" span #captioner {} ", one a line" }
                    textarea #text rows="4" dir="auto" spellcheck="true" {}
                    div.tools {
                        button #accept .primary type="button" { "Accept " kbd { "A" } }
                        button #save type="submit" { "Save the edit " kbd { "Ctrl Enter" } }
                        button #reject type="button" { "Reject " kbd { "R" } }
                        span.spring {}
                        button #back type="button" { "Back " kbd { "←" } }
                        button #skip type="button" { "Skip " kbd { "→" } }
                    }
                    p.muted { kbd { "E" } " goes to the words, " kbd { "Esc" } " leaves them." }
                }
                section { h2 { "Tags" } ul #tags .tags {} details #around hidden { summary {} div {} } }
            }
        }
    }
}

//! Builds at work: steps as a graph with rates, what is left, quarantine, curves and versions. Told as it happens.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::{Redirect, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use maud::{Markup, html};
use serde::Deserialize;

use super::extract::Parameters;
use super::live::Live;
use crate::compute::Compute;
use crate::desk::{Desk, Failure};
use crate::layout::{Nav, Shell};
use crate::site::Page;
use crate::trouble::Trouble;

const PATH: &str = "/build";

#[derive(Clone)]
struct Here {
    desk: Arc<dyn Desk>,
    compute: Arc<Compute>,
    live: Arc<Live>,
}

/// The page; `every`: how often the store is looked at while somebody reads.
pub fn page(desk: Arc<dyn Desk>, compute: Arc<Compute>, every: Duration) -> Page {
    let live = Live::new(desk.clone(), compute.clone(), every);
    let routes = Router::new()
        .route(PATH, get(show))
        .route("/api/build", get(|State(here): State<Here>| async move { here.live.follow() }))
        .route("/api/failures", get(failures))
        .with_state(Here { desk, compute, live });
    Page { nav: Some(Nav { path: PATH, name: "Build" }), routes }
}

/// Leads here from the beginning of the site, where there is nothing to search yet.
pub fn home() -> Page {
    Page { nav: None, routes: Router::new().route("/", get(|| async { Redirect::temporary(PATH) })) }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Of {
    country: String,
    step: String,
}

async fn failures(State(here): State<Here>, Parameters(of): Parameters<Of>) -> Result<Json<Vec<Failure>>, Trouble> {
    here.compute.run(async move { here.desk.failures(of.country, of.step).await }).await.map(Json)
}

async fn show(State(here): State<Here>, Extension(shell): Extension<Shell>) -> Response {
    shell.page(PATH, "Build", Some("build.js"), content(&here.desk.countries()))
}

fn content(countries: &[String]) -> Markup {
    html! {
        h1 { "The build" }
        p.lead { "What the store tells, as it happens: also of runs on other machines and clusters." }
        @if countries.len() > 1 {
            div.field {
                label for="country" { "country" }
                select #country { @for country in countries { option value=(country) { (country) } } }
            }
        }
        p #status role="status" aria-live="polite" { "Asking the store …" }
        noscript { p { "This page needs JavaScript; `urbancross status` says the same." } }
        div #build hidden {
            section { h2 { "Steps" } div #graph .scroll tabindex="0" role="region" aria-label="Steps as a graph" {} }
            section #runs {}
            section {
                h2 { "In numbers" }
                div.scroll tabindex="0" role="region" aria-label="Steps in numbers" {
                    table.numbers {
                        thead { tr {
                            th scope="col" { "step" } th scope="col" { "state" } th.number scope="col" { "shards" }
                            th.number scope="col" { "rows/s" } th.number scope="col" { "left" } th.number scope="col" { "rows" }
                            th.number scope="col" { "failed" } th.number scope="col" { "excluded" }
                            th.number scope="col" { "version" } th.number scope="col" { "took" } th scope="col" { "ended" }
                            th scope="col" { "what it did last" }
                        } }
                        tbody #steps {}
                    }
                }
            }
            section #curves {}
            section #quarantine {}
        }
    }
}

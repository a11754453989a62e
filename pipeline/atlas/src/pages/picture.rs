//! Pictures of the builds, encoded anew: what a table holds goes to no browser as it is.

use axum::Router;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::Asked;
use super::extract::Parameters;
use super::parameters::Named;
use crate::ask::Size;
use crate::site::Page;
use crate::trouble::Trouble;

/// Where a picture is.
pub(super) const FULL: &str = "/picture";
const THUMBNAIL: &str = "/thumbnail";

pub(super) fn page(asked: Asked) -> Page {
    let routes = Router::new()
        .route(FULL, get(|asked, named| picture(asked, named, Size::Full)))
        .route(THUMBNAIL, get(|asked, named| picture(asked, named, Size::Thumbnail)))
        .with_state(asked);
    Page { nav: None, routes }
}

async fn picture(
    State(asked): State<Asked>,
    Parameters(named): Parameters<Named>,
    size: Size,
) -> Result<Response, Trouble> {
    let jpeg = asked.ask(|atlas| async move { atlas.picture(named.into(), size).await }).await?;
    Ok(([(CONTENT_TYPE, "image/jpeg"), (CACHE_CONTROL, "private, max-age=600")], jpeg).into_response())
}

//! What requests bring, read as plain data; what cannot be read is refused in the words and the form of every other answer.

use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::trouble::Trouble;

/// What stands behind the question mark of an address.
pub(super) struct Parameters<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = Trouble;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Trouble> {
        let read = Query::try_from_uri(&parts.uri);
        read.map(|Query(of)| Self(of)).map_err(|error| {
            let said = error.body_text();
            // a parser calls them fields
            let why = said.split_once("unknown field ").map(|(_, named)| format!("there is no parameter {named}"));
            Trouble::Unreadable(error.status(), why.unwrap_or(said))
        })
    }
}

/// A body of JSON, which says that it is.
pub(super) struct Sent<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Sent<T> {
    type Rejection = Trouble;

    async fn from_request(request: Request, state: &S) -> Result<Self, Trouble> {
        let read = Json::from_request(request, state).await;
        read.map(|Json(of)| Self(of)).map_err(|error| Trouble::Unreadable(error.status(), error.body_text()))
    }
}

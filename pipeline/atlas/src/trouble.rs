//! Why a question has no answer.

use axum::Json;
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};

/// Why a question has no answer. Its words are for whoever asked; what only the owner should know goes to the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// There is no such thing.
    #[error("{0}")]
    NotThere(String),
    /// The question cannot be answered as it is, and why.
    #[error("{0}")]
    Refused(String),
    /// The request is not such as this address takes: the status that says so, and why.
    #[error("{1}")]
    Unreadable(StatusCode, String),
    /// What was sent could not be kept, and is not.
    #[error("{0}")]
    Unstored(String),
    /// More is asked than can be computed.
    #[error("too many searches are waiting; try again in a moment")]
    Busy,
    /// It took too long.
    #[error("this took too long and was stopped; narrow the search, or try again when fewer people search")]
    Slow,
    /// Tables or the store cannot be read; the words are for the log.
    #[error("the build could not be read; the server's log says why")]
    Broken(String),
}

impl Trouble {
    /// The status that an answer has.
    pub fn status(&self) -> StatusCode {
        match self {
            Trouble::NotThere(_) => StatusCode::NOT_FOUND,
            Trouble::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Trouble::Unreadable(status, _) => *status,
            Trouble::Unstored(_) => StatusCode::INSUFFICIENT_STORAGE,
            Trouble::Busy | Trouble::Slow => StatusCode::SERVICE_UNAVAILABLE,
            Trouble::Broken(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Writes to the log what is not for whoever asked.
    pub fn log(&self) {
        if let Trouble::Broken(why) = self {
            tracing::error!(%why, "a page of the atlas could not be made");
        }
    }
}

/// As scripts read it: `{"error": …}`.
impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        self.log();
        let status = self.status();
        let body = Json(serde_json::json!({ "error": self.to_string() }));
        match status {
            StatusCode::SERVICE_UNAVAILABLE => (status, [(RETRY_AFTER, "2")], body).into_response(),
            _ => (status, body).into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_broken_is_not_told_to_everybody() {
        let broken = Trouble::Broken("s3://secret-bucket/part-1".into());
        assert!(!broken.to_string().contains("secret-bucket"));
        assert_eq!(broken.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}

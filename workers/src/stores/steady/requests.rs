//! Requests, counted: how many, how they ended and what they took.

use std::future::Future;
use std::time::Instant;

use object_store::{Error, Result};

use crate::metrics::{self, Metric};

/// Waits for one request of a store.
pub(super) async fn counted<T>(op: &'static str, request: impl Future<Output = Result<T>>) -> Result<T> {
    let began = Instant::now();
    let done = request.await;
    let code = done.as_ref().map_or_else(outcome, |_| "ok");
    metrics::add(Metric::StoreRequests, &[("op", op), ("code", code)], 1.0);
    metrics::observe(Metric::StoreSeconds, &[("op", op)], began.elapsed().as_secs_f64());
    done
}

fn outcome(error: &Error) -> &'static str {
    match error {
        Error::NotFound { .. } => "not_found",
        Error::AlreadyExists { .. } => "already_exists",
        Error::Precondition { .. } => "precondition",
        Error::NotModified { .. } => "not_modified",
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => "refused",
        Error::NotSupported { .. } | Error::NotImplemented { .. } => "unsupported",
        _ => "failed",
    }
}

//! News for everybody who has a page open, from one look at the store.
//!
//! Somebody who looks sets the looks going; they end with the last one who does. Each look is made once and told to all, so
//! that a hundred open pages cost the store as much as one.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use tokio::sync::watch;

use crate::compute::Compute;
use crate::desk::Desk;
use crate::trouble::Trouble;

/// Pages that may be open at once; more are refused.
const MOST_READERS: usize = 128;
/// A reader who hears nothing for longer may think that the server is gone.
const SILENCE: Duration = Duration::from_secs(15);

/// Looks at builds while somebody reads.
pub(super) struct Live {
    desk: Arc<dyn Desk>,
    compute: Arc<Compute>,
    every: Duration,
    /// Events that are sent as they are.
    news: watch::Sender<Arc<str>>,
    looks: Mutex<bool>,
}

impl Live {
    pub(super) fn new(desk: Arc<dyn Desk>, compute: Arc<Compute>, every: Duration) -> Arc<Self> {
        Arc::new(Self { desk, compute, every, news: watch::Sender::new("".into()), looks: Mutex::new(false) })
    }

    /// Events for one reader, without an end.
    ///
    /// # Errors
    /// [`Trouble::Busy`] if too many read.
    pub(super) fn follow(self: &Arc<Self>) -> Result<Response, Trouble> {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        if self.news.receiver_count() >= MOST_READERS {
            return Err(Trouble::Busy);
        }
        let mut reader = self.news.subscribe();
        // what was seen before the last reader left is old
        if !*looks {
            self.news.send_replace("".into());
            *looks = true;
            tokio::spawn(self.clone().look());
        }
        drop(looks);
        reader.mark_changed();
        let events = futures::stream::unfold(reader, |mut reader| async move {
            let told = match tokio::time::timeout(SILENCE, reader.changed()).await {
                Ok(Ok(())) => reader.borrow_and_update().to_string(),
                Ok(Err(_)) => return None,
                Err(_) => String::new(),
            };
            // a line that browsers pass over
            let told = if told.is_empty() { ": here\n\n".to_owned() } else { told };
            Some((told, reader))
        });
        let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
        Ok((headers, Body::from_stream(events.map(Ok::<_, Infallible>))).into_response())
    }

    async fn look(self: Arc<Self>) {
        loop {
            let desk = self.desk.clone();
            let event = match self.compute.run(async move { desk.states().await }).await {
                Ok(states) => event("states", &serde_json::json!(states)),
                Err(trouble) => {
                    trouble.log();
                    event("trouble", &serde_json::json!({ "error": trouble.to_string() }))
                }
            };
            self.news.send_if_modified(|last| {
                let is_news = **last != *event;
                *last = event.as_str().into();
                is_news
            });
            tokio::time::sleep(self.every).await;
            let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
            if self.news.receiver_count() == 0 {
                *looks = false;
                return;
            }
        }
    }
}

/// JSON has no line breaks, so that an event is two lines.
fn event(name: &str, data: &serde_json::Value) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}

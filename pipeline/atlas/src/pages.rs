//! The pages of the atlas, one file each.

pub mod build;
pub mod edit;
mod extract;
mod image;
mod live;
mod map;
mod packed;
mod parameters;
mod picture;
pub mod review;
mod search;
mod space;

use std::future::Future;
use std::sync::Arc;

use crate::ask::Atlas;
use crate::compute::Compute;
use crate::site::Page;
use crate::tiles::Tiles;
use crate::trouble::Trouble;

pub use parameters::is_askable;

/// All pages of the atlas, in the order of the navigation.
pub fn all(atlas: Arc<dyn Atlas>, compute: Arc<Compute>, tiles: Option<Tiles>) -> Vec<Page> {
    let asked = Asked { atlas, compute };
    vec![
        search::page(asked.clone(), tiles),
        map::page(asked.clone()),
        picture::page(asked.clone()),
        image::page(asked.clone()),
        space::page(asked),
    ]
}

/// What pages ask, and where it is computed.
#[derive(Clone)]
pub(crate) struct Asked {
    atlas: Arc<dyn Atlas>,
    compute: Arc<Compute>,
}

impl Asked {
    /// Asks, when it is this question's turn.
    async fn ask<T, F>(&self, question: impl FnOnce(Arc<dyn Atlas>) -> F) -> Result<T, Trouble>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Trouble>> + Send + 'static,
    {
        self.compute.run(question(self.atlas.clone())).await
    }
}

//! Images in the space of a model.

use std::collections::BTreeMap;
use std::sync::Arc;

use atlas::{Plot, Trouble};
use plane::Plane;

use super::index::is_sampled;
use super::snapshot::{Loaded, Snapshot};
use super::trouble;

/// Vectors that are held at once; at 768 numbers each, 60 MB.
const MOST_VECTORS: u64 = 20_000;
/// Vectors that the plane is laid through.
const FITTED: usize = 4000;

/// The plot of a model: made once, when somebody first asks.
pub(super) async fn of(now: &Snapshot, model: &Loaded) -> Result<Arc<Plot>, Trouble> {
    model.plot.get_or_try_init(|| async { made(now, model).await.map(Arc::new) }).await.cloned()
}

async fn made(now: &Snapshot, model: &Loaded) -> Result<Plot, Trouble> {
    let (mut names, mut vectors) = (Vec::new(), Vec::new());
    for (country, gallery) in model.searcher.galleries().iter().enumerate() {
        let wanted = |id: &str| is_sampled(id, MOST_VECTORS, now.index.total);
        let visit = |id: &str, vector: Vec<f32>| {
            names.push((country, id.to_owned()));
            vectors.push(vector);
        };
        gallery.each_vector(wanted, visit).await.map_err(trouble)?;
    }
    let (plane, places) = tokio::task::block_in_place(|| {
        let step = vectors.len().div_ceil(FITTED).max(1);
        let fitted: Vec<Vec<f32>> = vectors.iter().step_by(step).cloned().collect();
        let plane = Plane::through(&fitted);
        let places: Vec<[f32; 2]> = vectors.iter().map(|vector| plane.place(vector)).collect();
        (plane, places)
    });
    let places: BTreeMap<(usize, String), [f32; 2]> = names.into_iter().zip(places).collect();
    Ok(Plot { model: model.shown.name.clone(), shares: plane.shares, points: now.index.at(&places) })
}

//! Images in the space of a model.

use std::collections::BTreeMap;
use std::sync::Arc;

use atlas::{Layout, Plot, Trouble};
use plane::Plane;
use tokio::sync::Mutex;

use super::catalogue::is_sampled;
use super::plots::Errors;
use super::snapshot::{Loaded, Snapshot};
use super::{Now, trouble};

/// Vectors that are held at once; at 768 numbers each, 60 MB.
const MOST_VECTORS: u64 = 20_000;
/// Those of a layout by neighbours: each is compared with all others.
const MOST_NEIGHBOURS: u64 = 10_000;
/// Vectors that the plane is laid through.
const FITTED: usize = 4000;

/// Layouts are computed one after the other, whichever model they are of.
static ONE: Mutex<()> = Mutex::const_new(());

/// A plot of a model. It is finished even if nobody waits for it any more: whoever asks again finds it, or waits for the
/// same one.
pub(super) async fn of(now: &Now, model: Option<&str>, layout: Layout) -> Result<Arc<Plot>, Trouble> {
    let digest = now.model(model)?.searcher.model().digest.clone();
    let now = now.clone();
    let made = tokio::spawn(async move {
        let model = now.models.iter().find(|loaded| loaded.searcher.model().digest == digest);
        let model = model.ok_or_else(|| Trouble::Broken("the model is gone".into()))?;
        let plot = match layout {
            Layout::Variance => &model.plots.by_variance,
            Layout::Neighbours => &model.plots.by_neighbours,
        };
        plot.get_or_try_init(|| async { made(&now, model, layout).await.map(Arc::new) }).await.cloned()
    });
    made.await.map_err(|error| Trouble::Broken(error.to_string()))?
}

async fn made(now: &Snapshot, model: &Loaded, layout: Layout) -> Result<Plot, Trouble> {
    let _one = ONE.lock().await;
    let most = match layout {
        Layout::Variance => MOST_VECTORS,
        Layout::Neighbours => MOST_NEIGHBOURS,
    };
    let (mut names, mut vectors) = (Vec::new(), Vec::new());
    for (country, gallery) in model.searcher.galleries().iter().enumerate() {
        let wanted = |id: &str| is_sampled(id, most, now.catalogue.total);
        let visit = |id: &str, vector: Vec<f32>| {
            names.push((country, id.to_owned()));
            vectors.push(vector);
        };
        gallery.each_vector(wanted, visit).await.map_err(trouble)?;
    }
    // a thread that answers nobody
    let laid = tokio::task::spawn_blocking(move || laid(&vectors, layout)).await;
    let (places, shares) = laid.map_err(|error| Trouble::Broken(error.to_string()))??;
    let placed = names.into_iter().zip(places).filter_map(|(name, place)| Some((name, place?)));
    let points = now.catalogue.at(&placed.collect::<BTreeMap<_, _>>());
    let errors = model.plots.errors.get_or_try_init(|| Errors::of(now, model)).await?;
    let (errors, error) = (Errors::names(), errors.column(&points));
    let unmeasured = model.plots.errors.get().map(|errors| errors.unmeasured.clone()).unwrap_or_default();
    Ok(Plot { model: model.shown.name.clone(), shares, points, errors, error, unmeasured })
}

/// Where the vectors lie, and the shares of the variance where these mean something.
type Laid = (Vec<Option<[f32; 2]>>, Option<[f64; 2]>);

fn laid(vectors: &[Vec<f32>], layout: Layout) -> Result<Laid, Trouble> {
    let step = vectors.len().div_ceil(FITTED).max(1);
    let fitted: Vec<Vec<f32>> = vectors.iter().step_by(step).cloned().collect();
    let plane = Plane::through(&fitted);
    let places: Vec<[f32; 2]> = vectors.iter().map(|vector| plane.place(vector)).collect();
    match layout {
        Layout::Variance => Ok((places.into_iter().map(Some).collect(), Some(plane.shares))),
        Layout::Neighbours => {
            let points = plane::neighbours(vectors, &places);
            Ok((points.map_err(|error| Trouble::Broken(error.to_string()))?, None))
        }
    }
}

//! `urbancross search`: images of finished builds that fit a text or a picture.

mod model;
mod vectors;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use manifests::Artifact;
use manifests::weights::Weights;
use manifests::words::count;
use serde::Serialize;
use stages::search::{QueryEncoder, Top};
use stages::stage::StageContext;
use workers::WorkerError;
use workers::search::index::Index;
use workers::search::{Filter, Found, Gallery, VectorFile, scan};

use crate::build::Build;
use crate::page::pictures::thumbnails;
use crate::progress::Progress;

pub use model::{Adapted, SearchModel};
pub(crate) use vectors::keep_vectors;

/// More answers than anybody looks at.
pub const MOST_FOUND: usize = 1000;

/// Files of vectors that are copied to this machine together take at least so much.
const INDEXED_BYTES: u64 = 256 << 20;

/// What is searched for.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Query {
    /// What the pictures show.
    Text(String),
    /// A picture from elsewhere: what it is called, and its bytes.
    Picture {
        /// Its path, say.
        name: String,
        /// As in its file.
        #[serde(skip)]
        bytes: Vec<u8>,
    },
    /// An image of the builds, by its id. It is not among the answers.
    Like(String),
    /// The same of one country: ids are of a source, and another one may have it, too.
    LikeIn {
        /// The country.
        country: String,
        /// Its id there.
        id: String,
    },
}

/// When vectors are copied to this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Indexing {
    /// If there are very many.
    Auto,
    /// However few there are.
    Always,
    /// Never: the tables are read.
    Never,
}

/// A search.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// What is searched for.
    pub query: Query,
    /// Which images are looked at.
    pub filter: Filter,
    /// Countries that are looked at; none: all that are open.
    pub countries: Vec<String>,
    /// Answers at most.
    pub most: usize,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// What was searched for.
    pub query: Query,
    /// Whose model it was searched with.
    pub model: String,
    /// Digest of that model.
    pub model_digest: String,
    /// Whether texts about images were searched by a sentence encoder, not pictures.
    pub by_text: bool,
    /// Images that were compared with the query.
    pub compared: u64,
    /// Images that were not, because the model of this spec has not embedded them yet.
    pub outdated: u64,
    /// Tables that changed since the model was adapted, such as `captions of finland`; none for a model of a build.
    pub changed_since: Vec<String>,
    /// Best first; of equal scores the lesser id is first.
    pub found: Vec<Found>,
}

/// Builds that can be searched with one model. Searches may be made side by side.
pub struct Searcher<B> {
    model: SearchModel,
    builds: Vec<B>,
    galleries: Vec<Arc<Gallery>>,
    encoder: OnceLock<Arc<QueryEncoder>>,
}

impl<B: Deref<Target = Build>> Searcher<B> {
    /// Opens builds for searches with a model. Vectors by it that are not there yet are made.
    ///
    /// # Errors
    /// [`WorkerError::Configuration`] for builds that are not finished, [`WorkerError::Stopped`]; tables or a store that
    /// cannot be read.
    pub async fn open(
        model: SearchModel,
        builds: impl IntoIterator<Item = B>,
        progress: &Progress,
    ) -> Result<Self, WorkerError> {
        let builds: Vec<B> = builds.into_iter().collect();
        let mut galleries = Vec::with_capacity(builds.len());
        for build in &builds {
            galleries.push(Arc::new(match model.sentences {
                None => vectors::gallery(&model, build, progress).await?,
                Some(_) => vectors::gallery_of_texts(&model, build).await?,
            }));
        }
        Ok(Self { model, builds, galleries, encoder: OnceLock::new() })
    }

    /// Opens a build with its vectors as they were at a version of `image_embeddings`, and the model that made them. Places,
    /// tags, captions and pictures are those of now.
    ///
    /// # Errors
    /// [`WorkerError::Missing`] for a version that is not there, [`WorkerError::Configuration`] for one whose files or
    /// model were cleared away; otherwise as [`open`](Self::open).
    pub async fn open_at(build: B, version: u64) -> Result<Self, WorkerError> {
        let (model, gallery) = vectors::gallery_at(&build, version).await?;
        Ok(Self { model, galleries: vec![Arc::new(gallery)], builds: vec![build], encoder: OnceLock::new() })
    }

    /// Copies vectors into the index of this machine, so that searches take a fraction of the time; answers are the same.
    pub async fn index(&mut self, when: Indexing, progress: &Progress) {
        if self.model.sentences.is_some() {
            // copies hold one vector for each image
            return;
        }
        for gallery in &mut self.galleries {
            let bytes: u64 = gallery.vectors.iter().map(VectorFile::size_bytes).sum();
            if when == Indexing::Never || (when == Indexing::Auto && bytes < INDEXED_BYTES) {
                continue;
            }
            let announce = |files: usize| {
                let what = count(files, "file of vectors");
                progress
                    .note(&format!("{}: copying {what} to this machine, for this and later searches", gallery.country));
            };
            let index = Index::open(gallery, announce).await;
            *gallery = Arc::new(Gallery { index: Arc::new(index), ..gallery.as_ref().clone() });
        }
    }

    /// Countries that can be searched.
    pub fn countries(&self) -> impl Iterator<Item = &str> {
        self.galleries.iter().map(|gallery| gallery.country.as_str())
    }

    /// Searches. The answers are those of a comparison with everything: exact.
    ///
    /// # Errors
    /// [`WorkerError::Configuration`] for what cannot be searched for, with what can; tables or a store that cannot be
    /// read.
    pub async fn search(&self, question: &Question) -> Result<Answer, WorkerError> {
        let galleries = self.chosen(&question.countries)?;
        let (query, own) = self.vector(&question.query).await?;
        let without = |gallery: &Gallery| match &own {
            Some((country, id)) if *country == gallery.country => Some(id.clone()),
            _ => question.filter.without.clone(),
        };
        let most = question.most.min(MOST_FOUND);
        // several stores may hold an image of a country: there is room for all of these, and the best is the answer
        let mut top: Top<usize> = Top::new(most * galleries.len());
        let (mut compared, mut outdated) = (0, 0);
        // of equals the last that is offered stands first: that of the build that was named first
        for (at, gallery) in galleries.iter().enumerate().rev() {
            let filter = Filter { without: without(gallery), ..question.filter.clone() };
            let scanned = scan(gallery, &query, &filter, most).await?;
            compared += scanned.compared;
            outdated += scanned.outdated;
            for hit in scanned.top.into_sorted() {
                top.offer(hit.score, &hit.id, || at);
            }
        }
        if compared == 0 && outdated > 0 {
            return Err(WorkerError::Configuration(format!(
                "none of the images has a vector by the model of {} that its spec names: run its build to its end \
                 (`urbancross run` with its spec)",
                self.model.name
            )));
        }
        let (mut hits, mut seen) = (top.into_sorted(), BTreeSet::new());
        hits.retain(|hit| seen.insert((galleries.get(hit.of).map(|gallery| &gallery.country), hit.id.clone())));
        hits.truncate(most);
        let mut known: Vec<BTreeMap<String, Found>> = Vec::with_capacity(galleries.len());
        for (at, gallery) in galleries.iter().enumerate() {
            let ids: Vec<&str> = hits.iter().filter(|hit| hit.of == at).map(|hit| hit.id.as_str()).collect();
            let described = gallery.describe(&ids).await?.into_iter();
            known.push(described.map(|found| (found.image_id.clone(), found)).collect());
        }
        let ranked = hits.into_iter().zip(1..).filter_map(|(hit, rank)| {
            let found = known.get_mut(hit.of)?.remove(&hit.id)?;
            Some(Found { rank, score: hit.score, ..found })
        });
        Ok(Answer {
            query: question.query.clone(),
            model: self.model.name.clone(),
            model_digest: self.model.digest.clone(),
            by_text: self.model.sentences.is_some(),
            compared,
            outdated,
            changed_since: self.model.changed_since.clone(),
            found: ranked.collect(),
        })
    }

    fn chosen(&self, countries: &[String]) -> Result<Vec<Arc<Gallery>>, WorkerError> {
        if let Some(unknown) = countries.iter().find(|wanted| !self.countries().any(|known| known == *wanted)) {
            let known: Vec<&str> = self.countries().collect();
            return Err(WorkerError::Configuration(format!(
                "{unknown:?} is not among what is searched ({}); name its spec with --also",
                known.join(", ")
            )));
        }
        let is_chosen = |gallery: &&Arc<Gallery>| countries.is_empty() || countries.contains(&gallery.country);
        Ok(self.galleries.iter().filter(is_chosen).cloned().collect())
    }

    /// The vector of a query; of one that is an image of the builds, also its country and id.
    async fn vector(&self, query: &Query) -> Result<(Vec<f32>, Option<(String, String)>), WorkerError> {
        let (image_id, country) = match query {
            Query::Like(image_id) => (image_id, None),
            Query::LikeIn { country, id } => (id, Some(country.as_str())),
            Query::Text(text) => {
                let encoder = self.encoder()?;
                return Ok((on_its_own_thread(|| Ok(encoder.text(text)?))?, None));
            }
            Query::Picture { name, bytes } => {
                let encoder = self.encoder()?;
                return Ok((on_its_own_thread(|| Ok(encoder.picture(name, bytes.clone())?))?, None));
            }
        };
        let (vector, country) = self.vector_of(image_id, country).await?;
        Ok((vector, Some((country, image_id.clone()))))
    }

    /// The vector of an image, and the country that has it: the first one, if none is said.
    async fn vector_of(&self, image_id: &str, country: Option<&str>) -> Result<(Vec<f32>, String), WorkerError> {
        let meant = || self.galleries.iter().filter(|gallery| country.is_none_or(|country| country == gallery.country));
        for gallery in meant() {
            if let Some(vector) = gallery.vector_of(image_id).await? {
                return Ok((vector, gallery.country.clone()));
            }
        }
        for gallery in meant() {
            if let Some(why) = gallery.trouble_with(image_id).await? {
                return Err(WorkerError::Configuration(format!(
                    "image {image_id} of {} has no vector: {why}",
                    gallery.country
                )));
            }
        }
        let some = match self.galleries.first() {
            Some(gallery) => gallery.some_image().await?,
            None => None,
        };
        let countries: Vec<&str> = self.countries().collect();
        Err(WorkerError::Configuration(format!(
            "there is no image {image_id:?} in {}{}; `urbancross search` by a text lists ids",
            countries.join(", "),
            some.map_or(String::new(), |some| format!(" (there is {some}, for one)"))
        )))
    }

    /// The model, loaded when it is first needed; for another searcher with the same one.
    ///
    /// # Errors
    /// [`WorkerError::Configuration`] for files that are no model, or a device that is not there.
    pub fn encoder(&self) -> Result<&Arc<QueryEncoder>, WorkerError> {
        if let Some(encoder) = self.encoder.get() {
            return Ok(encoder);
        }
        let model = &self.model;
        let encoder = on_its_own_thread(|| {
            let none = Weights::default();
            let context = StageContext {
                spec: &model.spec,
                device: stages::device::devices("search", &model.spec)?[0],
                model_folder: Some(model.folder.clone()),
                weights: model.sentences.as_ref().unwrap_or(&none),
                server: None,
                stop: Arc::default(),
            };
            Ok(match model.sentences {
                None => QueryEncoder::open(&context)?,
                Some(_) => QueryEncoder::open_sentences(&context)?,
            })
        })?;
        Ok(self.encoder.get_or_init(|| Arc::new(encoder)))
    }

    /// Takes a model that another searcher has loaded, if it is this one's.
    pub(crate) fn take_encoder(&self, of: &SearchModel, encoder: Arc<QueryEncoder>) {
        if of.digest == self.model.digest {
            // whoever was faster has loaded the same
            let _ = self.encoder.set(encoder);
        }
    }

    /// The model.
    pub(crate) fn model(&self) -> &SearchModel {
        &self.model
    }

    /// Images of the builds, with their vectors.
    pub(crate) fn galleries(&self) -> &[Arc<Gallery>] {
        &self.galleries
    }

    /// Small pictures of what was found, by country and id; JPEG.
    ///
    /// # Errors
    /// [`WorkerError::Broken`] for images that cannot be read; a store that does not answer.
    pub async fn pictures(&self, found: &[Found]) -> Result<BTreeMap<(String, String), Vec<u8>>, WorkerError> {
        let mut pictures = BTreeMap::new();
        for build in &self.builds {
            let country = &build.spec.country;
            let ids: BTreeSet<String> =
                found.iter().filter(|found| found.country == *country).map(|found| found.image_id.clone()).collect();
            for (id, picture) in thumbnails(build, &ids).await? {
                pictures.insert((country.clone(), id), picture);
            }
        }
        Ok(pictures)
    }

    /// A small picture of an image of the builds; JPEG.
    ///
    /// # Errors
    /// As [`pictures`](Self::pictures).
    pub async fn picture_of(&self, image_id: &str) -> Result<Option<Vec<u8>>, WorkerError> {
        for build in &self.builds {
            if let Some(picture) = thumbnails(build, &BTreeSet::from([image_id.to_owned()])).await?.remove(image_id) {
                return Ok(Some(picture));
            }
        }
        Ok(None)
    }
}

/// Networks compute on a thread of their own: those of the runtime serve the stores.
fn on_its_own_thread<T: Send>(compute: impl FnOnce() -> Result<T, WorkerError> + Send) -> Result<T, WorkerError> {
    let done = tokio::task::block_in_place(|| std::thread::scope(|scope| scope.spawn(compute).join()));
    done.map_err(|_| WorkerError::Panicked("the search failed; its message is above".into()))?
}

/// Tables of what is known of images.
const KNOWN: [Artifact; 4] = [Artifact::Geotags, Artifact::Splits, Artifact::Captions, Artifact::Images];

//! `urbancross serve`: finished builds as web pages. Answers what the pages of `atlas` ask, from the tables.

mod catalogue;
mod desk;
mod details;
mod edits;
mod errors;
mod models;
mod plot;
mod plots;
mod snapshot;
mod state;
mod thumbnails;
mod watch;

use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use atlas::{About, Answer, Atlas, Image, ImageName, Layout, Narrowed, Plot, Points, Query, Question, Size, Trouble};
use workers::WorkerError;
use workers::search::{Filter, Rectangle, Tag};

use crate::search;
use snapshot::Snapshot;

pub use desk::StoreDesk;
pub use models::Specs;
pub use watch::Served;

/// What readers are told where tables and stores are read: no reader can mend these, whatever is wrong with them, and nothing
/// of stores and paths.
fn trouble(error: WorkerError) -> Trouble {
    Trouble::Broken(error.to_string())
}

/// The same where it is judged what a reader has asked: they are told what they can mend themselves.
fn refusal(error: WorkerError) -> Trouble {
    match error {
        WorkerError::Configuration(why) => Trouble::Refused(why),
        other => trouble(other),
    }
}

fn no_such_image(image: &ImageName) -> Trouble {
    Trouble::NotThere(format!("there is no image {:?} in {:?}", image.id, image.country))
}

fn filter(narrowed: Narrowed) -> (Filter, Vec<String>) {
    let filter = Filter {
        near: None,
        within: narrowed.within.map(|bounds| Rectangle {
            west: bounds.west,
            south: bounds.south,
            east: bounds.east,
            north: bounds.north,
        }),
        years: narrowed.years.map(|(from, to)| from..=to),
        gsd_meters: narrowed.gsd_meters.map(|(least, most)| least..=most),
        split: narrowed.split,
        tags: narrowed.tags.into_iter().map(|(key, value)| Tag { key, value }).collect(),
        without: None,
    };
    (filter, narrowed.country.into_iter().collect())
}

#[async_trait]
impl Atlas for Served {
    async fn about(&self) -> Result<About, Trouble> {
        let now = self.now();
        let countries = now.builds.iter().map(|build| build.spec.country.clone()).collect();
        let models = now.models.iter().map(|model| model.shown.clone()).collect();
        Ok(About { models, countries, ..now.catalogue.about.clone() })
    }

    async fn search(&self, question: Question) -> Result<Answer, Trouble> {
        let now = self.now();
        let searcher = &now.model(question.model.as_deref())?.searcher;
        let (filter, countries) = filter(question.narrowed);
        countries.iter().try_for_each(|country| now.check_country(country))?;
        filter.split.iter().try_for_each(|split| now.check_split(split))?;
        let query = match question.query {
            Query::Text(text) => search::Query::Text(text),
            Query::Picture(bytes) => search::Query::Picture { name: "the picture".into(), bytes: checked(bytes)? },
            Query::Like(image) => {
                now.build(&image)?;
                search::Query::LikeIn { country: image.country, id: image.id }
            }
        };
        let question = search::Question { query, filter, countries, most: question.most };
        let answer = searcher.search(&question).await.map_err(refusal)?;
        let warnings = crate::page::search::warnings(&answer);
        let note = (!warnings.is_empty()).then(|| warnings.join(" · "));
        let found = answer.found.into_iter().map(details::found).collect();
        Ok(Answer { model: now.model_name(&answer.model_digest), compared: answer.compared, note, found })
    }

    async fn picture(&self, image: ImageName, size: Size) -> Result<Vec<u8>, Trouble> {
        let now = self.now();
        let build = now.build(&image)?.clone();
        match size {
            Size::Full => details::picture(&build, &image).await,
            Size::Thumbnail => self.thumbnails.of(&now, &build, &image).await,
        }
    }

    async fn image(&self, image: ImageName) -> Result<Image, Trouble> {
        let now = self.now();
        let build = now.build(&image)?;
        details::image(&now, build, &image).await
    }

    async fn points(&self) -> Result<Arc<Points>, Trouble> {
        Ok(self.now().catalogue.on_a_map.clone())
    }

    async fn plot(&self, model: String, layout: Layout) -> Result<Arc<Plot>, Trouble> {
        plot::of(&self.now(), Some(model.as_str()).filter(|id| !id.is_empty()), layout).await
    }

    async fn borders(&self) -> Result<Arc<Lines>, Trouble> {
        static BORDERS: LazyLock<Result<Arc<Lines>, String>> =
            LazyLock::new(|| sources::borders::borders().map(Arc::new).map_err(|error| error.to_string()));
        BORDERS.clone().map_err(Trouble::Broken)
    }
}

/// Lines of degrees east and north.
type Lines = Vec<Vec<[f32; 2]>>;

/// Uploads are nobody's rows: what no picture for a search needs is refused by its header, before anything is decoded.
fn checked(bytes: Vec<u8>) -> Result<Vec<u8>, Trouble> {
    /// A large photograph; as pixels, 75 MB.
    const MOST_PIXELS: u64 = 25_000_000;
    let (width, height) =
        pixels::dimensions(&bytes).map_err(|error| Trouble::Refused(format!("the picture: {error}")))?;
    let count = u64::from(width) * u64::from(height);
    if count > MOST_PIXELS {
        let why = format!("the picture has {count} pixels; {MOST_PIXELS} are the most: make it smaller");
        return Err(Trouble::Refused(why));
    }
    Ok(bytes)
}

/// What answers share, until a table has a new version.
type Now = Arc<Snapshot>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_hear_nothing_of_stores() {
        let broken = || WorkerError::Missing { what: "a part", path: "s3://secret/part".into() };
        let changed = WorkerError::Configuration("move the folder s3://secret/tables/captions away".into());
        for told in [trouble(broken()), refusal(broken()), trouble(changed)] {
            assert!(!told.to_string().contains("secret"), "{told}");
        }
        let refused = refusal(WorkerError::Configuration("the text is too long".into()));
        assert_eq!(refused, Trouble::Refused("the text is too long".into()));
    }

    #[test]
    fn pictures_are_refused_by_their_header() {
        let rgb = pixels::Rgb::new(2, 2, vec![9; 12]).unwrap();
        let mut png = pixels::encode_png(&rgb);
        assert!(checked(png.clone()).is_ok());
        // a header that says 65536 by 65536
        png[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
        assert!(matches!(checked(png), Err(Trouble::Refused(_))));
        assert!(matches!(checked(b"GIF89a".to_vec()), Err(Trouble::Refused(_))));
    }
}

//! Which rows a refresh changes, and the commit of them.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use manifests::shard_of;
use manifests::words::count;
use osm::{Moment, State};
use stages::tag_refreshes::{ImageTags, Origin, Refreshed};

use super::boxes::Known;
use super::record::Base;
use super::{Found, MOST_EXAMPLES, Refresher, Refreshment, rows};
use crate::error::WorkerError;

/// A row to be written; one that is not changed keeps its tags.
pub(super) struct Write {
    pub(super) number: u32,
    pub(super) is_changed: bool,
}

impl Refresher<'_> {
    /// What an image shows, of what matters; within: `None`: what it was taken for is gone.
    pub(super) fn tags_of(&self, state: &State, number: u32) -> Option<Option<ImageTags>> {
        let answer = state.answer(number, &|key| self.osm().ignores(key))?;
        let surrounding = answer.surrounding;
        Some(answer.center.map(|center| ImageTags { center, surrounding }))
    }

    /// Counts what is others than before, and says which rows have to be written for it.
    pub(super) fn judge(&self, known: &Known, found: &mut Found) -> BTreeMap<u32, Vec<Write>> {
        let Found { state, numbers, lost, done, .. } = found;
        let mut writes: BTreeMap<u32, Vec<Write>> = BTreeMap::new();
        // an image with another box than the state's shows something else: an extract tells it
        let in_state = state.boxes().all();
        let is_same = |at: u32, number: u32| known.images.rect(at) == in_state.rect(number);
        let mut finder = known.images.finder();
        for number in std::mem::take(numbers) {
            let Some(image_id) = in_state.image_id(number) else { continue };
            let Some(at) = finder.find(image_id).filter(|at| is_same(*at, number)) else { continue };
            let Some(before) = known.before.get(at as usize) else { continue };
            if state.is_named(number) {
                continue;
            }
            let Some(tags) = self.tags_of(state, number) else { continue };
            done.looked_at += 1;
            let is_changed = before.differs(tags.as_ref());
            if is_changed {
                done.changed += 1;
                done.gone += usize::from(tags.is_none());
                done.back += usize::from(before.is_gone && tags.is_some());
                if done.examples.len() < MOST_EXAMPLES {
                    done.examples.push(image_id.to_owned());
                }
            }
            // what was never refreshed gets a row that says where its tags come from
            if is_changed || !before.is_refreshed {
                let shard = shard_of(image_id, self.spec.work.shards);
                writes.entry(shard).or_default().push(Write { number, is_changed });
            }
        }
        // one that is left out and whose box the state lacks would stay so for good: without its row the next run brings
        // it back, and the next extract judges it
        let left_out = (0..).zip(&known.before).filter(|(_, before)| before.is_gone && before.is_refreshed);
        let boxed = left_out.filter_map(|(at, _)| known.images.image_id(at));
        let outside = boxed.filter(|id| in_state.number_of(id).is_none());
        for image_id in outside.chain(known.boxless.iter().map(String::as_str)) {
            done.changed += 1;
            done.unjudged += 1;
            if done.examples.len() < MOST_EXAMPLES {
                done.examples.push(image_id.to_owned());
            }
            writes.entry(shard_of(image_id, self.spec.work.shards)).or_default();
            lost.insert(image_id.to_owned());
        }
        done.images += known.boxless.len();
        let named = state.missing().filter(|(id, _)| {
            let numbers = known.images.number_of(id).zip(in_state.number_of(id));
            numbers.is_some_and(|(at, number)| is_same(at, number))
        });
        for (at, (id, why)) in named.enumerate() {
            done.unclear += 1;
            if at < MOST_EXAMPLES {
                done.unclear_examples.push(format!("{id}: {why}"));
            }
        }
        done.moment = state.moment();
        writes
    }

    pub(super) async fn write(
        &self,
        base: &Base,
        known: &Known,
        mut found: Found,
        accept_share: Option<f64>,
    ) -> Result<Refreshment, WorkerError> {
        let writes = self.judge(known, &mut found);
        let Found { state, origin, mut done, lost, .. } = found;
        let accept_share = accept_share.unwrap_or(self.osm().accept_share);
        let origin = Origin {
            kind: origin.to_owned(),
            sequence: state.sequence.and_then(|sequence| i64::try_from(sequence).ok()),
            moment: state.timestamp.map(|at| Moment(at).to_string()),
        };
        let share = done.changed as f64 / done.images.max(1) as f64;
        if share > accept_share {
            let first = match base.pinned.parts.is_empty() {
                true => " (the first extract may well differ from what came with the images)",
                false => "",
            };
            let whole = match (origin.kind.as_str(), done.gone) {
                ("extract", 1..) => {
                    ". Look first whether the file is whole: a .osm.pbf does not say where it ends, so one that was cut between \
                     two blocks reads like one of a smaller country; compare its size, or the checksum beside it, with its \
                     publisher's"
                }
                _ => "",
            };
            return Err(WorkerError::Configuration(format!(
                "{} of {} would have other tags (such as {}), of which {} would be left out as no longer in OpenStreetMap: \
                 that is more than source.osm.accept_share = {accept_share}. If that is right{first}, accept it with \
                 --accept-share {}{whole}",
                done.changed,
                count(done.images, "image"),
                done.examples.join(", "),
                done.gone,
                (share * 100.0).ceil().min(100.0) / 100.0,
            )));
        }
        let bytes = state.to_bytes();
        done.state_bytes = bytes.len() as u64;
        if self.stop.load(Ordering::Relaxed) && !done.stopped {
            return Err(WorkerError::Stopped);
        }
        let mut replacements = Vec::with_capacity(writes.len());
        for (shard, writes) in writes {
            let mut changed: BTreeMap<String, Option<Refreshed>> = BTreeMap::new();
            for Write { number, is_changed } in writes {
                let Some(image_id) = state.boxes().all().image_id(number) else { continue };
                let tags = self.tags_of(&state, number).flatten();
                // one that is left out has no tags to keep: its row may be lost
                let row = (is_changed || tags.is_none()).then(|| Refreshed { tags, origin: origin.clone() });
                changed.insert(image_id.to_owned(), row);
            }
            let shard = rows::Shard { work: self.work, country: &self.spec.country, shard };
            replacements.push(shard.write(base, known, changed, &lost, &origin).await?);
        }
        done.written = base.commit(self.work, self.tables, &state, bytes, replacements).await?;
        if let Some(first) = known.boxless.first() {
            (self.say)(&format!(
                "warning: the next run brings back {} of {} that had been left out and whose box is no longer known \
                 (such as {first}): after it let an extract judge, `urbancross tags refresh SPEC --osm FILE`",
                count(known.boxless.len(), "image"),
                self.spec.country
            ));
        }
        Ok(done)
    }
}

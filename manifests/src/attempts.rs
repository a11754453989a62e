//! Attempts of workers on one shard of a plan, as the names of the objects beside its marker tell them.
//!
//! A worker that takes a shard claims it under the next *epoch*, put if absent, and writes a *beat* again and again while
//! it works. An attempt ends with the shard's marker, or with an object that says how else; one whose beat has grown old
//! was lost with its worker. All of it is a hint: who takes a shard that another computes costs work, never rows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Lost or failed attempts after which a shard is closed as failed: what kills each of its workers, as one that takes
/// more memory than there is, must not go round for ever.
pub const MOST_ATTEMPTS: usize = 5;

/// Attempts that failed for good, by two workers if there are two, after which a shard is closed as failed.
const MOST_PERMANENT: usize = 2;

/// How an attempt ended without having finished its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Its worker gave the shard back: it was asked to stop, or could not go on for a reason that is not the shard's.
    Released,
    /// Its worker broke down over it: another try may help.
    Transient,
    /// The shard's rows cannot be made as they are.
    Permanent,
}

/// What an object beside a marker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Object {
    /// The shard's work is done.
    Marker,
    /// A part that a stopped worker left.
    Partial,
    /// Nobody works on the shard any more until somebody asks for it.
    Failed,
    /// A worker found that what the plan was made on is there no longer. Its key is that of the plan, not of a shard.
    Withdrawn,
    /// An attempt began.
    Claim(u32),
    /// It was alive at the time of this object.
    Beat(u32),
    /// It ended.
    End(u32, End),
}

/// More attempts than anybody makes on a shard: names with greater numbers are somebody else's.
const MOST_EPOCHS: u32 = 1_000_000;

impl Object {
    /// Key of a shard, or of a plan, and what its object is, from the object's name; `None`: no name that we give.
    pub fn of_name(name: &str) -> Option<(&str, Object)> {
        let (key, rest) = name.strip_suffix(".json")?.split_once('.').unwrap_or((name.strip_suffix(".json")?, ""));
        let object = match rest {
            "" => Object::Marker,
            "partial" => Object::Partial,
            "failed" => Object::Failed,
            "withdrawn" => Object::Withdrawn,
            _ => {
                let (epoch, kind) = rest.split_once('.')?;
                let epoch = epoch.parse().ok().filter(|epoch| *epoch <= MOST_EPOCHS)?;
                match kind {
                    "claim" => Object::Claim(epoch),
                    "beat" => Object::Beat(epoch),
                    "released" => Object::End(epoch, End::Released),
                    "transient" => Object::End(epoch, End::Transient),
                    "permanent" => Object::End(epoch, End::Permanent),
                    _ => return None,
                }
            }
        };
        Some((key, object))
    }

    /// The name of a shard's object, below the folder of its stage's markers.
    pub fn name(self, key: &str) -> String {
        match self {
            Object::Marker => format!("{key}.json"),
            Object::Partial => format!("{key}.partial.json"),
            Object::Failed => format!("{key}.failed.json"),
            Object::Withdrawn => format!("{key}.withdrawn.json"),
            Object::Claim(epoch) => format!("{key}.{epoch:04}.claim.json"),
            Object::Beat(epoch) => format!("{key}.{epoch:04}.beat.json"),
            Object::End(epoch, End::Released) => format!("{key}.{epoch:04}.released.json"),
            Object::End(epoch, End::Transient) => format!("{key}.{epoch:04}.transient.json"),
            Object::End(epoch, End::Permanent) => format!("{key}.{epoch:04}.permanent.json"),
        }
    }
}

/// One attempt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Attempt {
    /// When it was alive last, in milliseconds of the store's clock.
    alive_millis: i64,
    end: Option<End>,
}

/// All attempts on a shard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attempts {
    by_epoch: BTreeMap<u32, Attempt>,
    done: bool,
    failed: bool,
    /// When a stopped or killed worker last left rows of the shard.
    partial_millis: Option<i64>,
    /// First and last time of an object.
    span_millis: Option<(i64, i64)>,
}

/// What is to be done about a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShardTurn {
    /// A marker says that its part is written.
    Done,
    /// It is closed as failed.
    Failed,
    /// Somebody works on it.
    Running {
        /// Since when its worker has not been heard of, in milliseconds.
        silent_millis: i64,
    },
    /// Whoever claims this epoch has it.
    Open {
        /// The next one.
        epoch: u32,
    },
    /// Too many attempts have failed: whoever sees it closes it.
    Poisoned,
}

impl ShardTurn {
    /// Is nothing left to do about the shard?
    pub fn is_closed(self) -> bool {
        matches!(self, ShardTurn::Done | ShardTurn::Failed)
    }
}

impl Attempts {
    /// Adds an object, with the time of the store's clock at which it was written.
    pub fn add(&mut self, object: Object, written_millis: i64) {
        let (first, last) = self.span_millis.unwrap_or((written_millis, written_millis));
        self.span_millis = Some((first.min(written_millis), last.max(written_millis)));
        match object {
            Object::Marker => self.done = true,
            Object::Failed => self.failed = true,
            Object::Partial => self.partial_millis = self.partial_millis.max(Some(written_millis)),
            Object::Withdrawn => {}
            Object::Claim(epoch) | Object::Beat(epoch) => {
                let attempt = self.by_epoch.entry(epoch).or_default();
                attempt.alive_millis = attempt.alive_millis.max(written_millis);
            }
            Object::End(epoch, end) => self.by_epoch.entry(epoch).or_default().end = Some(end),
        }
    }

    /// The newest epoch; 0: nobody has tried.
    pub fn epoch(&self) -> u32 {
        self.by_epoch.keys().next_back().copied().unwrap_or(0)
    }

    /// When the newest attempt was heard of last, if nothing says how it ended, in milliseconds of the store's clock.
    pub fn unended_since(&self) -> Option<i64> {
        let (_, last) = self.by_epoch.last_key_value()?;
        last.end.is_none().then_some(last.alive_millis)
    }

    /// When rows of the shard were last put aside, in milliseconds of the store's clock; `None`: none were.
    pub fn put_aside_millis(&self) -> Option<i64> {
        self.partial_millis
    }

    /// Has somebody tried it since a time of the store's clock, and is it neither made nor closed as failed?
    pub fn is_open_since(&self, millis: i64) -> bool {
        let is_tried = !self.by_epoch.is_empty() || self.partial_millis.is_some();
        !self.done && !self.failed && is_tried && self.span_millis.is_some_and(|(_, last)| last >= millis)
    }

    /// When the first and the last object of the shard was written, in milliseconds of the store's clock.
    pub fn span_millis(&self) -> Option<(i64, i64)> {
        self.span_millis
    }

    /// Whose turn it is at a time of the store's clock, where an attempt that was silent for `lease_millis` is lost.
    pub fn turn(&self, now_millis: i64, lease_millis: i64) -> ShardTurn {
        if self.done {
            return ShardTurn::Done;
        }
        if self.failed {
            return ShardTurn::Failed;
        }
        if let Some((_, last)) = self.by_epoch.last_key_value()
            && last.end.is_none()
        {
            let silent_millis = now_millis.saturating_sub(last.alive_millis);
            // a time far in the future says nothing: waiting for it would be waiting for ever
            let is_of_now = silent_millis > lease_millis.saturating_neg();
            if silent_millis < lease_millis && is_of_now {
                return ShardTurn::Running { silent_millis: silent_millis.max(0) };
            }
        }
        // those before the last rows that somebody has left were not in vain
        let in_vain = |attempt: &&Attempt| self.partial_millis.is_none_or(|left| left <= attempt.alive_millis);
        let ended = |end| self.by_epoch.values().filter(move |attempt| attempt.end == end);
        let permanent = ended(Some(End::Permanent)).count();
        let lost = ended(None).chain(ended(Some(End::Transient))).filter(in_vain).count();
        let lost_or_failed = lost + permanent;
        match permanent >= MOST_PERMANENT || lost_or_failed >= MOST_ATTEMPTS {
            true => ShardTurn::Poisoned,
            false => ShardTurn::Open { epoch: self.epoch().saturating_add(1) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: i64 = 60_000;

    fn attempts(objects: &[(Object, i64)]) -> Attempts {
        let mut attempts = Attempts::default();
        objects.iter().for_each(|(object, at)| attempts.add(*object, *at));
        attempts
    }

    #[test]
    fn names_say_what_an_object_is() {
        let ends = [End::Released, End::Transient, End::Permanent].map(|end| Object::End(12, end));
        let of_shards = [Object::Marker, Object::Partial, Object::Failed, Object::Claim(1), Object::Beat(10_000)];
        for object in ends.into_iter().chain(of_shards).chain([Object::Withdrawn]) {
            assert_eq!(Object::of_name(&object.name("0a1b")), Some(("0a1b", object)));
        }
        for other in [
            "0a1b.4294967295.released.json",
            "0a1b.1000001.claim.json",
            "0a1b",
            "0a1b.x.claim.json",
            "0a1b.1.json",
            "0a1b.-1.claim.json",
            "0a1b.0001.later.json",
            ".json.x",
        ] {
            assert_eq!(Object::of_name(other), None, "{other}");
        }
    }

    #[test]
    fn a_shard_is_open_until_somebody_claims_it_and_again_when_that_one_is_silent() {
        assert_eq!(attempts(&[]).turn(0, LEASE), ShardTurn::Open { epoch: 1 });
        let claimed = attempts(&[(Object::Claim(1), 1_000)]);
        assert_eq!(claimed.turn(60_999, LEASE), ShardTurn::Running { silent_millis: 59_999 });
        assert_eq!(claimed.turn(61_000, LEASE), ShardTurn::Open { epoch: 2 });
        let beating = attempts(&[(Object::Claim(1), 1_000), (Object::Beat(1), 50_000)]);
        assert_eq!(beating.turn(61_000, LEASE), ShardTurn::Running { silent_millis: 11_000 });
        // a clock that was set back is no reason to take it
        assert_eq!(beating.turn(0, LEASE), ShardTurn::Running { silent_millis: 0 });
        let of_tomorrow = attempts(&[(Object::Claim(1), 86_400_000)]);
        assert_eq!(of_tomorrow.turn(0, LEASE), ShardTurn::Open { epoch: 2 });
        let given_back = attempts(&[(Object::Claim(1), 1_000), (Object::End(1, End::Released), 2_000)]);
        assert_eq!(given_back.turn(2_000, LEASE), ShardTurn::Open { epoch: 2 });
        // the beat of an attempt that was paused and passed does not bring it back
        let passed = attempts(&[(Object::Claim(1), 0), (Object::Claim(2), 70_000), (Object::Beat(1), 200_000)]);
        assert_eq!(passed.turn(200_000, LEASE), ShardTurn::Open { epoch: 3 });
    }

    #[test]
    fn a_shard_that_kills_its_workers_is_closed_and_one_that_is_given_back_is_not() {
        let lost = |n: u32| (1..=n).map(|epoch| (Object::Claim(epoch), 0)).collect::<Vec<_>>();
        assert_eq!(attempts(&lost(4)).turn(LEASE, LEASE), ShardTurn::Open { epoch: 5 });
        assert_eq!(attempts(&lost(5)).turn(LEASE, LEASE), ShardTurn::Poisoned);
        assert_eq!(attempts(&lost(5)).turn(LEASE - 1, LEASE), ShardTurn::Running { silent_millis: LEASE - 1 });
        let back = (1..=40).flat_map(|e| [(Object::Claim(e), 0), (Object::End(e, End::Released), 0)]);
        assert_eq!(attempts(&back.collect::<Vec<_>>()).turn(0, LEASE), ShardTurn::Open { epoch: 41 });
        let twice: Vec<_> =
            (1..=2).flat_map(|e| [(Object::Claim(e), 0), (Object::End(e, End::Permanent), 0)]).collect();
        assert_eq!(attempts(&twice[..2]).turn(0, LEASE), ShardTurn::Open { epoch: 2 });
        assert_eq!(attempts(&twice).turn(0, LEASE), ShardTurn::Poisoned);
    }

    #[test]
    fn a_shard_whose_workers_are_killed_again_and_again_goes_on_as_long_as_they_leave_rows() {
        let lost = |epochs: std::ops::RangeInclusive<u32>| epochs.map(|epoch| (Object::Claim(epoch), i64::from(epoch)));
        let with = |left: i64| lost(1..=9).chain([(Object::Partial, left)]).collect::<Vec<_>>();
        assert_eq!(attempts(&with(6)).turn(2 * LEASE, LEASE), ShardTurn::Open { epoch: 10 });
        assert_eq!(attempts(&with(5)).turn(2 * LEASE, LEASE), ShardTurn::Poisoned, "five since then");
    }

    #[test]
    fn what_is_closed_stays_closed() {
        let done = attempts(&[(Object::Claim(1), 0), (Object::Marker, 5), (Object::Failed, 6)]);
        assert_eq!(done.turn(LEASE * 9, LEASE), ShardTurn::Done);
        assert_eq!(attempts(&[(Object::Failed, 6)]).turn(LEASE * 9, LEASE), ShardTurn::Failed);
    }
}

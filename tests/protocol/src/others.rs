//! What happens to a store beside its workers: edits of the source, time, `gc`, and people with tools of their own.

use crate::world::{Gc, Id, Live, SHARDS, World};
use crate::{Foreign, Rules, Scenario};

pub fn moves(world: &World, rules: &Rules, scenario: &Scenario) -> Vec<(&'static str, World)> {
    let mut found = Vec::new();
    if usize::from(world.source) < scenario.source.len() {
        let mut next = world.clone();
        next.source += 1;
        next.changed_outside();
        found.push(("the source is edited", next));
    }
    if world.grace_passes {
        let mut next = world.clone();
        next.grace_passes = false;
        next.parts.iter_mut().for_each(|part| part.old = true);
        next.markers.iter_mut().for_each(|marker| marker.old = true);
        found.push(("the grace period passes", next));
    }
    found.extend(collect_garbage(world, rules));
    if world.foreign {
        found.extend(scenario.foreign.iter().flat_map(|&kind| intervene(world, kind)));
    }
    found
}

fn collect_garbage(world: &World, rules: &Rules) -> Option<(&'static str, World)> {
    let mut next = world.clone();
    let what = match world.gc {
        Gc::Ready if rules.fence => {
            next.parts.iter_mut().for_each(|part| part.doomed = part.old || !rules.grace);
            [0, 1].into_iter().for_each(|table| next.log_moved(table));
            next.gc = Gc::Fenced;
            "gc commits its horizon"
        }
        Gc::Ready | Gc::Fenced => {
            for part in &mut next.parts {
                part.condemned = part.exists && if rules.fence { part.doomed } else { part.old || !rules.grace };
            }
            next.gc = Gc::Listed;
            "gc lists files"
        }
        Gc::Listed => {
            let live: Vec<_> = world.live.iter().flatten().flatten().collect();
            let marked: Vec<_> = world.markers.iter().filter(|m| rules.grace && !m.old).map(|m| &m.part).collect();
            for id in live.into_iter().chain(marked) {
                next.parts[usize::from(*id)].condemned = false;
            }
            next.gc = Gc::Judged;
            "gc reads the log"
        }
        Gc::Judged => {
            for part in next.parts.iter_mut().filter(|part| part.condemned) {
                (part.exists, part.condemned) = (false, false);
            }
            next.markers.retain(|marker| !marker.old);
            next.gc = Gc::Over;
            "gc deletes"
        }
        Gc::Over => return None,
    };
    Some((what, next))
}

fn intervene(world: &World, kind: Foreign) -> Vec<(&'static str, World)> {
    let mut base = world.clone();
    base.foreign = false;
    base.changed_outside();
    match kind {
        Foreign::Vacuum => {
            let held = |by: &[Live]| -> Vec<Id> { by.iter().flatten().flatten().copied().collect() };
            let (live, made) = (held(&world.live), held(&world.workers.map(|worker| worker.made)));
            for (id, part) in (0..).zip(&mut base.parts) {
                if part.exists && !live.contains(&id) {
                    (part.exists, part.vacuumed) = (false, made.contains(&id));
                }
            }
            vec![("somebody runs VACUUM without retention", base)]
        }
        Foreign::Delete => (0..2)
            .filter(|&table| world.live[table] != [None; SHARDS])
            .map(|table| {
                let mut next = base.clone();
                next.disturbed = true;
                next.log(table, [None; SHARDS]);
                (["somebody runs DELETE on A", "somebody runs DELETE on B"][table], next)
            })
            .collect(),
        Foreign::Restore => world
            .history
            .iter()
            .filter(|(table, live)| {
                *live != world.live[*table] && live.iter().flatten().all(|&id| world.part(id).exists)
            })
            .map(|&(table, live)| {
                let mut next = base.clone();
                next.disturbed = true;
                next.log(table, live);
                (["somebody runs RESTORE on A", "somebody runs RESTORE on B"][table], next)
            })
            .collect(),
    }
}

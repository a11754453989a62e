//! The protocol holds in all states of these scenarios, and does not if any of its rules is dropped.

use std::time::Instant;

use commit_protocol::search::Violation;
use commit_protocol::{Foreign, Rules, Scenario, search};

const EDIT: Scenario = Scenario::EDIT;
const EMPTIED: Scenario = Scenario { source: &["x", "-"], ..EDIT };
const UNDONE: Scenario = Scenario { source: &["x", "y", "x"], content_returns: true, ..EDIT };
const GC: Scenario = Scenario { gc: true, grace_passes: true, runs: [1, 1], ..EDIT };
const GC_AND_RESUME: Scenario = Scenario { source: &["x"], runs: [1, 2], ..GC };
const VACUUM: Scenario = Scenario { foreign: &[Foreign::Vacuum], ..EDIT };
const DELETE: Scenario = Scenario { foreign: &[Foreign::Delete], content_returns: true, ..EDIT };
const RESTORE: Scenario = Scenario { foreign: &[Foreign::Restore], content_returns: true, ..EDIT };

const GONE: &str = "a live part is gone";
const OLDER: &str = "a live part is of an older source than the one before";
const UNREAD: &str = "a commit removes a part that its plan did not read";
const WRONG: &str = "a worker started after the last change has finished, and the tables are wrong";
const STUCK: &str = "a worker alone does not come to an end";

fn check(name: &str, scenario: Scenario, rules: Rules) -> Option<Violation> {
    let start = Instant::now();
    let outcome = search(&scenario, &rules);
    println!("{name}: {} states in {:.1?}", outcome.states, start.elapsed());
    outcome.violation
}

fn holds(name: &str, scenario: Scenario, rules: Rules) {
    if let Some(violation) = check(name, scenario, rules) {
        panic!("{name}:\n{violation}");
    }
}

fn breaks(name: &str, scenario: Scenario, rules: Rules, what: &str) {
    let violation = check(name, scenario, rules).unwrap_or_else(|| panic!("{name}: nothing went wrong"));
    println!("{violation}\n");
    assert_eq!(violation.what, what, "{name}");
}

#[test]
fn holds_over_edits_kills_and_pauses() {
    holds("an edit", EDIT, Rules::ALL);
    holds("an edit that leaves no rows", EMPTIED, Rules::ALL);
    holds("a lost answer", Scenario { lost_answers: 1, ..EDIT }, Rules::ALL);
    holds("an edit that is undone", UNDONE, Rules::ALL);
}

#[test]
fn holds_for_two_shards_of_which_one_is_overtaken() {
    holds("two shards", Scenario { shards: 2, source: &["xx", "yx", "yy"], ..EDIT }, Rules::ALL);
}

#[test]
fn holds_beside_gc_however_long_a_pause() {
    holds("gc beside an edit", GC, Rules::ALL);
    holds("gc beside a resumed run", GC_AND_RESUME, Rules::ALL);
}

#[test]
fn holds_beside_the_tools_of_others() {
    holds("vacuum", VACUUM, Rules::ALL);
    holds("delete", DELETE, Rules::ALL);
    holds("restore", RESTORE, Rules::ALL);
}

#[test]
fn no_rule_of_a_worker_can_be_dropped() {
    let all = Rules::ALL;
    breaks("reads before it pins", EDIT, Rules { pin_before_reading: false, ..all }, OLDER);
    breaks("does not compare the base", EDIT, Rules { compare_base: false, ..all }, UNREAD);
    breaks("publishes when it is stopped", EDIT, Rules { stop_in_silence: false, ..all }, OLDER);
    breaks("leaves no part for no rows", EMPTIED, Rules { keep_empty_parts: false, ..all }, WRONG);
    breaks("trusts the log for files", VACUUM, Rules { look_behind_bases: false, ..all }, STUCK);
    breaks("trusts markers for files", VACUUM, Rules { look_behind_markers: false, ..all }, GONE);
    breaks("ends with its commit, over an undone edit", UNDONE, Rules { look_again: false, ..all }, WRONG);
    breaks("ends with its commit, over a restore", RESTORE, Rules { look_again: false, ..all }, WRONG);
}

/// The fence makes `gc` safe, the grace period does not: a worker may pause for longer, and a resumed one may take an
/// old part the moment before it goes.
#[test]
fn gc_needs_its_fence_and_not_its_grace() {
    let unfenced = Rules { fence: false, ..Rules::ALL };
    breaks(
        "gc without fence or grace",
        Scenario { grace_passes: false, ..GC },
        Rules { grace: false, ..unfenced },
        GONE,
    );
    breaks("gc with grace alone", GC, unfenced, GONE);
    let hasty = Scenario { grace_passes: false, ..GC_AND_RESUME };
    holds("gc with a fence alone", hasty, Rules { grace: false, ..Rules::ALL });
}

/// What the protocol does not promise; if one of these ends, the text about it can go.
#[test]
fn limits() {
    let killed = Scenario { content_returns: false, ..UNDONE };
    breaks("killed after a commit that was wrong by then", killed, Rules::ALL, WRONG);
    breaks(
        "a restore to what gc is deleting",
        Scenario { gc: true, grace_passes: true, runs: [1, 0], ..RESTORE },
        Rules::ALL,
        GONE,
    );
}

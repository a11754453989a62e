//! The loop knows a network by its trait: one with batch normalisation, and an objective that reads tokens and learns with
//! the towers, train, stop, go on and adapt like CLIP does, on any number of ranks.

use super::*;
use crate::communicator::Solo;
use choices::SegmentTower;

fn tiny(loss: Learnt) -> Plan {
    Plan { network: Network::Tiny, loss, ..plan(Loss::Hinge { margin: 0.2 }) }
}

const INFO_NCE: Learnt = Learnt::Contrast(Loss::InfoNce { label_smoothing: 0.1 });

/// One run with nothing kept, as an error if it is one.
fn alone(plan: &Plan) -> crate::Result<Outcome> {
    train(Tiny::init(1, plan.dtype), plan, &mut Solo, None)
}

fn variable<'a>(outcome: &'a Outcome, name: &str) -> &'a [f64] {
    &outcome.weights.iter().find(|(n, _)| n == name).unwrap().1
}

/// Groups of four rows lie within each of four ranks; those of eight do within two; one of all rows never does.
#[test]
fn groups_are_normalised_alike_on_any_number_of_ranks() {
    for norm_group in [4, 8, 0] {
        for segment_tower in [SegmentTower::Shared, SegmentTower::Separate, SegmentTower::Frozen] {
            let plan = Plan { settings: Settings { norm_group, segment_tower, ..settings() }, ..tiny(INFO_NCE) };
            let reference = run(&plan, 1, None);
            assert_learnt(&reference);
            assert_ne!(variable(&reference, "visual.norm.mean"), [0.0; 5]);
            for world_size in [2, 4] {
                for recompute in [false, true] {
                    let execution = Execution { recompute, ..plan.execution };
                    let outcome = run(&Plan { execution, ..plan.clone() }, world_size, None);
                    let difference = largest_difference(&reference, &outcome);
                    let what = format!("groups of {norm_group}, {segment_tower:?}, {world_size} ranks, {recompute}");
                    assert!(difference < TOLERANCE, "{what}: {difference:e}");
                }
            }
        }
    }
}

/// What is running is folded once a step, in the order of the groups, however the batch is cut and whatever runs twice.
#[test]
fn a_batch_in_whole_groups_equals_the_batch_and_a_cut_group_is_refused() {
    let whole = Plan { settings: Settings { norm_group: 4, ..settings() }, ..tiny(INFO_NCE) };
    let reference = run(&whole, 1, None);
    for (micro_batches, recompute, world_size) in [(1, true, 1), (4, false, 1), (2, true, 1), (2, false, 2)] {
        let execution = Execution { micro_batches, recompute, ..whole.execution };
        let outcome = run(&Plan { execution, ..whole.clone() }, world_size, None);
        let difference = largest_difference(&reference, &outcome);
        assert!(difference < TOLERANCE, "{micro_batches} parts, recompute {recompute}, {world_size}: {difference:e}");
    }
    for (norm_group, micro_batches) in [(4, 8), (0, 2)] {
        let execution = Execution { micro_batches, ..whole.execution };
        let cut = Plan { settings: Settings { norm_group, ..settings() }, execution, ..whole.clone() };
        let message = alone(&cut).err().unwrap().to_string();
        assert!(message.contains("lower micro_batches"), "{message}");
    }
    let uneven = Plan { settings: Settings { norm_group: 5, ..settings() }, ..whole };
    assert!(alone(&uneven).err().unwrap().to_string().contains("norm_group"));
}

/// A tower that no row of any rank has reached stays as it is, on one rank as on several.
#[test]
fn steps_without_any_segment_leave_the_segment_tower_alone() {
    for norm_group in [4, 0] {
        let settings = Settings { norm_group, segment_tower: SegmentTower::Separate, ..settings() };
        let plan = Plan { settings, sparse_segments: true, ..tiny(INFO_NCE) };
        let reference = run(&plan, 1, None);
        for world_size in [2, 4] {
            let difference = largest_difference(&reference, &run(&plan, world_size, None));
            assert!(difference < TOLERANCE, "groups of {norm_group}, {world_size} ranks: {difference:e}");
        }
    }
}

/// A group of which no row could be read is normalised as the network is used: the others do not hear of it.
#[test]
fn a_group_without_a_row_that_counts_takes_the_running_statistics() {
    use models::dual_encoder::{Groups, Pass};
    use models::upload::Upload;
    let network = Tiny::init(1, DType::F64);
    let pixels = global_batch(0, 0).pixels_bhwc;
    let images = network.preprocessing().load(&pixels, &mut Upload::new(&Device::Cpu)).unwrap();
    let of_input = [0, 0, 0, 0, 1, 1, 1, 1];
    let counts = [true, true, true, true, false, false, false, false];
    let groups = Groups::new(of_input.to_vec(), &counts, 2);
    let pass = Pass { groups: Some(&groups), ..Pass::default() };
    let rows = |tensor: &Tensor| tensor.to_vec2::<f64>().unwrap();
    let grouped = rows(&network.image_tower(&images, pass).unwrap().run().unwrap()[0]);
    let used = rows(&network.encode_image(&images).unwrap());
    assert_eq!(grouped[4..], used[4..]);
    assert_ne!(grouped[..4], used[..4]);
}

/// Another group is another network: the comparison above is of something.
#[test]
fn the_group_decides_what_is_learnt() {
    let of = |norm_group| {
        let plan = Plan { settings: Settings { norm_group, ..settings() }, ..tiny(INFO_NCE) };
        variable(&run(&plan, 1, None), "visual.proj").to_vec()
    };
    assert_ne!(of(4), of(0));
    assert_eq!(of(16), of(0));
}

#[test]
fn the_second_network_adapts() {
    let settings =
        adapt::Settings { discriminator_hidden: 16, discriminator_learning_rate: 1e-2, ..adapt::Settings::default() };
    let plan = tiny(Learnt::Adaptation(settings));
    let reference = run(&plan, 1, None);
    assert_learnt(&reference);
    for world_size in [2, 4] {
        let difference = largest_difference(&reference, &run(&plan, world_size, None));
        // a rank's rows of both domains stand together, so that groups of rows are others: here there is one group
        assert!(difference < TOLERANCE, "{world_size} ranks: {difference:e}");
    }
}

#[test]
fn an_objective_with_tokens_and_parameters_learns_alike_on_any_number_of_ranks() {
    let plan = tiny(Learnt::Matching);
    let reference = run(&plan, 1, None);
    assert_learnt(&reference);
    let start = Matching::new(0, DType::F64);
    for (name, var) in start.parameters().unwrap().iter() {
        let before: Vec<f64> = var.flatten_all().unwrap().to_vec1().unwrap();
        let now = variable(&reference, &format!("objective.{name}"));
        assert!(before.iter().zip(now).any(|(a, b)| (a - b).abs() > 1e-4), "{name} has not moved");
    }
    for (world_size, shard_optimiser) in [(2, false), (4, false), (2, true), (4, true)] {
        let execution = Execution { shard_optimiser, ..plan.execution };
        let outcome = run(&Plan { execution, ..plan.clone() }, world_size, None);
        let difference = largest_difference(&reference, &outcome);
        assert!(difference < TOLERANCE, "{world_size} ranks, in parts {shard_optimiser}: {difference:e}");
    }
    for (norm_group, micro_batches, recompute) in [(0, 1, true), (4, 2, false)] {
        let whole = Plan { settings: Settings { norm_group, ..settings() }, ..plan.clone() };
        let execution = Execution { micro_batches, recompute, ..plan.execution };
        let outcome = run(&Plan { execution, ..whole.clone() }, 1, None);
        let difference = largest_difference(&run(&whole, 1, None), &outcome);
        assert!(difference < TOLERANCE, "{micro_batches} parts, recompute {recompute}: {difference:e}");
    }
}

/// Clipping is by the norm of towers and objective together.
#[test]
fn an_objectives_parameters_are_clipped_with_the_towers() {
    let with_norm = |max_grad_norm| {
        let optimiser = AdamWSettings { max_grad_norm, ..AdamWSettings::default() };
        run(&Plan { settings: Settings { optimiser, ..settings() }, ..tiny(Learnt::Matching) }, 1, None)
    };
    let (free, clipped) = (with_norm(0.0), with_norm(0.1));
    // the first step's gradients are the same: their first moments show by how much both were cut
    assert_eq!(free.norms[0], clipped.norms[0]);
    assert!(free.norms[0] > 0.1);
    assert_ne!(variable(&free, "objective.match"), variable(&clipped, "objective.match"));
}

#[test]
fn padding_changes_no_bit() {
    let plan = tiny(Learnt::Matching);
    let padded = Plan { padding: 5, ..plan.clone() };
    for world_size in [1, 2] {
        let (plain, padded) = (run(&plan, world_size, None), run(&padded, world_size, None));
        assert!(plain.weights == padded.weights && plain.losses == padded.losses, "{world_size} ranks");
    }
}

#[test]
fn a_stopped_run_goes_on_to_the_bit() {
    for loss in [INFO_NCE, Learnt::Matching] {
        for (world_size, shard_optimiser) in [(1, false), (2, true)] {
            let mut plan = tiny(loss);
            plan.execution.shard_optimiser = shard_optimiser;
            let whole = run(&plan, world_size, None);
            let folder = tempfile::tempdir().unwrap();
            run(&Plan { stop_after: 7, ..plan.clone() }, world_size, Some(folder.path()));
            let resumed = run(&plan, world_size, Some(folder.path()));
            assert_eq!(resumed.steps, EPOCHS * STEPS - 7);
            assert!(resumed.weights == whole.weights, "{loss:?}, {world_size} ranks");
            assert_eq!(resumed.losses, whole.losses[7..]);
        }
    }
}

#[test]
fn groups_of_rows_are_for_networks_that_normalise_them() {
    let plan = Plan { network: Network::Clip, settings: Settings { norm_group: 4, ..settings() }, ..tiny(INFO_NCE) };
    let clip = Clip::init(&config(), 1, &Device::Cpu, plan.dtype).unwrap();
    assert!(train(clip, &plan, &mut Solo, None).err().unwrap().to_string().contains("norm_group"));
}

/// CLIP has no vectors of tokens: an objective that wants them is told so.
#[test]
fn a_network_without_tokens_says_so() {
    let plan = Plan { network: Network::Clip, ..tiny(Learnt::Matching) };
    let clip = Clip::init(&config(), 1, &Device::Cpu, plan.dtype).unwrap();
    let message = train(clip, &plan, &mut Solo, None).err().unwrap().to_string();
    assert!(message.contains("CLIP gives no vectors of tokens"), "{message}");
}

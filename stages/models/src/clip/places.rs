//! Which tensors of a checkpoint the variables of a network are.

use super::names::{Naming, Stored, is_no_weight};
use crate::checkpoint::Checkpoint;
use crate::parameters::Declaration;
use crate::{ModelError, Result};
use std::collections::HashSet;

/// Where the checkpoint keeps each of the declared variables, all of which it must have, and no other.
pub(super) fn places(checkpoint: &Checkpoint, declarations: &[Declaration]) -> Result<Vec<Stored>> {
    let naming = Naming::recognise(checkpoint);
    let stored: Vec<Stored> =
        declarations.iter().map(|declaration| naming.stored(&declaration.name, checkpoint)).collect();
    let wanted: HashSet<&str> = stored.iter().flat_map(Stored::names).collect();
    let found = wanted.iter().filter(|name| checkpoint.shape(name).is_some()).count();
    if 2 * found < wanted.len() {
        let example = checkpoint.shapes().next().map_or("nothing", |(name, _)| name);
        return Err(ModelError::AnotherModel {
            path: checkpoint.path().to_owned(),
            reason: format!("{found} of the {} tensors of this CLIP are there; it begins with {example}", wanted.len()),
        });
    }
    for (declaration, stored) in declarations.iter().zip(&stored) {
        let shape = stored.shape(&declaration.shape);
        for name in stored.names() {
            // A scalar is stored as [] or [1].
            if !shape.is_empty() || checkpoint.shape(name) != Some(&[1]) {
                checkpoint.check(name, &shape)?;
            }
        }
    }
    match checkpoint.shapes().find(|(name, _)| !wanted.contains(name) && !is_no_weight(name)) {
        Some((leftover, _)) => Err(checkpoint.unexpected(leftover)),
        None => Ok(stored),
    }
}

//! A tower's layers forward and backward: with a graph, or with their inputs alone, each layer run again on its way back.
//!
//! Where a layer needs sums over the inputs of all ranks, the graph is cut behind the layer before: ranks add up their
//! shares, and on the way back the gradients of the sums.

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use models::dual_encoder::{GroupStatistics, LayerOutput, Tower};
use models::ops::backward_from;

use crate::communicator::Communicator;
use crate::error::{Error, Result};

/// The ranks whose shares are added up.
pub(super) struct Exchange<'a>(pub(super) &'a mut dyn Communicator);

impl Exchange<'_> {
    /// Adds up the last `shares` of some tensors over ranks.
    fn add_up(&mut self, tensors: &mut [Tensor], shares: usize) -> Result<()> {
        let first = tensors.len() - shares;
        for share in &mut tensors[first..] {
            *share = self.0.all_reduce_sum(&share.detach().contiguous()?)?;
        }
        Ok(())
    }
}

/// What is left of the way forward.
pub(super) enum Saved {
    /// The graph, in as many stretches as it was cut into.
    Graph(Vec<Stretch>),
    /// What each layer took, how many of that were added up over ranks, and what the last layer gave.
    Inputs { inputs: Vec<(Vec<Tensor>, usize)>, output: Vec<Tensor> },
    /// Nothing: the way is gone again.
    Nothing,
}

/// Layers without an exchange between them.
pub(super) struct Stretch {
    input: LayerInput,
    outputs: Vec<Tensor>,
}

/// What goes into a layer, as leaves of its graph.
#[derive(Default)]
pub(super) struct LayerInput {
    tensors: Vec<Var>,
    /// How many of them, the last ones, were added up over ranks.
    shares: usize,
}

impl LayerInput {
    fn new(tensors: &[Tensor], shares: usize) -> Result<Self> {
        Ok(Self { tensors: tensors.iter().map(Var::from_tensor).collect::<candle_core::Result<_>>()?, shares })
    }

    fn tensors(&self) -> Vec<Tensor> {
        self.tensors.iter().map(|var| var.as_tensor().clone()).collect()
    }
}

/// All layers, without saving anything.
pub(super) fn run(
    tower: &dyn Tower,
    mut exchange: Option<&mut Exchange>,
) -> Result<(Vec<Tensor>, Vec<GroupStatistics>)> {
    let (mut x, mut found) = (Vec::new(), Vec::new());
    for index in 0..tower.layers() {
        let LayerOutput { tensors, shares, statistics } = tower.layer(index, &x)?;
        x = tensors;
        found.extend(statistics);
        if let Some(exchange) = exchange.as_deref_mut() {
            exchange.add_up(&mut x, shares)?;
        }
    }
    Ok((x, found))
}

impl Saved {
    /// Runs a tower that builds a graph, and `finish` on its output.
    pub(super) fn graph(
        tower: &dyn Tower,
        finish: impl FnOnce(&[Tensor]) -> Result<Vec<Tensor>>,
        mut exchange: Option<&mut Exchange>,
    ) -> Result<(Self, Vec<GroupStatistics>)> {
        let (mut stretches, mut input, mut found) = (Vec::new(), LayerInput::default(), Vec::new());
        let mut x = Vec::new();
        for index in 0..tower.layers() {
            let LayerOutput { tensors, shares, statistics } = tower.layer(index, &x)?;
            x = tensors;
            found.extend(statistics);
            if let Some(exchange) = exchange.as_deref_mut().filter(|_| shares > 0) {
                let outputs = x.clone();
                exchange.add_up(&mut x, shares)?;
                let next = LayerInput::new(&x, shares)?;
                x = next.tensors();
                stretches.push(Stretch { input: std::mem::replace(&mut input, next), outputs });
            }
        }
        stretches.push(Stretch { input, outputs: finish(&x)? });
        Ok((Self::Graph(stretches), found))
    }

    /// Runs a tower that builds no graph, and keeps what goes from layer to layer.
    pub(super) fn inputs(
        tower: &dyn Tower,
        mut exchange: Option<&mut Exchange>,
    ) -> Result<(Self, Vec<GroupStatistics>)> {
        let (mut inputs, mut found) = (Vec::with_capacity(tower.layers()), Vec::new());
        let (mut x, mut added) = (Vec::new(), 0);
        for index in 0..tower.layers() {
            let LayerOutput { tensors, shares, statistics } = tower.layer(index, &x)?;
            inputs.push((std::mem::replace(&mut x, tensors), std::mem::replace(&mut added, shares)));
            found.extend(statistics);
            if let Some(exchange) = exchange.as_deref_mut() {
                exchange.add_up(&mut x, shares)?;
            }
        }
        Ok((Self::Inputs { inputs, output: x }, found))
    }

    /// What the last layer gave, where it was kept.
    pub(super) fn output(&self) -> &[Tensor] {
        match self {
            Self::Inputs { output, .. } => output,
            _ => &[],
        }
    }

    /// Carries the gradients of what `finish` gave back through the layers; `collect` is handed those of the parameters.
    /// `tower` gives one that builds a graph: it is asked for where layers run again.
    pub(super) fn backward<'t>(
        self,
        tower: impl FnOnce() -> Result<Box<dyn Tower + 't>>,
        finish: impl Fn(&[Tensor]) -> Result<Vec<Tensor>>,
        gradients: &[Option<Tensor>],
        mut exchange: Option<&mut Exchange>,
        mut collect: impl FnMut(&GradStore) -> Result<()>,
    ) -> Result<()> {
        let mut gradients = gradients.to_vec();
        let mut back = |outputs: &[Tensor], input: &LayerInput| -> Result<()> {
            let store = differentiate(outputs, &gradients)?;
            collect(&store)?;
            gradients = of_input(&store, input)?.into_iter().map(Some).collect();
            if let Some(exchange) = exchange.as_deref_mut().filter(|_| input.shares > 0) {
                let mut all: Vec<Tensor> = gradients.drain(..).flatten().collect();
                exchange.add_up(&mut all, input.shares)?;
                gradients = all.into_iter().map(Some).collect();
            }
            Ok(())
        };
        match self {
            Self::Graph(stretches) => {
                for Stretch { input, outputs } in stretches.into_iter().rev() {
                    back(&outputs, &input)?;
                }
            }
            Self::Inputs { inputs, output } => {
                let tower = tower()?;
                let last = LayerInput::new(&output, 0)?;
                back(&finish(&last.tensors())?, &last)?;
                for (index, (tensors, shares)) in inputs.into_iter().enumerate().rev() {
                    let input = LayerInput::new(&tensors, shares)?;
                    back(&tower.layer(index, &input.tensors())?.tensors, &input)?;
                }
            }
            Self::Nothing => {}
        }
        Ok(())
    }
}

fn differentiate(outputs: &[Tensor], gradients: &[Option<Tensor>]) -> Result<GradStore> {
    let with_gradient = outputs.iter().zip(gradients).filter_map(|(y, gradient)| Some((y, gradient.as_ref()?)));
    Ok(backward_from(&with_gradient.collect::<Vec<_>>())?)
}

/// Gradients of what went in; zero for what did not matter, but something must have.
fn of_input(store: &GradStore, input: &LayerInput) -> Result<Vec<Tensor>> {
    let tensors = &input.tensors;
    if !tensors.is_empty() && tensors.iter().all(|tensor| store.get(tensor).is_none()) {
        return Err(Error::Numbers {
            what: "activation checkpointing".into(),
            problem: "a layer of the tower does not depend on the one before".into(),
        });
    }
    let of = |var: &Var| match store.get(var) {
        Some(gradient) => Ok(gradient.clone()),
        None => Ok(var.as_detached_tensor().zeros_like()?),
    };
    tensors.iter().map(of).collect()
}

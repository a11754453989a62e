//! How variables are declared, and how their tensors are handed out.

use crate::parameters::{Declaration, Init, Parameters};
use candle_core::{Result, Tensor};

/// What is declared of a network, in order.
pub(super) struct Declarations(pub(super) Vec<Declaration>);

impl Declarations {
    pub(super) fn push(&mut self, name: &str, shape: &[usize], init: Init) {
        self.0.push(Declaration { name: name.to_owned(), shape: shape.to_vec(), init });
    }

    pub(super) fn normal(&mut self, name: &str, shape: &[usize], standard_deviation: f64) {
        self.push(name, shape, Init::Normal { standard_deviation });
    }

    pub(super) fn zeros(&mut self, name: &str, length: usize) {
        self.push(name, &[length], Init::Constant(0.0));
    }

    pub(super) fn norm(&mut self, name: &str, width: usize) {
        self.push(&format!("{name}.weight"), &[width], Init::Constant(1.0));
        self.zeros(&format!("{name}.bias"), width);
    }

    /// A convolution of shape `[O, I, K, K]` without bias and the batch norm behind it, within `of`.
    pub(super) fn batch_normed(&mut self, of: &str, convolution: &str, norm: &str, shape: &[usize; 4]) {
        let [outputs, inputs, side, _] = *shape;
        let deviation = (2.0 / (side * side * inputs) as f64).sqrt();
        self.normal(&format!("{of}.{convolution}.weight"), shape, deviation);
        let norm = format!("{of}.{norm}");
        self.norm(&norm, outputs);
        self.zeros(&format!("{norm}.running_mean"), outputs);
        self.push(&format!("{norm}.running_var"), &[outputs], Init::Constant(1.0));
    }

    /// A 3 x 3 convolution; its deviation keeps the variance through an activation (He et al. 2015).
    pub(super) fn convolution(&mut self, name: &str, inputs: usize, outputs: usize) {
        let deviation = (2.0 / (9 * inputs) as f64).sqrt();
        self.normal(&format!("{name}.conv.weight"), &[outputs, 3, 3, inputs], deviation);
        self.zeros(&format!("{name}.conv.bias"), outputs);
    }

    pub(super) fn blocks(&mut self, tower: &str, layers: usize, width: usize, mlp_width: usize) {
        let attention = (width as f64).powf(-0.5);
        let out = attention * (2.0 * layers as f64).powf(-0.5);
        for layer in 0..layers {
            let name = |part: &str| format!("{tower}.resblocks.{layer}.{part}");
            self.norm(&name("ln_1"), width);
            self.normal(&name("attn.in_proj_weight"), &[3 * width, width], attention);
            self.zeros(&name("attn.in_proj_bias"), 3 * width);
            self.normal(&name("attn.out_proj.weight"), &[width, width], out);
            self.zeros(&name("attn.out_proj.bias"), width);
            self.norm(&name("ln_2"), width);
            self.normal(&name("mlp.c_fc.weight"), &[mlp_width, width], (2.0 * width as f64).powf(-0.5));
            self.zeros(&name("mlp.c_fc.bias"), mlp_width);
            self.normal(&name("mlp.c_proj.weight"), &[width, mlp_width], out);
            self.zeros(&name("mlp.c_proj.bias"), width);
        }
    }
}

/// Whether the network's tensors build a graph.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Gradients {
    On,
    Off,
}

/// Hands out the tensors of declared variables.
pub(super) struct Source<'a> {
    pub(super) parameters: &'a Parameters,
    pub(super) gradients: Gradients,
}

impl Source<'_> {
    pub(super) fn tensor(&self, name: &str) -> Result<Tensor> {
        match (self.parameters.get(name), self.gradients) {
            (Some(variable), Gradients::On) => Ok(variable.as_tensor().clone()),
            (Some(variable), Gradients::Off) => Ok(variable.as_detached_tensor()),
            (None, _) => candle_core::bail!("parameter {name} was not declared"),
        }
    }

    /// Of what is read and not learnt.
    pub(super) fn detached(&self, name: &str) -> Result<Tensor> {
        Source { gradients: Gradients::Off, ..*self }.tensor(name)
    }
}

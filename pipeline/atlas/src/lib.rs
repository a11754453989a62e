//! The atlas: finished builds as web pages. Search, a map, images one by one, and the space that a model sees.
//!
//! The crate knows no build: it asks an [`Atlas`], plain data in and out, and brings pages, their scripts and styles, and
//! everything that keeps a server safe: who may ask ([`Guard`]), how much is computed at once ([`Compute`]), and how
//! connections begin and end ([`serve`]). All assets are inside the program, and no page asks anybody else for anything.
//!
//! A page is a file in `pages/` with a function that gives a [`Page`]: its routes, and its name in the navigation. What
//! another room serves beside the atlas is one more [`Page`] in the [`Site`].

mod ask;
mod assets;
mod compute;
mod desk;
mod edits;
mod guard;
mod layout;
pub mod pages;
mod server;
mod site;
mod tiles;
mod trouble;

pub use ask::{
    About, Answer, Atlas, Bounds, CaptionOf, Found, Image, ImageName, Layout, Model, Narrowed, Plot, Points, Query,
    Question, SegmentOf, Size, Step,
};
pub use compute::{Compute, ComputeLimits};
pub use desk::{
    BuildState, Curve, Decision, DecisionAsked, Desk, Doing, Failure, StepState, Waiting, WaitingAsked, WaitingCaption,
};
pub use edits::{Edit, Edited, Moved, Retagged};
pub use guard::{Guard, Secret};
pub use layout::{Nav, Shell};
pub use server::{ServerLimits, serve};
pub use site::{Page, Site};
pub use tiles::Tiles;
pub use trouble::Trouble;

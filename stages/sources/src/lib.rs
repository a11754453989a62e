//! What the input really is, as pure functions: bytes in, rows out.
//!
//! Nothing here opens a file, a socket or a table. The crate that owns the stores fetches byte
//! ranges and drives the parsers below; everything they read is treated as hostile, so sizes are
//! limited before anything is allocated and no input panics.
//!
//! | module | reads |
//! |---|---|
//! | [`zip`] | a zip in place: end record, streamed central directory, one member per request |
//! | [`csv`] | SkyScript's CSVs by column name |
//! | [`name`], [`source`] | `images2/a198234555_CH_19.jpg` and the imagery sources behind the tokens |
//! | [`meta`] | the meta pickles, with a reader that knows only plain data (crate `pickle`) |
//! | [`borders`] | lines between countries, for maps |
//! | [`country`] | which country a box lies in |
//! | [`split`] | train, validation and test, disjoint on the ground |
//! | [`tar`], [`webdataset`] | streamed tar archives, and the samples that WebDataset keeps in them |
//! | [`captioned`] | image folders that come with captions |

pub mod borders;
pub mod box_grid;
pub mod captioned;
pub mod country;
pub mod csv;
mod error;
pub mod geotiff;
pub mod meta;
pub mod name;
mod path;
mod records;
pub mod rsrt;
pub mod source;
pub mod split;
pub mod tar;
mod utm;
pub mod webdataset;
pub mod zip;

pub use error::SourceError;

//! The crate against real files, hostile files and random damage.

mod archive;
mod corpus;
mod in_house_data;
mod memory;
mod mutations;
mod pickles;
mod properties;
mod zip_hostile;
mod zip_torture;

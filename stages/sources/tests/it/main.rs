//! The crate against real files, hostile files and random damage.

mod archive;
mod in_house_data;
mod mutations;
mod pickles;
mod zip_hostile;
mod zip_torture;

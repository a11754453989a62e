//! Builds: planned, interrupted, beside each other, kept up.

mod beside;
mod chaos;
mod countries;
mod foretold;
mod from_afar;
mod full_disk;
mod identical_pictures;
mod interrupted;
mod lineage;
mod one_country;
mod outdated;
mod planning;
mod stopped;
mod upkeep;
mod workers;

//! What others wrote and wrote to: archives, folders, stores, tables, hubs.

mod captioned_folder;
mod captioned_inputs;
mod data_sets;
mod foreign_tables;
mod hostile_archives;
mod http_stores;
mod hub;
mod ingest_memory;
mod readers;
mod webdataset;

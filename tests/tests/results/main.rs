//! What a finished build is used for.

mod analyse;
mod atlas;
mod bench;
mod control_plane;
mod exports;
mod kubernetes;
mod ray;
mod ray_builds;
mod review;
mod search;
mod search_index;
mod zero_shot;

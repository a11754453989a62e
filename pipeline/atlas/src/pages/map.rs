//! What maps are drawn from: places of images, and borders.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::Asked;
use super::packed::Packed;
use crate::ask::Points;
use crate::site::Page;
use crate::trouble::Trouble;

#[derive(Clone)]
struct Map {
    asked: Asked,
    points: Arc<Packed<Points>>,
    borders: Arc<Packed<Vec<Vec<[f32; 2]>>>>,
}

pub(super) fn page(asked: Asked) -> Page {
    let map = Map { asked, points: Arc::default(), borders: Arc::default() };
    let routes = Router::new().route("/api/points", get(points)).route("/api/borders", get(borders)).with_state(map);
    Page { nav: None, routes }
}

async fn points(State(map): State<Map>) -> Result<Response, Trouble> {
    let packed = map.points;
    let ask = |atlas: Arc<dyn crate::ask::Atlas>| async move {
        Ok(packed.of(atlas.points().await?, |points| serde_json::to_vec(points).unwrap_or_default()))
    };
    let bytes = map.asked.ask(ask).await?;
    Ok(([(CONTENT_TYPE, "application/json")], bytes).into_response())
}

/// Little-endian single precision: for each line the number of its places, then degrees east and north of each.
async fn borders(State(map): State<Map>) -> Result<Response, Trouble> {
    let borders = map.borders;
    let ask = |atlas: Arc<dyn crate::ask::Atlas>| async move {
        Ok(borders.of(atlas.borders().await?, |lines| packed(lines)))
    };
    let bytes = map.asked.ask(ask).await?;
    let headers = [(CONTENT_TYPE, "application/octet-stream"), (CACHE_CONTROL, "private, max-age=86400")];
    Ok((headers, bytes).into_response())
}

fn packed(lines: &[Vec<[f32; 2]>]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(lines.iter().map(|line| 4 + 8 * line.len()).sum());
    for line in lines {
        bytes.extend((line.len() as f32).to_le_bytes());
        bytes.extend(line.iter().flatten().flat_map(|degrees| degrees.to_le_bytes()));
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_long_it_is() {
        let bytes = packed(&[vec![[1.0, 2.0], [3.0, 4.0]], vec![[5.0, 6.0]]]);
        let numbers: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        assert_eq!(numbers, [2.0, 1.0, 2.0, 3.0, 4.0, 1.0, 5.0, 6.0]);
    }
}

//! Where the boxes of a stage graph stand: layers from top to bottom, few crossings (after Sugiyama).

pub const NODE_WIDTH: f64 = 196.0;
pub const NODE_HEIGHT: f64 = 62.0;
const GAP_X: f64 = 26.0;
const GAP_Y: f64 = 38.0;
/// The lane of an edge that passes a layer on its way to a lower one.
const LANE_WIDTH: f64 = 14.0;
const ORDER_SWEEPS: usize = 8;
const POSITION_SWEEPS: usize = 24;

/// Places in pixels.
pub struct Layout {
    pub width: f64,
    pub height: f64,
    /// Left and top of every node.
    pub corners: Vec<(f64, f64)>,
    /// The points each drawn edge passes, from its source's lower side to its target's upper side.
    pub routes: Vec<Vec<(f64, f64)>>,
}

/// A node, or the place where an edge passes through a layer.
struct Item {
    node: Option<usize>,
    layer: usize,
    above: Vec<usize>,
    below: Vec<usize>,
    center_x: f64,
}

impl Item {
    fn new(node: Option<usize>, layer: usize) -> Self {
        Self { node, layer, above: Vec::new(), below: Vec::new(), center_x: 0.0 }
    }

    fn half_width(&self) -> f64 {
        if self.node.is_some() { NODE_WIDTH / 2.0 } else { LANE_WIDTH / 2.0 }
    }
}

impl Layout {
    /// Places `nodes` nodes. Edges to themselves, twice the same and those that close a cycle are not drawn.
    pub fn new(nodes: usize, edges: &[(usize, usize)]) -> Layout {
        let (layer_of, edges) = assign_layers(nodes, edges);
        let mut items: Vec<Item> =
            layer_of.iter().enumerate().map(|(node, layer)| Item::new(Some(node), *layer)).collect();
        let chains: Vec<Vec<usize>> = edges.iter().map(|edge| connect(&mut items, *edge)).collect();
        let mut layers = vec![Vec::new(); layer_of.iter().max().map_or(0, |last| last + 1)];
        for (index, item) in items.iter().enumerate() {
            layers[item.layer].push(index);
        }
        order_layers(&items, &mut layers);
        place_items(&mut items, &layers);

        let left = items.iter().map(|item| item.center_x - item.half_width()).fold(f64::INFINITY, f64::min);
        let right = items.iter().map(|item| item.center_x + item.half_width()).fold(f64::NEG_INFINITY, f64::max);
        let top = |layer: usize| layer as f64 * (NODE_HEIGHT + GAP_Y);
        let corners = items[..nodes].iter().map(|item| (item.center_x - item.half_width() - left, top(item.layer)));
        let route = |chain: &Vec<usize>| -> Vec<(f64, f64)> {
            let last = chain.len() - 1;
            let passes = chain.iter().enumerate().flat_map(|(step, index)| {
                let item = &items[*index];
                let upper = (step > 0).then_some((item.center_x - left, top(item.layer)));
                let lower = (step < last).then_some((item.center_x - left, top(item.layer) + NODE_HEIGHT));
                [upper, lower].into_iter().flatten()
            });
            passes.collect()
        };
        Layout {
            width: if nodes == 0 { 0.0 } else { right - left },
            height: if nodes == 0 { 0.0 } else { top(layers.len() - 1) + NODE_HEIGHT },
            corners: corners.collect(),
            routes: chains.iter().map(route).collect(),
        }
    }
}

/// Every node's layer (one below its lowest source) and the edges that go down.
fn assign_layers(nodes: usize, edges: &[(usize, usize)]) -> (Vec<usize>, Vec<(usize, usize)>) {
    let mut acyclic: Vec<(usize, usize)> = Vec::new();
    for &(from, to) in edges {
        let is_valid = from < nodes && to < nodes && from != to && !acyclic.contains(&(from, to));
        if is_valid && !reaches(&acyclic, nodes, to, from) {
            acyclic.push((from, to));
        }
    }
    let mut layers = vec![0; nodes];
    // A path has fewer edges than there are nodes, so this many rounds settle every layer.
    for _ in 0..nodes {
        for &(from, to) in &acyclic {
            layers[to] = layers[to].max(layers[from] + 1);
        }
    }
    (layers, acyclic)
}

fn reaches(edges: &[(usize, usize)], nodes: usize, start: usize, goal: usize) -> bool {
    let mut seen = vec![false; nodes];
    let mut open = vec![start];
    while let Some(node) = open.pop() {
        if node == goal {
            return true;
        }
        if !std::mem::replace(&mut seen[node], true) {
            open.extend(edges.iter().filter(|(from, _)| *from == node).map(|(_, to)| *to));
        }
    }
    false
}

/// Links two nodes through an item in every layer between them; returns the chain of items.
fn connect(items: &mut Vec<Item>, (from, to): (usize, usize)) -> Vec<usize> {
    let mut chain = vec![from];
    for layer in items[from].layer + 1..items[to].layer {
        items.push(Item::new(None, layer));
        chain.push(items.len() - 1);
    }
    chain.push(to);
    for pair in chain.windows(2) {
        items[pair[0]].below.push(pair[1]);
        items[pair[1]].above.push(pair[0]);
    }
    chain
}

/// Sorts each layer by the mean place of its neighbours in the layer before, down and up again.
fn order_layers(items: &[Item], layers: &mut [Vec<usize>]) {
    let mut rank = vec![0.0; items.len()];
    let note_ranks = |layer: &[usize], rank: &mut Vec<f64>| {
        for (position, index) in layer.iter().enumerate() {
            rank[*index] = position as f64;
        }
    };
    layers.iter().for_each(|layer| note_ranks(layer, &mut rank));
    for sweep in 0..ORDER_SWEEPS {
        let downwards = sweep % 2 == 0;
        let order: Vec<usize> = if downwards { (0..layers.len()).collect() } else { (0..layers.len()).rev().collect() };
        for layer in order {
            let barycenter = |index: &usize| {
                let neighbours = if downwards { &items[*index].above } else { &items[*index].below };
                mean(neighbours.iter().map(|neighbour| rank[*neighbour])).unwrap_or(rank[*index])
            };
            layers[layer].sort_by(|a, b| barycenter(a).total_cmp(&barycenter(b)));
            note_ranks(&layers[layer], &mut rank);
        }
    }
}

/// Moves every item towards the middle of its neighbours as far as the order and the gaps allow.
fn place_items(items: &mut [Item], layers: &[Vec<usize>]) {
    let gap = |items: &[Item], a: usize, b: usize| items[a].half_width() + GAP_X + items[b].half_width();
    for layer in layers {
        for pair in layer.windows(2) {
            items[pair[1]].center_x = items[pair[0]].center_x + gap(items, pair[0], pair[1]);
        }
        let middle = mean(layer.iter().map(|index| items[*index].center_x)).unwrap_or(0.0);
        layer.iter().for_each(|index| items[*index].center_x -= middle);
    }
    for _ in 0..POSITION_SWEEPS {
        for layer in layers {
            let wanted: Vec<f64> = layer
                .iter()
                .map(|index| {
                    let item = &items[*index];
                    let neighbours = item.above.iter().chain(&item.below);
                    mean(neighbours.map(|neighbour| items[*neighbour].center_x)).unwrap_or(item.center_x)
                })
                .collect();
            let mut placed = wanted.clone();
            for position in 1..layer.len() {
                let least = placed[position - 1] + gap(items, layer[position - 1], layer[position]);
                placed[position] = placed[position].max(least);
            }
            // Pushing only to the right would drift: give the mean displacement back.
            let drift = mean(placed.iter().zip(&wanted).map(|(placed, wanted)| placed - wanted)).unwrap_or(0.0);
            for (index, x) in layer.iter().zip(placed) {
                items[*index].center_x = x - drift;
            }
        }
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_apart(layout: &Layout) {
        for (index, a) in layout.corners.iter().enumerate() {
            assert!(a.0 >= -1e-6 && a.0 + NODE_WIDTH <= layout.width + 1e-6);
            for b in &layout.corners[index + 1..] {
                assert!(a.1 != b.1 || (a.0 - b.0).abs() >= NODE_WIDTH, "{a:?} covers {b:?}");
            }
        }
    }

    #[test]
    fn a_chain_stands_in_one_column() {
        let layout = Layout::new(3, &[(0, 1), (1, 2)]);
        assert_eq!(layout.width, NODE_WIDTH);
        assert!(layout.corners.windows(2).all(|pair| pair[0].0 == pair[1].0 && pair[0].1 < pair[1].1));
        assert_eq!(layout.routes.len(), 2);
    }

    #[test]
    fn a_diamond_with_a_shortcut_keeps_nodes_apart() {
        let layout = Layout::new(4, &[(0, 1), (0, 2), (1, 3), (2, 3), (0, 3)]);
        assert_apart(&layout);
        assert_eq!(layout.routes[4].len(), 4, "the shortcut passes a lane of its own");
        assert_eq!(layout.corners[1].1, layout.corners[2].1);
    }

    #[test]
    fn cycles_and_wrong_edges_are_harmless() {
        let layout = Layout::new(3, &[(0, 1), (1, 2), (2, 0), (1, 1), (0, 9), (0, 1)]);
        assert_apart(&layout);
        assert_eq!(layout.routes.len(), 2);
        let empty = Layout::new(0, &[]);
        assert_eq!((empty.width, empty.height), (0.0, 0.0));
        assert_apart(&Layout::new(5, &[]));
    }
}

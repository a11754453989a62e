//! The build's stage graph with what became of each stage's rows.

use maud::{Markup, html};
use serde::{Deserialize, Serialize};

use crate::figure::{Px, figure, nothing};
use crate::flow_layout::{Layout, NODE_HEIGHT, NODE_WIDTH};
use crate::number::{format_count, format_number};

/// A graph beyond this cannot be read; the rest is left out.
const MAX_STAGES: usize = 64;

const PADDING: f64 = 14.0;
const MARGIN: f64 = 4.0;

/// Stages as boxes, with arrows from each to those that read it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// Shown below the figure; may be empty.
    pub caption: String,
    /// Boxes; placed by their edges, not by this order alone.
    pub stages: Vec<FlowStage>,
    /// (from, to) by stage name; unknown names are left out.
    pub edges: Vec<(String, String)>,
}

/// One box of a [`Flow`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FlowStage {
    /// Name of the stage.
    pub name: String,
    /// Rows that were computed anew.
    pub computed: u64,
    /// Rows whose recipe still stood.
    pub copied: u64,
    /// Rows that failed.
    pub errors: u64,
}

impl Flow {
    pub(crate) fn html(&self) -> Markup {
        let stages = &self.stages[..self.stages.len().min(MAX_STAGES)];
        if stages.is_empty() {
            return figure("flow", &self.caption, nothing());
        }
        let index = |name: &str| stages.iter().position(|stage| stage.name == name);
        let edges: Vec<(usize, usize)> =
            self.edges.iter().filter_map(|(from, to)| Some((index(from)?, index(to)?))).collect();
        let layout = Layout::new(stages.len(), &edges);
        let (width, height) = (layout.width + 2.0 * MARGIN, layout.height + 2.0 * MARGIN);
        let body = html! {
            ul.legend {
                li { span.swatch.computed {} "computed" }
                li { span.swatch.copied {} "copied" }
                li { span.swatch.errors {} "errors" }
            }
            div.scroll {
                svg viewBox={ (Px(-MARGIN)) " " (Px(-MARGIN)) " " (Px(width)) " " (Px(height)) }
                    style=(format!("max-width:{width:.0}px")) role="img" aria-label=(self.summary()) {
                    defs {
                        marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"
                            orient="auto" { path d="M0 0L8 4L0 8z" {} }
                    }
                    @for route in &layout.routes { path.edge d=(route_path(route)) marker-end="url(#arrow)" {} }
                    @for (stage, (left, top)) in stages.iter().zip(&layout.corners) {
                        (stage.html(*left, *top))
                    }
                }
            }
        };
        figure("flow", &self.caption, body)
    }

    fn summary(&self) -> String {
        let stages: Vec<String> = self.stages.iter().map(FlowStage::summary).collect();
        stages.join("; ")
    }
}

impl FlowStage {
    fn summary(&self) -> String {
        let count = |count: u64| format_number(count as f64, None);
        let (computed, copied) = (count(self.computed), count(self.copied));
        format!("{}: {computed} computed, {copied} copied, {}", self.name, format_count(self.errors, "error"))
    }

    fn html(&self, left: f64, top: f64) -> Markup {
        let inner = NODE_WIDTH - 2.0 * PADDING;
        let counts = [("computed", self.computed), ("copied", self.copied), ("errors", self.errors)];
        let total: f64 = counts.iter().map(|(_, count)| *count as f64).sum();
        let mut bars = Vec::new();
        let mut bar_left = PADDING;
        for (class, count) in counts.iter().filter(|(_, count)| *count > 0) {
            let width = *count as f64 / total * inner;
            bars.push((*class, bar_left, width));
            bar_left += width;
        }
        html! {
            g.stage.failed[self.errors > 0] transform={ "translate(" (Px(left)) " " (Px(top)) ")" } {
                title { (self.summary()) }
                rect.box width=(Px(NODE_WIDTH)) height=(Px(NODE_HEIGHT)) rx="8" {}
                text.name x=(Px(PADDING)) y="22" { (self.name) }
                rect.rail x=(Px(PADDING)) y="30" width=(Px(inner)) height="5" {}
                @for (class, left, width) in bars {
                    // A handful of errors among a million rows must still be seen.
                    rect.(class) x=(Px(left.min(PADDING + inner - 2.0))) y="30" width=(Px(width.max(2.0))) height="5" {}
                }
                text.counts x=(Px(PADDING)) y="51" {
                    @for (position, (class, count)) in counts.iter().filter(|(_, count)| *count > 0).enumerate() {
                        tspan.(*class) dx=(if position > 0 { "9" } else { "0" }) { "■" }
                        tspan dx="3" { (format_number(*count as f64, None)) }
                    }
                    @if total == 0.0 { "nothing to do" }
                }
            }
        }
    }
}

/// Curves between the layers, straight down through them.
fn route_path(route: &[(f64, f64)]) -> String {
    let mut path = String::new();
    for (index, (x, y)) in route.iter().enumerate() {
        match index.checked_sub(1).map(|previous| route[previous]) {
            None => path += &format!("M{x:.1} {y:.1}"),
            Some((from_x, from_y)) => {
                let middle = (from_y + y) / 2.0;
                path += &format!("C{from_x:.1} {middle:.1} {x:.1} {middle:.1} {x:.1} {y:.1}");
            }
        }
    }
    path
}

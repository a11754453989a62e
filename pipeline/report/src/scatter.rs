//! Points in a plane by cluster: the first two principal components of tag co-occurrence.

use maud::{Markup, html};
use serde::{Deserialize, Serialize};

use crate::axis::Axis;
use crate::figure::{Plot, Px, figure, legend, nothing, series_class};
use crate::number::format_count;

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 340.0;
const PLOT: Plot = Plot { left: 48.0, right: 458.0, top: 28.0, bottom: 294.0 };

/// Points in a plane, coloured by cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Scatter {
    /// Shown below the figure; may be empty.
    pub caption: String,
    /// What x is, with its unit.
    pub x_label: String,
    /// What y is, with its unit.
    pub y_label: String,
    /// Groups, in the order of the legend.
    pub clusters: Vec<Cluster>,
}

/// Points of one colour.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// Shown in the legend.
    pub name: String,
    /// x, y and what to show when the pointer rests on the point.
    pub points: Vec<(f64, f64, String)>,
}

impl Scatter {
    pub(crate) fn html(&self) -> Markup {
        let points = || {
            let points = self.clusters.iter().flat_map(|cluster| cluster.points.iter());
            points.filter(|(x, y, _)| x.is_finite() && y.is_finite())
        };
        let (Some(x), Some(y)) = (
            Axis::linear(points().map(|point| point.0), PLOT.x_range()),
            Axis::linear(points().map(|point| point.1), PLOT.y_range()),
        ) else {
            return figure("chart", &self.caption, nothing());
        };
        let summary = format!(
            "{} in {}",
            format_count(points().count() as u64, "point"),
            format_count(self.clusters.len() as u64, "cluster")
        );
        let body = html! {
            (legend(self.clusters.iter().map(|cluster| cluster.name.as_str())))
            div.scroll {
                svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(summary) {
                    (PLOT.frame(&x, &y, &self.x_label, &self.y_label))
                    @for (index, cluster) in self.clusters.iter().enumerate() {
                        g.points.(series_class(index)) {
                            @for point in &cluster.points {
                                @if let (Some(cx), Some(cy)) = (x.place(point.0), y.place(point.1)) {
                                    circle cx=(Px(cx)) cy=(Px(cy)) r="3.5" {
                                        @if !point.2.is_empty() { title { (point.2) } }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        };
        figure("chart", &self.caption, body)
    }
}

//! Lines over a common axis: losses, recall by epoch, hyper-parameter curves.

use maud::{Markup, PreEscaped, html};
use serde::{Deserialize, Serialize};

use crate::Best;
use crate::STYLE;
use crate::axis::Axis;
use crate::figure::{Plot, Px, figure, legend, nothing, series_class};
use crate::number::{format_number, format_tick};

/// Lines are thinned to about this many points; more cannot be told apart on the page.
const MAX_DRAWN_POINTS: usize = 600;

/// Up to so many points each gets a dot to hover.
const MAX_DOTS: usize = 40;

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 264.0;
const PLOT: Plot = Plot { left: 48.0, right: 458.0, top: 28.0, bottom: 218.0 };

/// Lines over a common x axis.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LineChart {
    /// Shown below the figure; may be empty.
    pub caption: String,
    /// What x is, with its unit.
    pub x_label: String,
    /// What y is, with its unit.
    pub y_label: String,
    /// Logarithmic axes show positive values only.
    pub x_log: bool,
    /// As `x_log`, of the other axis.
    pub y_log: bool,
    /// One line each, in the order of the legend.
    pub series: Vec<Series>,
    /// Rings the best point of every series.
    pub best: Option<Best>,
}

/// One line of a [`LineChart`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Shown in the legend.
    pub name: String,
    /// (x, y) in drawing order; a point that is not finite interrupts the line.
    pub points: Vec<(f64, f64)>,
}

impl LineChart {
    pub(crate) fn html(&self) -> Markup {
        let Some(drawing) = self.drawing() else { return figure("chart", &self.caption, nothing()) };
        let body = html! {
            @if self.series.len() > 1 { (legend(self.series.iter().map(|series| series.name.as_str()))) }
            div.scroll {
                svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(self.summary()) { (drawing) }
            }
        };
        figure("chart", &self.caption, body)
    }

    /// The chart as an SVG file that needs nothing beside it.
    pub fn svg(&self) -> String {
        let svg = html! {
            svg xmlns="http://www.w3.org/2000/svg" viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) width=(WIDTH) height=(HEIGHT)
                role="img" aria-label=(self.summary()) {
                style { (PreEscaped(STYLE)) }
                (self.drawing().unwrap_or_default())
                @for (index, series) in self.series.iter().enumerate() {
                    text.(series_class(index)) x=(Px(PLOT.right)) y=(Px(PLOT.top - 14.0 + 14.0 * index as f64))
                        style="fill: var(--c); text-anchor: end" { (series.name) }
                }
            }
        };
        svg.into_string() + "\n"
    }

    /// What is inside of the picture; `None`: there is no point to draw.
    fn drawing(&self) -> Option<Markup> {
        let points = || self.series.iter().flat_map(|series| series.points.iter());
        let axis = |log: bool| if log { Axis::logarithmic } else { Axis::linear };
        // Only points that can be drawn stretch the axes.
        let drawable = || {
            points().filter(|(x, y)| {
                x.is_finite() && y.is_finite() && (!self.x_log || *x > 0.0) && (!self.y_log || *y > 0.0)
            })
        };
        let x_values: Box<dyn Iterator<Item = f64>> = Box::new(drawable().map(|point| point.0));
        let y_values: Box<dyn Iterator<Item = f64>> = Box::new(drawable().map(|point| point.1));
        let x = axis(self.x_log)(x_values, PLOT.x_range())?;
        let y = axis(self.y_log)(y_values, PLOT.y_range())?;
        Some(html! {
            (PLOT.frame(&x, &y, &self.x_label, &self.y_label))
            @for (index, series) in self.series.iter().enumerate() {
                (series.html(index, &x, &y, self.best))
            }
        })
    }

    /// What the picture says, for those who cannot see it.
    fn summary(&self) -> String {
        let series = self.series.iter().map(|series| {
            let last = series.points.last().map_or(f64::NAN, |point| point.1);
            format!("{}: ends at {}", series.name, format_number(last, None))
        });
        let series: Vec<String> = series.collect();
        format!("{} over {}; {}", self.y_label, self.x_label, series.join("; "))
    }
}

impl Series {
    fn html(&self, index: usize, x: &Axis, y: &Axis, best: Option<Best>) -> Markup {
        let thinned = thin(&self.points, MAX_DRAWN_POINTS);
        let place = |point: &(f64, f64)| Some((x.place(point.0)?, y.place(point.1)?));
        let drawable = || self.points.iter().filter(|point| place(point).is_some());
        let best = best.and_then(|best| best.of(drawable().map(|point| point.1)));
        let best = best.and_then(|best| drawable().find(|point| point.1 == best));
        let label =
            |point: &(f64, f64)| format!("{} · {} · {}", self.name, format_tick(point.0), format_number(point.1, None));
        html! {
            g.line.(series_class(index)) {
                path d=(path(thinned.iter().map(place))) { title { (self.name) } }
                @if thinned.len() <= MAX_DOTS {
                    @for point in &thinned {
                        @if let Some((x, y)) = place(point) {
                            circle cx=(Px(x)) cy=(Px(y)) r="2.5" { title { (label(point)) } }
                        }
                    }
                }
                @if let Some((point, (x, y))) = best.and_then(|point| Some((point, place(point)?))) {
                    circle.best cx=(Px(x)) cy=(Px(y)) r="6" { title { "best: " (label(point)) } }
                    text.best.end[x > PLOT.right - 60.0] x=(Px(x)) y=(Px((y - 11.0).max(12.0))) {
                        (format_number(point.1, None))
                    }
                }
            }
        }
    }
}

/// An SVG path through the places; `None` lifts the pen.
fn path(places: impl Iterator<Item = Option<(f64, f64)>>) -> String {
    let mut path = String::new();
    let mut pen_down = false;
    for place in places {
        if let Some((x, y)) = place {
            let command = if pen_down { 'L' } else { 'M' };
            path += &format!("{command}{x:.1} {y:.1}");
        }
        pen_down = place.is_some();
    }
    path
}

/// At most about `max` points that keep every peak: of each run of points the lowest and the highest.
fn thin(points: &[(f64, f64)], max: usize) -> Vec<(f64, f64)> {
    if points.len() <= max {
        return points.to_vec();
    }
    let run = points.len().div_ceil(max / 2);
    let mut kept = Vec::with_capacity(max);
    for run in points.chunks(run) {
        let by_y = |a: &(usize, &(f64, f64)), b: &(usize, &(f64, f64))| a.1.1.total_cmp(&b.1.1);
        let finite = || run.iter().enumerate().filter(|(_, point)| point.1.is_finite());
        match (finite().min_by(by_y), finite().max_by(by_y)) {
            (Some((low, _)), Some((high, _))) => {
                kept.push(run[low.min(high)]);
                if low != high {
                    kept.push(run[low.max(high)]);
                }
            }
            _ => kept.push((f64::NAN, f64::NAN)),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_the_peaks() {
        let mut points: Vec<(f64, f64)> = (0..100_000).map(|step| (f64::from(step), 1.0)).collect();
        points[77_777].1 = 9.0;
        points[12_345].1 = -9.0;
        points[500].1 = f64::NAN;
        let thinned = thin(&points, 600);
        assert!(thinned.len() <= 600);
        assert!(thinned.contains(&(77_777.0, 9.0)) && thinned.contains(&(12_345.0, -9.0)));
        assert!(thinned.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(thin(&points[..10], 600).len(), 10);
    }

    #[test]
    fn a_chart_can_be_a_file_of_its_own() {
        let series = Series { name: "a < b".into(), points: vec![(1.0, 2.0), (2.0, 3.0)] };
        let svg = LineChart { series: vec![series], ..LineChart::default() }.svg();
        assert!(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\"") && svg.ends_with("</svg>\n"), "{svg}");
        assert!(svg.contains(">a &lt; b</text>") && svg.contains("--s1:") && svg.contains("<path d=\"M"), "{svg}");
        assert!(!STYLE.contains(['<', '&']), "a style in XML needs no escapes");
        assert!(!LineChart::default().svg().contains("<path"));
    }

    #[test]
    fn gaps_interrupt_the_line() {
        let places = [Some((0.0, 1.0)), Some((1.0, 2.0)), None, Some((3.0, 4.0))];
        assert_eq!(path(places.into_iter()), "M0.0 1.0L1.0 2.0M3.0 4.0");
    }
}

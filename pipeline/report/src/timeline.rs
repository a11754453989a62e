//! Which stage ran when, and on how many rows.

use maud::{Markup, html};
use serde::{Deserialize, Serialize};

use crate::axis::Axis;
use crate::figure::{Px, figure, nothing};
use crate::number::{format_count, format_duration, format_tick};

/// When each stage ran, as bars over the time of the build.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// Shown below the figure; may be empty.
    pub caption: String,
    /// Spans in any order; those of one stage share a line, lines stand in order of first appearance.
    pub spans: Vec<Span>,
}

/// One bar of a [`Timeline`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// Name of the stage.
    pub stage: String,
    /// Seconds since the start of the build.
    pub start_seconds: f64,
    /// How long it took.
    pub duration_seconds: f64,
    /// Rows that it made.
    pub rows: u64,
}

impl Span {
    fn is_drawable(&self) -> bool {
        let drawable = |seconds: f64| seconds.is_finite() && (0.0..1e12).contains(&seconds);
        drawable(self.start_seconds) && drawable(self.duration_seconds)
    }

    fn end_seconds(&self) -> f64 {
        self.start_seconds + self.duration_seconds
    }
}

impl Timeline {
    pub(crate) fn html(&self) -> Markup {
        let drawable: Vec<&Span> = self.spans.iter().filter(|span| span.is_drawable()).collect();
        let mut stages: Vec<&str> = Vec::new();
        for span in &drawable {
            if !stages.contains(&span.stage.as_str()) {
                stages.push(&span.stage);
            }
        }
        let end = drawable.iter().map(|span| span.end_seconds()).fold(0.0, f64::max);
        // Ticks shall be round in the unit they are read in.
        let (unit, unit_seconds) = match end {
            _ if end < 120.0 => ("s", 1.0),
            _ if end < 7_200.0 => ("m", 60.0),
            _ => ("h", 3_600.0),
        };
        let Some(axis) =
            Axis::linear([0.0, end / unit_seconds].into_iter(), (0.0, 100.0)).filter(|_| !stages.is_empty())
        else {
            return figure("timeline", &self.caption, nothing());
        };
        let place = |units: f64| Px(axis.place(units).unwrap_or(0.0));
        let place_seconds = |seconds: f64| place(seconds / unit_seconds);
        let body = html! {
            div.scroll { div.lanes {
                div.scale aria-hidden="true" {
                    @for tick in &axis.ticks {
                        span style={ "left:" (place(*tick)) "%" } { (format_tick(*tick)) " " (unit) }
                    }
                }
                @for stage in stages {
                    @let spans = || drawable.iter().filter(move |span| span.stage == stage);
                    @let rows = spans().fold(0u64, |rows, span| rows.saturating_add(span.rows));
                    @let seconds: f64 = spans().map(|span| span.duration_seconds).sum();
                    span.name dir="auto" { (stage) }
                    span.lane {
                        @for span in spans() {
                            span.span.s1 style={
                                "left:" (place_seconds(span.start_seconds)) "%;right:" (Px(100.0 - place_seconds(span.end_seconds()).0)) "%"
                            } title=(span_title(span)) {}
                        }
                    }
                    span.value { (format_duration(seconds)) }
                    span.value.rows { (format_count(rows, "row")) }
                }
            } }
        };
        figure("timeline", &self.caption, body)
    }
}

fn span_title(span: &Span) -> String {
    format!(
        "{}: from {} for {}, {}",
        span.stage,
        format_duration(span.start_seconds),
        format_duration(span.duration_seconds),
        format_count(span.rows, "row")
    )
}

//! Horizontal bars, whole or stacked of parts.

use maud::{Markup, html};
use serde::{Deserialize, Serialize};

use crate::figure::{figure, legend, nothing, series_class};
use crate::number::format_number;

/// Horizontal bars, plain or stacked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BarChart {
    /// Shown below the figure; may be empty.
    pub caption: String,
    /// Unit of the values, behind each number; may be empty.
    pub unit: String,
    /// Decimals of the numbers; `None` chooses by magnitude.
    pub decimals: Option<u8>,
    /// Names of the parts of stacked bars; empty for plain bars.
    pub part_names: Vec<String>,
    /// Shown from top to bottom.
    pub bars: Vec<Bar>,
}

/// One line of a [`BarChart`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Bar {
    /// Shown before the bar.
    pub label: String,
    /// One value, or one for every part. A bar has no length below zero; the number beside it tells.
    pub parts: Vec<f64>,
}

impl Bar {
    /// A bar that is not stacked.
    pub fn new(label: impl Into<String>, value: f64) -> Self {
        Self { label: label.into(), parts: vec![value] }
    }

    fn total(&self) -> f64 {
        if self.parts.is_empty() { f64::NAN } else { self.parts.iter().sum() }
    }
}

impl BarChart {
    pub(crate) fn html(&self) -> Markup {
        let length = |value: f64| {
            if value.is_finite() { value.max(0.0) } else { 0.0 }
        };
        let longest = self.bars.iter().map(|bar| bar.parts.iter().copied().map(length).sum());
        let longest = longest.fold(0.0, f64::max);
        let percent = |value: f64| match length(value) / longest * 100.0 {
            percent if percent.is_finite() => percent,
            _ => 0.0,
        };
        if self.bars.is_empty() {
            return figure("bars", &self.caption, nothing());
        }
        let part_name = |index: usize| self.part_names.get(index).map_or("", String::as_str);
        let body = html! {
            @if !self.part_names.is_empty() { (legend(self.part_names.iter().map(String::as_str))) }
            dl {
                @for bar in &self.bars {
                    dt dir="auto" { (bar.label) }
                    dd {
                        span.track {
                            @for (index, part) in bar.parts.iter().enumerate() {
                                span.part.(series_class(index)) style=(format!("width:{:.2}%", percent(*part)))
                                    title=(format!("{} {}", part_name(index), format_number(*part, self.decimals)).trim()) {}
                            }
                        }
                        span.value {
                            (format_number(bar.total(), self.decimals))
                            @if !self.unit.is_empty() { span.unit { " " (self.unit) } }
                        }
                    }
                }
            }
        };
        figure("bars", &self.caption, body)
    }
}

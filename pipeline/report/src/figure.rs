//! What all charts share: the frame with its caption, colours, axes and the word for "nothing here".

use maud::{Markup, Render, html};

use crate::axis::Axis;
use crate::number::format_tick;

/// Series colours defined by the style sheet; more series than that take them again.
const SERIES_COLOURS: usize = 8;

/// The style class that colours the `index`-th series.
pub fn series_class(index: usize) -> String {
    format!("s{}", index % SERIES_COLOURS + 1)
}

/// A chart or picture with its caption.
pub fn figure(class: &str, caption: &str, body: Markup) -> Markup {
    html! {
        figure class=(class) {
            (body)
            @if !caption.is_empty() { figcaption dir="auto" { (caption) } }
        }
    }
}

/// What a chart without data shows.
pub fn nothing() -> Markup {
    html! { p.nothing { "no data" } }
}

/// A length in pixels, at a tenth of a pixel.
pub struct Px(pub f64);

impl Render for Px {
    fn render_to(&self, buffer: &mut String) {
        let tenths = (self.0 * 10.0).round() / 10.0;
        // "-0" is valid and ugly.
        buffer.push_str(&format!("{}", if tenths == 0.0 { 0.0 } else { tenths }));
    }
}

/// The rectangle that data is drawn in, inside the viewBox.
#[derive(Clone, Copy)]
pub struct Plot {
    pub left: f64,
    pub right: f64,
    pub top: f64,
    pub bottom: f64,
}

impl Plot {
    pub fn x_range(&self) -> (f64, f64) {
        (self.left, self.right)
    }

    /// Upwards: pixels grow downwards.
    pub fn y_range(&self) -> (f64, f64) {
        (self.bottom, self.top)
    }

    /// Grid lines, tick texts and axis titles.
    pub fn frame(&self, x: &Axis, y: &Axis, x_label: &str, y_label: &str) -> Markup {
        html! {
            g.gridlines {
                @for tick in &y.ticks {
                    @if let Some(at) = y.place(*tick) {
                        line x1=(Px(self.left)) x2=(Px(self.right)) y1=(Px(at)) y2=(Px(at)) {}
                    }
                }
            }
            g.ticks {
                @for tick in &y.ticks {
                    @if let Some(at) = y.place(*tick) {
                        text.y x=(Px(self.left - 8.0)) y=(Px(at + 4.0)) { (format_tick(*tick)) }
                    }
                }
                @for tick in &x.ticks {
                    @if let Some(at) = x.place(*tick) {
                        text.x x=(Px(at)) y=(Px(self.bottom + 18.0)) { (format_tick(*tick)) }
                    }
                }
            }
            line.axis x1=(Px(self.left)) x2=(Px(self.right)) y1=(Px(self.bottom)) y2=(Px(self.bottom)) {}
            text.axis-title x=(Px((self.left + self.right) / 2.0)) y=(Px(self.bottom + 37.0)) { (x_label) }
            text.axis-title.start x=(Px(self.left - 42.0)) y=(Px(self.top - 14.0)) { (y_label) }
        }
    }
}

/// Names with their series colour.
pub fn legend<'a>(names: impl Iterator<Item = &'a str>) -> Markup {
    html! {
        ul.legend {
            @for (index, name) in names.enumerate() {
                li { span.swatch.(series_class(index)) {} span dir="auto" { (name) } }
            }
        }
    }
}

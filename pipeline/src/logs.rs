//! What a process says beside its output: plain words, or one JSON object a line. All of it goes through one door, which
//! takes out secrets and keeps the last words.

mod json;
mod last_words;
mod scrub;
mod task;

use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::terminal::plain_lines;

pub use json::{Event, Who};
pub use last_words::LastWords;
pub(crate) use task::TASK;
pub use task::task;

/// How words are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line, for programs.
    Json,
}

/// How much is said, and where.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manner {
    /// How words are written.
    pub format: LogFormat,
    /// Whether objects go to standard output: they are what the command is asked for.
    pub on_output: bool,
    /// Whether only warnings and errors are said.
    pub quiet: bool,
    /// 0: what matters; 1: also what each part does; 2 and more: every detail.
    pub verbose: u8,
}

impl Manner {
    /// Which words of which modules are heard.
    fn filter(&self) -> &'static str {
        match (self.quiet, self.verbose, self.format) {
            (true, ..) | (false, 0, LogFormat::Text) => "warn,delta_kernel=off",
            (false, 0, LogFormat::Json) => "warn,workers=info,pipeline=info,delta_kernel=off",
            (false, 1, _) => "warn,workers=info,pipeline=info,stages=info,training=info,ranks=info,delta_kernel=off",
            (false, ..) => "info,workers=debug,pipeline=debug,stages=debug,training=debug,ranks=debug,delta_kernel=off",
        }
    }
}

/// Variable by which a process tells its children the format.
pub const FORMAT: &str = "URBANCROSS_LOG_FORMAT";

/// Last words that are kept.
const MOST_KEPT_BYTES: usize = 1 << 20;

struct Door {
    is_json: bool,
    on_output: bool,
    quiet: bool,
    who: Who,
    secrets: Vec<String>,
    kept: Kept,
}

static DOOR: Mutex<Door> = Mutex::new(Door {
    is_json: false,
    on_output: false,
    quiet: false,
    who: Who::NOBODY,
    secrets: Vec::new(),
    kept: Kept { lines: VecDeque::new(), bytes: 0 },
});

fn door<T>(act: impl FnOnce(&mut Door) -> T) -> T {
    act(&mut DOOR.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Opens the door, for the whole process. `URBANCROSS_LOG` says how much is told, whatever the manner.
pub fn begin(manner: Manner) {
    let is_json = manner.format == LogFormat::Json;
    door(|door| {
        door.is_json = is_json;
        door.on_output = is_json && manner.on_output;
        door.quiet = manner.quiet;
        door.who.node = Some(workers::claims::node(&|name| std::env::var(name).ok()));
        door.secrets = scrub::secrets(std::env::vars());
    });
    let filter = EnvFilter::try_from_env("URBANCROSS_LOG").unwrap_or_else(|_| EnvFilter::new(manner.filter()));
    let registry = tracing_subscriber::registry().with(filter);
    if is_json {
        registry.with(json::JsonLines).init();
        std::panic::set_hook(Box::new(|panic| say("error", "panic", &panic.to_string())));
        return;
    }
    let coloured = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    let words = tracing_subscriber::fmt::layer().with_writer(|| Words).without_time().with_ansi(coloured);
    // which module a word comes from matters to whoever asked for more of them
    let words = words.with_target(std::env::var_os("URBANCROSS_LOG").is_some() || manner.verbose > 0);
    // it would say so on standard error, and panic where nobody listens there
    registry.with(words.log_internal_errors(false)).init();
}

/// Are lines objects?
pub fn is_json() -> bool {
    door(|door| door.is_json)
}

/// Are the objects of this process its output?
pub fn on_output() -> bool {
    door(|door| door.on_output)
}

/// Are only warnings and errors said?
pub fn is_quiet() -> bool {
    door(|door| door.quiet)
}

/// Says once who writes the lines to come.
pub fn identify(who: Who) {
    door(|door| door.who = who);
}

/// Says something in words, which may be several lines.
pub fn note(text: &str) {
    match is_json() {
        true if text.trim().is_empty() => {}
        true => say(level_of(text), "note", text.trim()),
        false if is_quiet() && !["error: ", "warning: "].iter().any(|level| text.starts_with(level)) => {}
        // servers and tables quote what strangers wrote
        false => write(&plain_lines(text)),
    }
}

/// How grave a line is, by its first word.
pub(crate) fn level_of(text: &str) -> &'static str {
    let levels = [("error: ", "error"), ("warning: ", "warn")];
    levels.into_iter().find(|(word, _)| text.starts_with(word)).map_or("info", |(_, level)| level)
}

/// Says something that happened, as an object; nothing where lines are words.
pub fn event(event: &Event<'_>) {
    if is_json() && !(is_quiet() && event.level == "info") {
        write(&door(|door| event.line(&door.who, &door.secrets)));
    }
}

fn say(level: &'static str, name: &str, message: &str) {
    event(&Event { level, event: name, message, ..Event::default() });
}

/// The last words so far.
pub(crate) fn last_words() -> String {
    door(|door| door.kept.lines.iter().map(String::as_str).collect())
}

/// Keeps a word that is told later.
fn keep(text: &str) {
    door(|door| {
        let text = scrub::scrub(text, &door.secrets);
        door.kept.add(text);
    });
}

/// Writes what nobody needs to hear: a reader who has gone changes nothing.
fn write(text: &str) {
    let (text, on_output) = door(|door| {
        // an object was cleaned field by field
        let text = if door.is_json { text.to_owned() } else { scrub::scrub(text, &door.secrets) };
        door.kept.add(text.clone());
        (text, door.on_output)
    });
    if on_output {
        let mut stdout = std::io::stdout();
        _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
        return;
    }
    let mut stderr = std::io::stderr();
    _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

/// Where words of libraries go: each event is written at once.
struct Words;

impl Write for Words {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        write(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Lines of which the oldest are forgotten.
#[derive(Default)]
struct Kept {
    lines: VecDeque<String>,
    bytes: usize,
}

impl Kept {
    fn add(&mut self, line: String) {
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.bytes > MOST_KEPT_BYTES {
            let Some(oldest) = self.lines.pop_front() else { return };
            self.bytes -= oldest.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_words_are_forgotten() {
        let mut kept = Kept::default();
        for number in 0..3000 {
            kept.add(format!("{number:01023}\n"));
        }
        assert_eq!((kept.bytes, kept.lines.len()), (MOST_KEPT_BYTES, 1024));
        assert!(kept.lines.back().unwrap().ends_with("2999\n"));
        kept.add("x".repeat(2 * MOST_KEPT_BYTES));
        assert_eq!((kept.bytes, kept.lines.len()), (0, 0));
    }
}

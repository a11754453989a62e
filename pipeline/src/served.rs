//! Steps that a server of texts answers: whether it can be asked, what it was asked for, and what is left to pay.

use manifests::plan::Usage;
use manifests::spec::CaptionServerSpec;
use manifests::words::count;
use serde::Serialize;
use stages::Step;
use stages::stage::ModelUse;
use workers::WorkerError;
use workers::rates::{Wanted, measured};

use crate::build::Build;
use crate::plan::model_of;
use crate::progress::Progress;

/// Requests and tokens that a step is expected to take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Expected {
    /// Requests, at least one for each row.
    pub requests: u64,
    /// Tokens of prompts and images; `None`: nothing was measured yet.
    pub tokens_in: Option<u64>,
    /// Tokens of answers.
    pub tokens_out: Option<u64>,
    /// What they cost, where the spec has prices.
    pub price: Option<f64>,
    /// Rows whose tokens were counted before.
    pub measured_rows: u64,
}

/// Does a server answer this step?
pub fn is_served(step: &Step) -> bool {
    matches!(step, Step::Map(stage) if stage.model == ModelUse::Served)
}

/// Asks the server whether it is there, takes the key and has the model, before hours of other work. One that is needed
/// later and does not answer now is a warning.
///
/// # Errors
/// [`WorkerError::Configuration`] where something must be computed that this server, or this key, will never answer.
pub async fn check(build: &Build, progress: &Progress) -> Result<(), WorkerError> {
    for stage in stages::map_stages(&build.spec).iter().filter(|stage| stage.model == ModelUse::Served) {
        let Some(model) = model_of(build, stage).await? else { continue };
        if crate::settled::is_settled(build, stage, &model).await? {
            continue;
        }
        match workers::chat_server::probe(&build.spec.caption.server).await {
            Ok(_) => {}
            Err(WorkerError::Transient(why)) => {
                progress.note(&format!("warning: {why}; going on: {} will need it", stage.name));
            }
            Err(error) => return Err(error),
        }
        return Ok(());
    }
    Ok(())
}

/// What a server was asked for, with the price where there is one.
pub fn in_words(usage: &Usage, spec: &CaptionServerSpec) -> String {
    if usage.tokens_in == 0 && usage.tokens_out == 0 {
        return format!("{}, whose tokens the server did not count", count(usage.requests, "answer"));
    }
    let price = if spec.has_prices() {
        format!(", price {}", amount(spec.price(usage.tokens_in, usage.tokens_out)))
    } else {
        String::new()
    };
    format!(
        "{}, {} in, {} out{price}",
        count(usage.requests, "answer"),
        count(usage.tokens_in, "token"),
        count(usage.tokens_out, "token")
    )
}

/// A price with as many digits as say something.
fn amount(price: f64) -> String {
    if price >= 1.0 || price == 0.0 { format!("{price:.2}") } else { format!("{price:.6}") }
}

/// What the steps of a plan will ask for, by what finished shards took; `rows` that a step makes, where it is planned.
///
/// # Errors
/// A store that does not answer.
pub async fn expected(
    build: &Build,
    rows: impl Fn(&str) -> Option<u64>,
) -> Result<Vec<(&'static str, Expected)>, WorkerError> {
    let mut all = Vec::new();
    for stage in stages::map_stages(&build.spec).iter().filter(|stage| stage.model == ModelUse::Served) {
        let Some(rows) = rows(stage.name) else { continue };
        let at_once = build.spec.work.concurrency;
        let wanted = Wanted { settings: &stage.pace(&build.spec, &build.weights), device: None };
        let known = measured(&build.work, &build.spec.country, stage.name, wanted, at_once).await?.counted;
        all.push((stage.name, of(rows, (known.rows, known.usage), &build.spec.caption.server)));
    }
    Ok(all)
}

/// By the rows that were measured before.
fn of(rows: u64, (measured_rows, usage): (u64, Usage), spec: &CaptionServerSpec) -> Expected {
    let is_known = measured_rows > 0 && (usage.tokens_in > 0 || usage.tokens_out > 0);
    let share = |counted: u64| (counted as f64 / measured_rows as f64 * rows as f64).ceil() as u64;
    let (tokens_in, tokens_out) = (share(usage.tokens_in), share(usage.tokens_out));
    Expected {
        requests: if is_known { share(usage.requests).max(rows) } else { rows },
        tokens_in: is_known.then_some(tokens_in),
        tokens_out: is_known.then_some(tokens_out),
        price: (is_known && spec.has_prices()).then(|| spec.price(tokens_in, tokens_out)),
        measured_rows: if is_known { measured_rows } else { 0 },
    }
}

impl Expected {
    /// A line of a plan.
    pub fn line(&self, step: &str) -> String {
        let tokens = match self.tokens_in.zip(self.tokens_out) {
            None => "tokens are known when a first shard is made, if the server counts them".to_owned(),
            Some((tokens_in, tokens_out)) => {
                let price = self.price.map_or(String::new(), |price| format!(", price {}", amount(price)));
                format!(
                    "about {} in, {} out{price} (as {} took)",
                    count(tokens_in, "token"),
                    count(tokens_out, "token"),
                    count(self.measured_rows, "row")
                )
            }
        };
        format!("{step:21} asks the server for {} or more; {tokens}", count(self.requests, "answer"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> CaptionServerSpec {
        CaptionServerSpec {
            price_per_million_tokens_in: 2.0,
            price_per_million_tokens_out: 8.0,
            ..CaptionServerSpec::default()
        }
    }

    #[test]
    fn what_is_left_costs_what_was_measured() {
        let usage = Usage { requests: 110, tokens_in: 50_000, tokens_out: 10_000 };
        let wanted = of(1000, (100, usage), &spec());
        assert_eq!((wanted.requests, wanted.tokens_in, wanted.tokens_out), (1100, Some(500_000), Some(100_000)));
        assert!((wanted.price.unwrap() - 1.8).abs() < 1e-9);
        let unknown = of(1000, (0, Usage::default()), &spec());
        assert_eq!((unknown.requests, unknown.tokens_in, unknown.price), (1000, None, None));
        assert!(unknown.line("captions").contains("when a first shard is made"));
        let uncounted = Usage { requests: 5, ..Usage::default() };
        assert_eq!(of(10, (5, uncounted), &spec()).price, None, "nobody counted: nobody knows");
        assert!(in_words(&uncounted, &spec()).contains("did not count"));
        assert_eq!(of(0, (100, usage), &spec()).price, Some(0.0));
    }

    #[test]
    fn prices_are_said_where_there_are_some() {
        let usage = Usage { requests: 2, tokens_in: 1000, tokens_out: 1 };
        assert_eq!(in_words(&usage, &spec()), "2 answers, 1000 tokens in, 1 token out, price 0.002008");
        assert_eq!(in_words(&usage, &CaptionServerSpec::default()), "2 answers, 1000 tokens in, 1 token out");
    }
}

//! `urbancross review`.

use anyhow::Result;
use clap::{ArgGroup, Args, ValueEnum};
use manifests::review::Wish;
use manifests::words::count;
use serde::Serialize;
use workers::WorkerError;
use workers::reviews::{Decided, Looked};

use super::arguments::SpecArgs;
use super::numbers::within;
use crate::review::{self, Ask, MOST_LISTED, Tally, Waits};
use crate::terminal::plain_lines;
use crate::{aside, say};

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("decision").args(["accept", "edit", "reject", "withdraw"])))]
pub(super) struct ReviewArgs {
    #[command(flatten)]
    spec: SpecArgs,
    #[arg(long, value_name = "IMAGE_ID", help = "The caption is right as it is")]
    accept: Option<String>,
    #[arg(long, value_name = "IMAGE_ID", requires = "text", help = "Another caption takes its place")]
    edit: Option<String>,
    #[arg(long, value_name = "IMAGE_ID", help = "Leave the image out: no caption would fit")]
    reject: Option<String>,
    #[arg(long, value_name = "IMAGE_ID", help = "Take the last decision back")]
    withdraw: Option<String>,
    #[arg(long, requires = "edit", help = "The caption; several times for several")]
    text: Vec<String>,
    #[arg(long, value_name = "NAME", requires = "decision", help = "Who decides; otherwise the user's name")]
    author: Option<String>,
    #[arg(
        long,
        value_name = "TOKEN",
        requires = "decision",
        help = "The token of the list: nothing is written if the image is another by now"
    )]
    seen: Option<String>,
    #[arg(long, value_name = "WHY", value_enum, conflicts_with = "decision", help = "List only what waits for this")]
    only: Option<Only>,
    #[arg(long, value_name = "IMAGE_ID", conflicts_with = "decision", help = "List what comes after this image")]
    after: Option<String>,
    #[arg(
        long,
        value_name = "N",
        default_value_t = 50,
        value_parser = within("a whole number", 1..=MOST_LISTED),
        allow_negative_numbers = true,
        help = "Images to list"
    )]
    top: usize,
    #[arg(long, help = "Machine-readable output")]
    json: bool,
}

/// [`Waits`] on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Only {
    /// No caption could be made
    Failed,
    /// A caption below a threshold
    Flagged,
    /// Tags or the picture changed after somebody decided
    ReviewAgain,
}

impl ReviewArgs {
    fn wish(&self) -> Option<(String, Wish)> {
        let of = |id: &Option<String>, wish: Wish| id.clone().map(|id| (id, wish));
        of(&self.accept, Wish::Accept)
            .or_else(|| of(&self.edit, Wish::Edit(self.text.clone())))
            .or_else(|| of(&self.reject, Wish::Reject))
            .or_else(|| of(&self.withdraw, Wish::Withdraw))
    }
}

pub(super) async fn review(args: ReviewArgs) -> Result<()> {
    let reviews = review::open(&args.spec.read()?).await?;
    let Some((image_id, wish)) = args.wish() else { return list(&reviews, &args).await };
    let author = args.author.clone().or_else(review::user_name).ok_or_else(|| {
        WorkerError::Configuration("nobody knows who decides: name yourself with --author NAME".to_owned())
    })?;
    let ask = Ask { image_id: image_id.clone(), wish, author, seen: args.seen.clone() };
    match review::decide(&reviews, ask).await? {
        Decided::Changed(now) => {
            let how = format!("look at it, and decide with --seen {}", now.token);
            return Err(WorkerError::Configuration(format!("{}; {how}", review::unseen(&now))).into());
        }
        Decided::Already => aside!("{image_id}: that was so before"),
        Decided::Done => aside!("{image_id}: written; the next `urbancross run` makes use of it"),
    }
    let now = reviews.look(&image_id).await?;
    if args.json {
        say!("{}", serde_json::to_string_pretty(&now)?);
    } else if let Some(now) = now {
        print(&now)?;
    }
    Ok(())
}

async fn list(reviews: &workers::reviews::Reviews, args: &ReviewArgs) -> Result<()> {
    #[derive(Serialize)]
    struct List {
        tally: Tally,
        #[serde(flatten)]
        queue: review::Queue,
    }
    let only = args.only.map(|only| match only {
        Only::Failed => Waits::Failed,
        Only::Flagged => Waits::Flagged,
        Only::ReviewAgain => Waits::ReviewAgain,
    });
    let tally = reviews.tally().await?;
    let queue = reviews.queue(only, args.after.as_deref(), args.top).await?;
    if args.json {
        say!("{}", serde_json::to_string_pretty(&List { tally, queue })?);
        return Ok(());
    }
    for image in &queue.images {
        print(image)?;
    }
    let waiting: Vec<String> =
        tally.waiting.iter().map(|(waits, images)| format!("{images} {}", waits.words())).collect();
    say!(
        "{} waiting; {} decided, {} of them for the next run",
        waiting.join(", "),
        count(tally.decided, "image"),
        tally.pending
    );
    if let Some(next) = queue.next {
        say!("more with --after {next}");
    }
    Ok(())
}

fn print(image: &Looked) -> Result<()> {
    let waits = image.waits.map_or_else(String::new, |waits| format!("  {}", waits.words()));
    say!("{}{waits}", image.image_id);
    if !image.why.is_empty() {
        say!("  {}", plain_lines(&image.why));
    }
    for caption in &image.captions {
        say!("  \"{}\" ({})", plain_lines(caption), image.captioner);
    }
    if let Some(tags) = &image.center_tags {
        say!("  tags {}", plain_lines(tags));
    }
    if let Some(review) = &image.review {
        let pending = if image.pending { "; waits for the next run" } else { "" };
        say!("  {}{pending}", plain_lines(&review.in_words()));
    }
    Ok(())
}

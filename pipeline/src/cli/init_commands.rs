//! `urbancross init`: answers from flags, and from a person where they are missing.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use workers::WorkerError;

use crate::init::{self, Answers, Kind, SKYSCRIPT, Scale};
use crate::say;

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    #[arg(long, short, default_value = "build.toml", help = "File to write")]
    output: PathBuf,
    #[arg(long, help = "Name of the country or data set, such as finland; asked for if it is missing, as all others")]
    country: Option<String>,
    #[arg(long, help = "Its two letters of ISO 3166-1, such as FI")]
    code: Option<String>,
    #[arg(long, value_enum, help = "What the images are")]
    kind: Option<Kind>,
    #[arg(long, help = "Address or folder of the images")]
    source: Option<String>,
    #[arg(long, help = "Address or folder for all that is made")]
    work: Option<String>,
    #[arg(long, value_enum, help = "Which methods")]
    scale: Option<Scale>,
}

/// Whoever answers.
struct Person {
    is_there: bool,
}

impl Person {
    /// The flag, or what a person says, or `usual`; without any of them the flag is asked for.
    fn ask(&self, given: &Option<String>, flag: &str, question: &str, usual: Option<&str>) -> Result<String> {
        if let Some(given) = given {
            return Ok(given.clone());
        }
        if self.is_there {
            let mut out = std::io::stderr().lock();
            match usual {
                Some(usual) => write!(out, "{question} [{usual}]: ")?,
                None => write!(out, "{question}: ")?,
            }
            out.flush()?;
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line)?;
            if !line.trim().is_empty() {
                return Ok(line.trim().to_owned());
            }
        }
        match usual {
            Some(usual) => Ok(usual.to_owned()),
            None => Err(WorkerError::Configuration(format!("--{flag} is missing: {question}")).into()),
        }
    }

    fn choose<T: ValueEnum + Clone>(&self, given: Option<T>, flag: &str, question: &str, usual: &T) -> Result<T> {
        let name = |value: &T| value.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned());
        if let Some(given) = given {
            return Ok(given);
        }
        let names: Vec<String> = T::value_variants().iter().map(name).collect();
        let said = self.ask(&None, flag, &format!("{question} ({})", names.join(" or ")), Some(&name(usual)))?;
        T::from_str(&said, true)
            .map_err(|_| WorkerError::Configuration(format!("{said:?} is none of {}", names.join(", "))).into())
    }
}

pub(super) fn init(args: InitArgs) -> Result<()> {
    let person = Person { is_there: std::io::stdin().is_terminal() && std::io::stderr().is_terminal() };
    let kind = person.choose(args.kind, "kind", "What are the images", &Kind::Skyscript)?;
    let country = person.ask(&args.country, "country", "Name of the country or data set, such as finland", None)?;
    let code = match kind {
        Kind::Captioned => String::new(),
        Kind::Skyscript => {
            person.ask(&args.code, "code", "Its two letters of ISO 3166-1, such as FI", None)?.to_uppercase()
        }
    };
    let usual_source = (kind == Kind::Skyscript).then_some(SKYSCRIPT);
    let source = person.ask(&args.source, "source", "Address or folder of the images", usual_source)?;
    let work = person.ask(&args.work, "work", "Address or folder for all that is made", Some("work"))?;
    let scale = person.choose(
        args.scale,
        "scale",
        "Without external weights on one machine, or the paper's networks on a large GPU",
        &Scale::Light,
    )?;
    let answers = Answers { country, code, kind, source, work, scale };
    init::write(&answers, &args.output)?;
    let file = args.output.display();
    say!("{file} is written. Next:");
    say!("  urbancross doctor {file}");
    say!("  urbancross plan {file}");
    say!("  urbancross run {file}");
    let credentials = answers.credentials();
    if !credentials.is_empty() {
        say!("In the environment:");
        for (names, used_for) in credentials {
            say!("  {names}: {used_for}");
        }
    }
    Ok(())
}

//! What the command line can say.

use std::path::PathBuf;

use clap::{ArgAction, Parser, Subcommand};

use super::analyse_commands::AnalyseArgs;
use super::arguments::{
    ClusterArgs, EngineArgs, EngineName, FailedArgs, LogsArgs, MetricsArgs, PairArgs, RunArgs, SetArgs, ShareArgs,
    SpecArgs, StepArgs, TryArgs, run_name,
};
use super::export_commands::ExportArgs;
use super::numbers::within;
use super::review_commands::ReviewArgs;
use super::search_commands::SearchArgs;
use super::serve_commands::ServeArgs;
use super::several::ExperimentArgs;
use super::simulate_commands::{PriceArgs, RateArgs, SimulateArgs};
use super::tags_commands::TagsCommand;
use super::zero_shot_commands::ZeroShotArgs;
use super::{schema, upkeep_commands};
use crate::logs::{FORMAT, LogFormat, Manner};

/// More changed rows than anybody reads.
const MOST_EXAMPLES: usize = 10_000;
/// More adaptations at once than any machine has cores.
const MOST_JOBS: usize = 4096;

/// Prepares satellite image–text data (SkyScript archives or captioned folders), trains a CLIP
/// retrieval model on it and evaluates it. Everything is resumable: run the same command again.
#[derive(Debug, Parser)]
#[command(name = "urbancross", version = crate::version(), arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
    #[arg(long, global = true, value_enum, default_value_t, env = FORMAT, help = "How progress and messages are written")]
    log: LogFormat,
    #[arg(short, long, global = true, conflicts_with = "verbose", help = "Say only warnings and errors")]
    quiet: bool,
    #[arg(short, long, global = true, action = ArgAction::Count, help = "Say what each part does; twice: every detail")]
    verbose: u8,
}

impl Cli {
    /// How progress and messages are written.
    pub fn manner(&self) -> Manner {
        let on_output = matches!(self.command, Command::Run { json: true, .. });
        let format = if on_output { LogFormat::Json } else { self.log };
        Manner { format, on_output, quiet: self.quiet, verbose: self.verbose }
    }
}

const EXAMPLES: &str = "Examples:
  urbancross-sandbox world                          make three small countries to try things on
  urbancross plan manifests/sandbox.toml            what would run, how many rows, and why
  urbancross run manifests/sandbox.toml             run it; again after Ctrl-C, a crash or an edit
  urbancross explain manifests/sandbox.toml IMAGE   why a row is as it is

Exit codes: 0 done, 2 wrong usage, 65 permanent error, 74 output not written, 75 try again, 143 stopped.";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show what a run would do: rows per stage, and why
    #[command(mut_arg("spec", of_any))]
    Plan {
        #[command(flatten)]
        spec: SpecArgs,
        #[command(flatten)]
        options: RunArgs,
        #[arg(long, value_name = "GPUS", help = "Also show what a cluster makes of it, such as `64xH100,8/node`")]
        cluster: Option<engines::ClusterShape>,
        #[command(flatten)]
        rates: RateArgs,
        #[command(flatten)]
        price: PriceArgs,
        #[arg(long, help = "Machine-readable output")]
        json: bool,
    },
    /// Simulate a build on a cluster: hours, requests and money, also of several sizes
    Simulate {
        #[command(flatten)]
        spec: SpecArgs,
        #[command(flatten)]
        args: SimulateArgs,
    },
    /// Run a build; what is done stays done
    Run {
        #[command(flatten)]
        spec: SpecArgs,
        #[command(flatten)]
        options: RunArgs,
        #[command(flatten)]
        steps: StepArgs,
        #[command(flatten)]
        metrics: MetricsArgs,
        #[arg(long, help = "Print one object a line: each step as it ends, and last the outcome or the error")]
        json: bool,
    },
    /// Run a build, a pair, or a folder of builds by several workers; may be killed, and started as often as one likes
    #[command(mut_arg("spec", of_any))]
    Drive {
        #[command(flatten)]
        spec: SpecArgs,
        #[command(flatten)]
        options: RunArgs,
        #[command(flatten)]
        steps: StepArgs,
        #[command(flatten)]
        experiment: ExperimentArgs,
        #[command(flatten)]
        engine: EngineArgs,
        #[command(flatten)]
        metrics: MetricsArgs,
    },
    /// Map shards of a plan beside other workers; an engine starts it, and it returns when the plan is closed
    Worker {
        #[command(flatten)]
        spec: SpecArgs,
        #[command(flatten)]
        share: ShareArgs,
        #[command(flatten)]
        metrics: MetricsArgs,
    },
    /// Give builds to a cluster: their drivers plan, start workers and publish until all is done
    Submit {
        #[arg(
            required = true,
            help = "Specs of builds or pairs, or folders of them, each of which becomes a run of its own"
        )]
        specs: Vec<PathBuf>,
        #[command(flatten)]
        set: SetArgs,
        #[command(flatten)]
        steps: StepArgs,
        #[command(flatten)]
        failed: FailedArgs,
        #[command(flatten)]
        experiment: ExperimentArgs,
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// Write what a cluster would be given, without one
    #[command(mut_arg("spec", of_any))]
    Render {
        #[command(flatten)]
        spec: SpecArgs,
        #[arg(long, value_name = "STEP", help = "As of `submit`")]
        until: Option<String>,
        #[command(flatten)]
        experiment: ExperimentArgs,
        #[command(flatten)]
        cluster: ClusterArgs,
        #[arg(
            long,
            help = "For kubernetes: trainings as Kubeflow's TrainJobs, which people apply; drivers place Jobs"
        )]
        trainjob: bool,
        #[arg(long, short, value_name = "DIR", help = "Folder for the files; otherwise they are printed")]
        output: Option<PathBuf>,
    },
    /// Open shards again that are closed as failed
    #[command(mut_arg("spec", of_any))]
    Retry {
        #[command(flatten)]
        spec: SpecArgs,
        #[arg(long, help = "All of them")]
        errors: bool,
        #[arg(long, value_name = "N", conflicts_with = "errors", help = "Those of one number")]
        shard: Option<u32>,
        #[arg(long, value_name = "STAGE", help = "Of one stage alone")]
        stage: Option<String>,
    },
    /// End the runs of a build on clusters; what is done stays done
    #[command(mut_arg("spec", of_any))]
    Cancel {
        #[command(flatten)]
        spec: SpecArgs,
        #[arg(long, value_name = "ID", value_parser = run_name, help = "One run alone")]
        run: Option<String>,
        #[arg(long, help = "Kill; otherwise workers leave what they have begun for others")]
        now: bool,
    },
    /// Show what the processes of runs on clusters said last, from the work store
    #[command(mut_arg("spec", of_any))]
    Logs {
        #[command(flatten)]
        spec: SpecArgs,
        #[command(flatten)]
        args: LogsArgs,
    },
    /// Show what the work store holds, without reading the source, and how far runs on clusters are
    #[command(mut_arg("spec", of_any))]
    Status {
        #[command(flatten)]
        spec: SpecArgs,
        #[arg(long, help = "Only the runs on clusters; ends with 65 if shards have failed")]
        runs: bool,
        #[arg(long, help = "Show the runs again and again until none has jobs", requires = "runs")]
        watch: bool,
        #[arg(long, help = "Machine-readable output")]
        json: bool,
    },
    /// Explain the state of an image, a shard (`shard 3`) or a stage
    Explain {
        #[command(flatten)]
        spec: SpecArgs,
        #[arg(help = "Image id, `shard N`, or a stage", required = true, num_args = 1..=2)]
        what: Vec<String>,
    },
    /// Show what is another than it was: rows, captions and recall, and the edits that moved them
    Diff {
        #[command(flatten)]
        spec: SpecArgs,
        #[arg(
            long,
            value_name = "MOMENT",
            default_value = "1d",
            help = "A time (2026-11-27, 2026-11-27T10:30 in UTC), how long ago (90m, 2h, 3d), or a version (captions@12)"
        )]
        since: String,
        #[arg(
            long,
            default_value_t = 5,
            value_parser = within("a whole number", 0..=MOST_EXAMPLES),
            allow_negative_numbers = true,
            help = "Changed rows shown of each table"
        )]
        examples: usize,
        #[arg(long, help = "Machine-readable output")]
        json: bool,
    },
    /// Write the report of one or several builds as one HTML file
    Report {
        #[arg(required = true, help = "Build specs, or folders of them")]
        specs: Vec<PathBuf>,
        #[command(flatten)]
        set: SetArgs,
        #[arg(
            long,
            value_name = "TEXT",
            help = "Begin with the images that fit this text; may be given several times"
        )]
        search: Vec<String>,
        #[arg(long, short, default_value = "report.html", help = "Output file")]
        output: PathBuf,
    },
    /// Evaluate every build's model on every build's test images, and report; or models from elsewhere, as they are
    Evaluate {
        #[arg(required = true, help = "Build specs, or folders of them")]
        specs: Vec<PathBuf>,
        #[command(flatten)]
        set: SetArgs,
        #[command(flatten)]
        zero_shot: ZeroShotArgs,
        #[arg(long, short, conflicts_with = "models", help = "Also write a report of all of them here")]
        report: Option<PathBuf>,
        #[arg(
            long,
            value_name = "TEXT",
            requires = "report",
            help = "Begin the report with the images that fit this text"
        )]
        search: Vec<String>,
        #[arg(long, help = "Machine-readable output")]
        json: bool,
    },
    /// Write a build's images and captions, or its model, as files that other programs open
    Export {
        #[command(flatten)]
        spec: SpecArgs,
        #[command(flatten)]
        args: ExportArgs,
    },
    /// Find images of finished builds by a text or a picture
    #[command(override_usage = "urbancross search <SPEC> <TEXT|--image <FILE>|--like <IMAGE_ID>> [OPTIONS]")]
    Search {
        #[command(flatten)]
        args: Box<SearchArgs>,
    },
    /// List captions that wait for a person, or accept, edit or reject one
    Review {
        #[command(flatten)]
        args: Box<ReviewArgs>,
    },
    /// Refresh the tags of a build's images from OpenStreetMap
    Tags {
        #[command(subcommand)]
        what: TagsCommand,
    },
    /// Let stale rows of a step stand as they are: nothing is computed, and what is made of them stays
    Accept {
        #[command(flatten)]
        spec: SpecArgs,
        #[arg(help = "The step whose rows stand, such as `captions`")]
        step: String,
        #[arg(long, help = "Write it; without this, only show the rows that would stand")]
        write: bool,
        #[arg(long, value_name = "NAME", help = "Who says so; without it the user's name")]
        by: Option<String>,
        #[arg(long, help = "Machine-readable output")]
        json: bool,
    },
    /// Show finished builds as web pages: search, a map, images one by one, and what models see
    Serve {
        #[command(flatten)]
        args: Box<ServeArgs>,
    },
    /// Read every file of a build's tables and compare it with its checksums
    Verify {
        #[command(flatten)]
        spec: SpecArgs,
        #[arg(long, help = "Remove faulty files from the tables; the next run recomputes their rows")]
        repair: bool,
        #[arg(long, help = "Machine-readable output")]
        json: bool,
    },
    /// Delete what a build no longer needs: old parts, hints, checkpoints and log entries
    Gc {
        #[command(flatten)]
        spec: SpecArgs,
        #[arg(long, help = "Delete; without this, only list what would be deleted")]
        delete: bool,
        #[arg(
            long,
            value_name = "DAYS",
            default_value_t = 7.0,
            value_parser = within("a number of days", 0.0..=upkeep_commands::MOST_KEEP_DAYS),
            allow_negative_numbers = true,
            help = "Keep everything younger than this"
        )]
        keep_days: f64,
        #[arg(long, help = "Machine-readable output")]
        json: bool,
    },
    /// Run one training of a build as one of several ranks; a launcher sets RANK and WORLD_SIZE, or Slurm does
    Train {
        #[command(flatten)]
        spec: SpecArgs,
        #[arg(help = "bootstrap or pretrain", default_value = "pretrain")]
        training: String,
        #[command(flatten)]
        of_run: TryArgs,
        #[arg(long, help = "Train again even if a finished training is up to date")]
        retrain: bool,
        #[arg(
            long,
            hide = true,
            value_name = "WHAT",
            help = "As one run of a sweep over the build, which moves its training, segments or measure"
        )]
        swept: Option<String>,
    },
    /// Adapt the model of one country to another, and test it there; may be one of several ranks
    Adapt {
        #[command(flatten)]
        pair: PairArgs,
        #[command(flatten)]
        of_run: TryArgs,
        #[arg(
            long,
            help = "Also keep the target's vectors by the adapted model, and put a report beside those of builds"
        )]
        whole: bool,
        #[arg(long, help = "Machine-readable output")]
        json: bool,
    },
    /// Adapt with each part of the method left out, over several seeds: the paper's Table 2
    Ablate {
        #[arg(required = true, help = "Pair specs")]
        pairs: Vec<PathBuf>,
        #[command(flatten)]
        set: SetArgs,
        #[arg(
            long,
            default_value_t = 1,
            value_parser = within("a whole number", 1..=MOST_JOBS),
            allow_negative_numbers = true,
            help = "Adaptations to run at once, each in its own process with its share of the cores"
        )]
        jobs: usize,
        #[arg(long, short, help = "Write a report here")]
        report: Option<PathBuf>,
        #[arg(long, help = "Machine-readable output")]
        json: bool,
    },
    /// Train a finished build, or adapt a pair, under other settings, one setting moved at a time: the paper's Figure 5
    Sweep {
        #[command(flatten)]
        spec: SpecArgs,
        #[arg(
            long,
            required = true,
            value_name = "FIELD=VALUES",
            help = "Such as pretrain.learning_rate=1e-4,1e-3; also fields of score and evaluate, and of adapt for a pair spec"
        )]
        over: Vec<String>,
        #[arg(long, short, help = "Write a report here")]
        report: Option<PathBuf>,
        #[arg(long, help = "Machine-readable output")]
        json: bool,
    },
    /// Train finished builds with and without segments, and test both: the paper's Table 1
    SingleDomain {
        #[arg(required = true, help = "Build specs, or folders of them")]
        specs: Vec<PathBuf>,
        #[command(flatten)]
        set: SetArgs,
        #[arg(long, short, help = "Write a report here")]
        report: Option<PathBuf>,
        #[arg(long, help = "Machine-readable output")]
        json: bool,
    },
    /// Check that this machine and a build's stores can be used
    Doctor {
        #[arg(help = "Build spec whose stores are checked")]
        spec: Option<PathBuf>,
        #[command(flatten)]
        set: SetArgs,
        #[arg(long, value_enum, default_value = "slurm", help = "Whose cluster the profile is of: slurm or ray")]
        engine: EngineName,
        #[arg(long, value_name = "FILE", help = "Profile of a cluster that is looked at as well")]
        profile: Option<PathBuf>,
        #[arg(long, help = "Machine-readable output")]
        json: bool,
    },
    /// List the weights that a build names, with their digests, and fetch them; say where its own model lies
    Weights {
        #[command(flatten)]
        spec: SpecArgs,
        #[arg(long, help = "Fetch what is missing, and verify the rest against the lock")]
        fetch: bool,
        #[arg(long, help = "Machine-readable output")]
        json: bool,
    },
    /// Write a build spec from a few answers
    Init {
        #[command(flatten)]
        args: super::init_commands::InitArgs,
    },
    /// Print a build spec with `--set` and all defaults
    Spec {
        #[command(flatten)]
        spec: SpecArgs,
    },
    /// Print the JSON Schema of build or pair specs, for editors
    Schema {
        #[arg(help = "Which spec", default_value = "build")]
        of: schema::Kind,
    },
    /// Show what the data of builds are like: counts of tags, tags that go together, captioners and segmenters side by side
    Analyse {
        #[command(flatten)]
        args: Box<AnalyseArgs>,
    },
    /// Write man pages, one for each command
    Man {
        #[arg(long, short, value_name = "DIR", help = "Folder for them, such as ~/.local/share/man/man1")]
        out: PathBuf,
    },
    /// Print shell completions
    Completions { shell: clap_complete::Shell },
}

/// Of commands that take more than a build.
fn of_any(spec: clap::Arg) -> clap::Arg {
    spec.help("Spec of a build or of a pair, or a folder of specs")
}

//! `urbancross serve`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use atlas::{Compute, ComputeLimits, Desk, Guard, Page, Secret, ServerLimits, Site, Tiles, pages};
use clap::Args;
use manifests::words::count;
use tokio::net::TcpListener;
use url::Url;
use workers::WorkerError;

use super::arguments::SetArgs;
use super::numbers::within;
use super::stop_flag_saying;
use crate::progress::Progress;
use crate::serve::{Served, Specs, StoreDesk};
use crate::{aside, say};

/// More searches at once than any machine has cores.
const MOST_AT_ONCE: usize = 256;
const MOST_SECONDS: u64 = 24 * 60 * 60;
/// How often the store is looked at while somebody follows a build.
const LIVE_EVERY: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    #[arg(
        required = true,
        help = "Build specs, whose images are searched by the models of all; or pair specs: the target's images, by the \
                model before and after adaptation; or folders of them"
    )]
    specs: Vec<PathBuf>,
    #[command(flatten)]
    set: SetArgs,
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:7717",
        help = "Where to listen; beyond this machine (0.0.0.0:7717) readers need a token"
    )]
    listen: SocketAddr,
    #[arg(
        long,
        value_name = "URL",
        help = "Address that readers use, where a proxy adds TLS: https://atlas.example.org; needs a token"
    )]
    public_url: Option<Url>,
    #[arg(
        long,
        value_name = "FILE",
        help = "File with the token, at least 16 letters; otherwise URBANCROSS_TOKEN, or one is made up and printed"
    )]
    token_file: Option<PathBuf>,
    #[arg(
        long,
        value_name = "URL",
        help = "Tiles to draw below the map, such as https://tiles.example.org/{z}/{x}/{y}.png; browsers then ask there"
    )]
    tiles: Option<String>,
    #[arg(long, value_name = "TEXT", default_value = "", requires = "tiles", help = "Whose tiles they are")]
    tiles_credit: String,
    #[arg(
        long,
        value_name = "N",
        value_parser = within("a whole number", 1..=MOST_AT_ONCE),
        allow_negative_numbers = true,
        help = "Searches and pictures that are computed at once, others wait; the number of cores, if not said"
    )]
    at_once: Option<usize>,
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 10,
        value_parser = within("a number of seconds", 1..=MOST_SECONDS),
        allow_negative_numbers = true,
        help = "How often newer versions of the tables are looked for, while somebody reads"
    )]
    look_every: u64,
    #[arg(long, help = "Only the pages of the build and of captions to review: for builds that are not finished")]
    unfinished: bool,
}

pub(super) async fn serve(args: ServeArgs) -> Result<()> {
    let stop = stop_flag_saying("answers that have begun are finished first");
    let configuration = |why: String| anyhow::Error::from(WorkerError::Configuration(why));
    let tiles = args.tiles.as_deref().map(|tiles| Tiles::new(tiles, &args.tiles_credit));
    let tiles = tiles.transpose().map_err(configuration)?;
    let secret = secret(&args)?;
    let guard = Guard::new(args.listen.ip(), args.public_url.as_ref(), secret.clone(), tiles.as_ref());
    let guard = guard.map_err(configuration)?.named(&workers::host());
    let (specs, left_out) = Specs::read(&crate::given::spread(&args.specs)?, &args.set.set)?;
    // how it ends says nothing: somebody stops it
    left_out.say();
    // before minutes are spent on what it would serve
    let listener = TcpListener::bind(args.listen).await.map_err(|error| cannot_listen(args.listen, error))?;
    let listens = listener.local_addr()?;
    let compute = Arc::new(Compute::start(limits(&args))?);
    let pages = pages(&args, specs, compute, tiles, &stop)?;
    // the command's output, not among what is said aside: secrets are taken out of that
    let token = secret.map_or(String::new(), |secret| secret.in_address());
    say!("open {}{token}", address(&args, listens));
    let site = Site { pages, guard }.router();
    atlas::serve(listener, site, ServerLimits::default(), stopped(stop)).await;
    Ok(())
}

/// Everything that is served, each with its entry in the navigation.
fn pages(
    args: &ServeArgs,
    specs: Specs,
    compute: Arc<Compute>,
    tiles: Option<Tiles>,
    stop: &Arc<AtomicBool>,
) -> Result<Vec<Page>> {
    let threads = compute.handle().cloned().context("no threads to compute on")?;
    let every = Duration::from_secs(args.look_every);
    let progress = Progress::new(false);
    // stores keep to the threads that first asked them: those that compute
    let desk = tokio::task::block_in_place(|| threads.block_on(StoreDesk::open(&specs)))?;
    let desk: Arc<dyn Desk> = Arc::new(desk);
    let at_work = [
        pages::build::page(desk.clone(), compute.clone(), LIVE_EVERY),
        pages::edit::page(desk.clone(), compute.clone(), !args.unfinished),
        pages::review::page(desk, compute.clone()),
    ];
    if args.unfinished {
        return Ok([pages::build::home()].into_iter().chain(at_work).collect());
    }
    let opened = Served::open(specs, every, threads.clone(), stop.clone(), &progress);
    let opened = tokio::task::block_in_place(|| threads.block_on(opened))?;
    let (models, images) = opened.counts();
    aside!("{} by {}; stop with Ctrl-C", count(images, "image"), count(models as u64, "model"));
    Ok(pages::all(Arc::new(opened), compute, tiles).into_iter().chain(at_work).collect())
}

fn limits(args: &ServeArgs) -> ComputeLimits {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let at_once = args.at_once.unwrap_or(cores);
    // room for a crowd: what waits is small
    ComputeLimits { threads: cores.max(2), at_once, waiting: 1024, time: Duration::from_secs(60) }
}

/// The token that readers need; `None` where nobody else can reach the server.
fn secret(args: &ServeArgs) -> Result<Option<Secret>> {
    let wrong = |why: String| WorkerError::Configuration(why);
    let given = match &args.token_file {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| WorkerError::of_io(path, &error))?;
            Some(Secret::new(&text).map_err(|why| wrong(format!("{}: {why}", path.display())))?)
        }
        None => match std::env::var("URBANCROSS_TOKEN") {
            Ok(text) => Some(Secret::new(&text).map_err(|why| wrong(format!("URBANCROSS_TOKEN: {why}")))?),
            Err(_) => None,
        },
    };
    match given {
        None if Guard::needs_secret(args.listen.ip(), args.public_url.as_ref()) => {
            Ok(Some(Secret::random().map_err(wrong)?))
        }
        given => Ok(given),
    }
}

/// What a reader types.
/// Trying again helps where something else may leave, and not where the address is no machine's, or another one's.
fn cannot_listen(at: SocketAddr, error: std::io::Error) -> anyhow::Error {
    match error.kind() {
        std::io::ErrorKind::AddrNotAvailable => WorkerError::Configuration(format!(
            "--listen {at}: this machine has no such address; 127.0.0.1 is itself, and 0.0.0.0 all that it has"
        ))
        .into(),
        _ => anyhow::Error::from(error)
            .context(format!("{at} cannot be listened at: is something else there? --listen names another address")),
    }
}

fn address(args: &ServeArgs, listens: SocketAddr) -> String {
    match &args.public_url {
        Some(url) => url.to_string(),
        // no address that one could open
        None if listens.ip().is_unspecified() => format!("http://{}:{}/", workers::host(), listens.port()),
        None => format!("http://{listens}/"),
    }
}

async fn stopped(stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

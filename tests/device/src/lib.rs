//! Whether a device computes what it should, and how fast: each command is one step of `tests/gpu-check.sh`, which runs
//! them in processes of their own, since a GPU that has failed once answers nothing more in the same process.
//!
//! Right means: close to our own kernels on the CPU in f64, on fresh random inputs. Those kernels are compared with the
//! original implementations by the tests of their crates.

mod check;
pub mod checkpoint;
mod collectives;
mod failing;
mod masks;
mod measure;
mod networks;
mod operations;
mod parameters;
mod rates;
mod trainings;

use std::error::Error;
use std::process::ExitCode;

use candle_core::{DType, Device};
use clap::{Args, Parser, Subcommand, ValueEnum};

/// What a step comes to.
pub type Result<T = (), E = Box<dyn Error>> = std::result::Result<T, E>;

/// Checks and measures the devices that networks run on.
#[derive(Debug, Parser)]
#[command(name = "device-check")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What the device is
    Device(Place),
    /// Every operation there and back beside the CPU in f64
    Operations {
        #[command(flatten)]
        place: Place,
        #[arg(long, default_value_t = 1, help = "Seed of the inputs")]
        seed: u64,
    },
    /// Whole networks beside the CPU in f64
    Networks(Place),
    /// The mask decoder of a small network beside the CPU in f64, with every kind of prompt
    Masks(Place),
    /// Trainings of one rank and of two ranks on one device beside the CPU in f64, again and again
    Trainings {
        #[command(flatten)]
        place: Place,
        #[arg(long, default_value_t = 20)]
        times: usize,
    },
    /// NCCL with one rank: the operations that every communicator must do, then trainings
    Collectives {
        #[command(flatten)]
        place: Place,
        #[arg(long, default_value_t = 100)]
        times: usize,
    },
    /// A GPU that fails sooner or later, as the one that is the CPU can: it is told from a network that fails
    Failing(Place),
    /// Images, texts and training pairs per second of a CLIP, without an optimiser
    ClipRate(rates::clip::Options),
    /// Captions per second of an InstructBLIP with random weights
    CaptionRate(rates::caption::Options),
    /// Writes the checkpoint of an InstructBLIP with random weights
    CaptionWrite(rates::caption::WriteOptions),
    /// Seconds that Segment Anything takes for an image, part by part
    SamRate(rates::sam::Options),
    /// Texts per second of a sentence encoder
    SentenceRate(rates::sentence::Options),
    /// Training pairs per second of all ranks together, optimiser and collectives included
    TrainRate(rates::train::Options),
    /// The products of frozen networks on the CPU beside a library's
    PackedRate,
}

/// Where and in what type a network runs.
#[derive(Clone, Debug, Args)]
struct Place {
    #[arg(long, env = "DEVICE", default_value = "cpu", help = "cpu or cuda:N")]
    device: String,
    #[arg(long, env = "PRECISION", default_value = "f32")]
    precision: Precision,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Precision {
    F32,
    Bf16,
    F16,
}

impl Precision {
    fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::F16 => DType::F16,
        }
    }
}

impl Place {
    fn device(&self) -> Result<Device> {
        match self.device.split_once(':') {
            None if self.device == "cpu" => Ok(Device::Cpu),
            Some(("cuda", number)) => Ok(models::device::cuda(number.parse()?)?),
            _ => Err(format!("--device {}: cpu or cuda:N", self.device).into()),
        }
    }
}

impl Cli {
    /// Runs the command; its last line on standard output says whether all was well.
    pub fn run(self) -> ExitCode {
        let done = match &self.command {
            Command::Device(place) => measure::describe(place),
            Command::Operations { place, seed } => operations::run(place, *seed),
            Command::Networks(place) => networks::run(place),
            Command::Masks(place) => masks::run(place),
            Command::Trainings { place, times } => trainings::run(place, *times),
            Command::Collectives { place, times } => collectives::run(place, *times),
            Command::Failing(place) => failing::run(place),
            Command::ClipRate(options) => rates::clip::run(options),
            Command::CaptionRate(options) => rates::caption::run(options),
            Command::CaptionWrite(options) => rates::caption::write(options),
            Command::SamRate(options) => rates::sam::run(options),
            Command::SentenceRate(options) => rates::sentence::run(options),
            Command::TrainRate(options) => rates::train::run(options),
            Command::PackedRate => rates::packed::run(),
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                println!("failed: {error}");
                ExitCode::FAILURE
            }
        }
    }
}

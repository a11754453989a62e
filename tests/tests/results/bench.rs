//! What `make bench` concludes from the figures that it prints.

use pipeline_tests::python_with;

const LOG: &str = "\
loader, 64 px, ours:
loader, 64 px: 290.0 images/s (9 images)
loader, 64 px, PyTorch:
DataLoader, 64 px, 2 workers: 100.0 images/s (9 images)
loader, 64 px, ours:
loader, 64 px: 300.0 images/s (9 images)
ingest 400px, ours:
images_per_second 30.0
ViT-B/32, batch 32, ours:
encode_image 30.00 images/s
train_step 4.00 samples/s (8.000 s, forward 2.000 s)
ViT-B/32, batch 32, PyTorch:
encode_image 20.00 images/s
train_step 5.00 samples/s (6.400 s)
Segment Anything vit-b, ours:
encoder 2.000 s (4.000 s of processor time) per image
Segment Anything vit-b, the original on PyTorch:
encoder 3.000 s (6.000 s of processor time) per image
InstructBLIP, 1 beams, ours:
loaded in 3.000 s (1.000 s of processor time), 2 threads
1 beams, batch 8, 48 tokens: 20.0 tokens/s, 10.000 s (1.0 s of processor time)
image, prompt and first token 1.000 s (1.0 s of processor time); then 20.0 ms per step
InstructBLIP, 1 beams, transformers:
1 beams, batch 8, 48 tokens: 10.0 tokens/s (10.00 s, 9 MB)
image, prompt and first token 1.00 s; then 30.0 ms per step
recall of 20,000, ours:
rust: 20000 x 20000 x 512: 3.20 s (128 GFLOP/s), 100 MiB beyond the embeddings, mR 0.0300
recall of 20,000, NumPy:
numpy: 20000 x 20000 x 512: 6.40 s, 1000 MiB beyond the embeddings, mR 0.0300
small on two cores, two ranks:
small (5.1 M parameters), 2 ranks, batch 64: 55.00 samples/s, rank 0 held at most 3 MiB
small on two cores, two ranks with the optimiser in parts:
small (5.1 M parameters), 2 ranks, batch 64: 45.00 samples/s, rank 0 held at most 3 MiB
small on two cores, one rank:
small (5.1 M parameters), 1 ranks, batch 64: 50.00 samples/s, rank 0 held at most 3 MiB
";

const RATIOS: &str = "\
loader, 64 px, images: ours 3.00 times PyTorch
ViT-B/32, batch 32, encode_image: ours 1.50 times PyTorch
ViT-B/32, batch 32, train_step: ours 0.80 times PyTorch
Segment Anything vit-b, encoder: ours 1.50 times the original on PyTorch
InstructBLIP, 1 beams, tokens: ours 2.00 times transformers
InstructBLIP, 1 beams, image, prompt and first token: ours 1.00 times transformers
InstructBLIP, 1 beams, per step: ours 1.50 times transformers
recall of 20,000, all: ours 2.00 times NumPy
small on two cores, samples: two ranks 1.10 times one rank
small on two cores, samples: two ranks with the optimiser in parts 0.90 times one rank
";

#[test]
fn a_log_of_figures_becomes_ratios() {
    let Some(python) = python_with(&["re"]) else { return };
    let log = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(log.path(), LOG).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/ratios.py");
    let output = std::process::Command::new(python).arg(script).arg(log.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), RATIOS);
}

//! Compiles the CUDA sources of `cuda/` to PTX, where GPUs are built for: with the compiler that candle's kernels need too.

fn main() {
    println!("cargo:rerun-if-changed=cuda");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    for name in ["CUDA_HOME", "NVCC"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let nvcc = match (std::env::var("NVCC"), std::env::var("CUDA_HOME")) {
        (Ok(nvcc), _) => nvcc,
        (_, Ok(home)) => format!("{home}/bin/nvcc"),
        _ => "nvcc".to_owned(),
    };
    let out = std::env::var("OUT_DIR").expect("cargo sets it");
    // PTX is compiled by the driver for whatever GPU is there, from Ampere on
    for file in ["rows", "parameters", "masks"] {
        let (source, ptx) = (format!("cuda/{file}.cu"), format!("{out}/{file}.ptx"));
        let status =
            std::process::Command::new(&nvcc).args(["-O3", "--ptx", "-arch=compute_80", &source, "-o", &ptx]).status();
        match status {
            Ok(status) if status.success() => {}
            Ok(status) => panic!("{nvcc} could not compile {source}: {status}"),
            Err(error) => panic!("{nvcc}: {error}; set CUDA_HOME to a CUDA toolkit, or NVCC to its compiler"),
        }
    }
}

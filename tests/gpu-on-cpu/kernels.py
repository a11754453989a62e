#!/usr/bin/env python3
"""Compiles CUDA sources for the CPU: each into a library that registers its kernels with the emulated driver.

    kernels.py OUT SOURCE.cu ...
"""

import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
FLAGS = ["-std=c++20", "-w", "-I", str(HERE / "include"), "-include", "emulated.h"]


def compile_one(out: pathlib.Path, source: pathlib.Path):
    text = subprocess.run(
        ["g++", "-E", "-P", "-x", "c++", "-D__global__=KERNEL", *FLAGS, str(source)],
        check=True, capture_output=True, text=True).stdout
    names = re.findall(r"\bKERNEL\s+void\s+(\w+)\s*\(", text)
    # the size of this memory comes with the launch
    text = re.sub(r"extern\s+static\s+([\w ]+?)\s+(\w+)\s*\[\s*\]\s*;", r"\1 *\2 = (\1 *)emulated_place.dynamic_shared;", text)
    text = re.sub(r"\bKERNEL\b", "", text)
    registered = "\n".join(f'Call<&{name}>::add("{name}");' for name in names)
    text += f'\nextern "C" void emulated_kernels() {{\n{registered}\n}}\n'
    code = out / f"{source.stem}.cpp"
    code.write_text(text)
    library = out / f"kernels-{source.parent.name}-{source.stem}.so"
    subprocess.run(
        ["g++", "-std=c++20", "-w", "-O2", "-ffp-contract=off", "-fno-strict-aliasing", "-shared", "-fPIC", str(code), "-o", str(library)],
        check=True)
    print(f"{source.name}: {len(names)} kernels")


out = pathlib.Path(sys.argv[1])
for source in sys.argv[2:]:
    compile_one(out, pathlib.Path(source))

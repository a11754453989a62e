#!/usr/bin/env python3
"""@TITLE@

Ray places the processes and starts them again; whether something is done the work store alone says.
    ray job submit --working-dir . -- python3 @FILE@
"""
import os
import subprocess
import sys
import tempfile
import time

import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

PROGRAM = os.environ.get("URBANCROSS", "urbancross")
SPEC = @SPEC@
SPEC_PATH = "@SPEC_PATH@"
ARGUMENTS = @ARGUMENTS@
VARIABLES = @VARIABLES@
PROCESSES = @PROCESSES@
NEEDS = @NEEDS@
# ranks of a training wait for each other: they get their places together or not at all
TOGETHER = @TOGETHER@
PERMANENT = 65
PAUSE_SECONDS = float(os.environ.get("URBANCROSS_RAY_PAUSE", "10"))


class Transient(Exception):
    """Another try can help."""


@ray.remote(max_retries=-1, retry_exceptions=[Transient])
def process(index):
    with tempfile.TemporaryDirectory() as folder:
        spec = os.path.join(folder, "spec.toml")
        with open(spec, "w", encoding="utf-8") as file:
            file.write(SPEC)
        command = [PROGRAM] + [spec if word == SPEC_PATH else word for word in ARGUMENTS]
        numbers = {name: str(index) for name in ("URBANCROSS_INDEX", "RANK")}
        node = {"NODE_NAME": ray.get_runtime_context().get_node_id()[:12], "URBANCROSS_LAUNCHED": "1"}
        # its standard input ends with this task, and so does it
        child = subprocess.Popen(command, env={**os.environ, **VARIABLES, **numbers, **node}, stdin=subprocess.PIPE)
        code = child.wait()
    if code in (0, PERMANENT):
        return code
    time.sleep(PAUSE_SECONDS)
    raise Transient(f"process {index}: exit code {code}")


def main():
    ray.init(address=os.environ.get("RAY_ADDRESS", "auto"))
    options = dict(NEEDS)
    if TOGETHER:
        bundle = {"CPU": NEEDS["num_cpus"], "GPU": NEEDS["num_gpus"], "memory": NEEDS["memory"]}
        group = placement_group([{name: amount for name, amount in bundle.items() if amount} for _ in range(PROCESSES)])
        ray.get(group.ready())
        options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(placement_group=group)
    codes = ray.get([process.options(**options).remote(index) for index in range(PROCESSES)])
    # one worker that found its plan closed is enough; a training lacks each of its ranks
    return max(codes) if TOGETHER else min(codes)


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""@TITLE@

The driver runs here, and each worker and rank that it starts is a task of Ray, wherever there is room. It may be started again at any time,
and ends when all is done.
    ray job submit --working-dir . -- python3 @FILE@
"""
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from multiprocessing.connection import Client, Listener, wait

PROGRAM = @PROGRAM@
FILES = @FILES@
# of the driver, behind the folder of its specs
OPTIONS = @OPTIONS@
# what each process of a step has; the step without a name is any other
NEEDS = @NEEDS@
SOCKET = "URBANCROSS_RAY_SOCKET"
STOPPED, TRANSIENT = 143, 75


def program():
    """Each machine may have its own."""
    return os.environ.get("URBANCROSS", PROGRAM)


def step_of(arguments):
    """Of the words of a worker, a training or an adaptation."""
    if arguments[0] == "worker":
        return arguments[arguments.index("--stage") + 1]
    if arguments[0] == "train":
        if "--swept" in arguments:
            moved = arguments[arguments.index("--swept") + 1]
            return "swept_bootstrap" if arguments[2] == "bootstrap" else "swept_" + moved
        return arguments[2]
    return "adapt" if "--whole" in arguments else "variant"


def launch(arguments):
    """Stands for a process that the driver starts: gives its words to Ray, and ends as it ends."""
    folder = os.path.dirname(arguments[1])
    files = {}
    for name in os.listdir(folder):
        if name.endswith(".toml"):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                files[name] = file.read()
    names = ("RANK", "WORLD_SIZE", "URBANCROSS_TASK", "URBANCROSS_LOG_FORMAT")
    variables = {name: os.environ[name] for name in names if name in os.environ}
    if "RANK" in os.environ:
        # ranks of one launch have one secret; they are on any nodes, and meet in the work store
        secret = os.environ.get("URBANCROSS_SECRET", "").encode()
        variables["URBANCROSS_RENDEZVOUS"] = "ray-" + hashlib.sha256(secret).hexdigest()[:16]
    connection = Client(os.environ[SOCKET], "AF_UNIX")
    connection.send((arguments, files, variables))
    # told to end, or left by the driver: its task is, too
    tell, told = os.pipe(), threading.Event()

    def end(*_):
        if not told.is_set():
            told.set()
            os.write(tell[1], b"x")

    def listen():
        while os.read(0, 1 << 16):
            pass
        end()

    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=listen, daemon=True).start()
    try:
        if tell[0] in wait([connection, tell[0]]):
            connection.send("end")
        return connection.recv()
    except (EOFError, OSError):
        # the driver is gone
        return TRANSIENT


def process(arguments, files, variables):
    """A task of Ray."""
    import ray

    # Ray interrupts what is cancelled: where a shell has started it in the background nobody would hear that
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                file.write(text)
        command = [program(), arguments[0], os.path.join(folder, os.path.basename(arguments[1]))] + arguments[2:]
        node = {"NODE_NAME": ray.get_runtime_context().get_node_id()[:12], "URBANCROSS_LAUNCHED": "1"}
        # its standard input ends with this task, and so does it; what it comes to the driver says
        quiet = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "cwd": folder}
        child = subprocess.Popen(command, env={**os.environ, **variables, **node}, **quiet)
        try:
            # Ray interrupts between two steps, and no wait
            while child.poll() is None:
                time.sleep(0.1)
            return child.returncode
        finally:
            # the task was cancelled
            if child.poll() is None:
                child.terminate()
                child.wait()


class Places:
    """Places of ranks, which wait for each other: they get theirs together or not at all."""

    def __init__(self):
        self.lock, self.groups = threading.Lock(), {}

    def take(self, variables, needs):
        """How a task finds its place."""
        name = variables.get("URBANCROSS_RENDEZVOUS")
        if name is None:
            return {}
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        with self.lock:
            if name not in self.groups:
                amounts = {"CPU": needs["num_cpus"], "GPU": needs["num_gpus"], "memory": needs["memory"]}
                amounts = {resource: amount for resource, amount in amounts.items() if amount}
                ranks = int(variables["WORLD_SIZE"])
                self.groups[name] = [placement_group([dict(amounts) for _ in range(ranks)]), 0]
            self.groups[name][1] += 1
            group = self.groups[name][0]
        return {"scheduling_strategy": PlacementGroupSchedulingStrategy(placement_group=group)}

    def give_back(self, variables):
        name = variables.get("URBANCROSS_RENDEZVOUS")
        if name is None:
            return
        from ray.util.placement_group import remove_placement_group

        with self.lock:
            self.groups[name][1] -= 1
            if self.groups[name][1] == 0:
                remove_placement_group(self.groups.pop(name)[0])


def serve(connection, task, places, ray):
    """Runs what one process of the driver has asked for."""
    arguments, files, variables = connection.recv()
    needs = NEEDS.get(step_of(arguments), NEEDS[""])
    running = task.options(**needs, **places.take(variables, needs)).remote(arguments, files, variables)
    told = False
    while not ray.wait([running], timeout=0.2)[0]:
        if not told and connection.poll():
            told = True
            ray.cancel(running)
    try:
        code = ray.get(running)
    except Exception as error:  # of Ray: the task was cancelled, or its node is gone
        code = STOPPED if told else TRANSIENT
        if not told:
            # what follows is what Ray's processes said last
            print(f"{step_of(arguments)}: {str(error).strip().partition(chr(10))[0]}", file=sys.stderr)
    places.give_back(variables)
    # one that a signal has ended can be tried again
    connection.send(code if code >= 0 else TRANSIENT)


def main():
    # Ray may take away the package that it has unpacked
    with open(__file__, encoding="utf-8") as file:
        text_of_driver = file.read()
    import ray

    ray.init(address=os.environ.get("RAY_ADDRESS", "auto"))
    # it is the driver that tries again
    task, places = ray.remote(max_retries=0)(process), Places()
    with tempfile.TemporaryDirectory() as folder:
        specs = os.path.join(folder, "specs")
        os.mkdir(specs)
        for name, text in FILES.items():
            with open(os.path.join(specs, name), "w", encoding="utf-8") as file:
                file.write(text)
        own = os.path.join(folder, "driver.py")
        with open(own, "w", encoding="utf-8") as file:
            file.write(text_of_driver)
        launcher = os.path.join(folder, "launch")
        with open(launcher, "w", encoding="utf-8") as file:
            file.write(f'#!/bin/sh\nexec "{sys.executable}" "{own}" launch "$@"\n')
        os.chmod(launcher, 0o700)
        listener = Listener(os.path.join(folder, "socket"), "AF_UNIX", backlog=64)

        def accept():
            while True:
                try:
                    connection = listener.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(connection, task, places, ray), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        variables = {SOCKET: listener.address, "URBANCROSS_LAUNCHER": launcher}
        command = [program(), "drive", specs] + OPTIONS
        driver = subprocess.Popen(command, env={**os.environ, **variables}, cwd=folder)
        signal.signal(signal.SIGTERM, lambda *_: driver.terminate())
        try:
            return driver.wait()
        finally:
            listener.close()


if __name__ == "__main__":
    sys.exit(launch(sys.argv[2:]) if sys.argv[1:2] == ["launch"] else main())

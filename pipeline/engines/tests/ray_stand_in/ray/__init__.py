"""As much of Ray as a driver calls: tasks run in threads of this process, and are interrupted as Ray does."""
import ctypes
import threading
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for

POOL = ThreadPoolExecutor(max_workers=64)


class Running:
    def __init__(self, function, arguments):
        self.thread = None
        self.future = POOL.submit(self.run, function, arguments)

    def run(self, function, arguments):
        self.thread = threading.get_ident()
        try:
            return function(*arguments)
        except KeyboardInterrupt:
            raise RuntimeError("the task was cancelled") from None


class Task:
    def __init__(self, function):
        self.function = function

    def options(self, num_cpus, num_gpus, memory, scheduling_strategy=None):
        assert min(num_cpus, num_gpus, memory) >= 0
        assert scheduling_strategy is None or scheduling_strategy.placement_group.is_there
        return self

    def remote(self, *arguments):
        return Running(self.function, arguments)


def remote(max_retries):
    assert max_retries == 0
    return Task


def init(address):
    pass


def get(running):
    return running.future.result()


def wait(all_running, timeout):
    done, _ = wait_for([running.future for running in all_running], timeout=timeout)
    return [running for running in all_running if running.future in done], []


def cancel(running):
    if not running.future.cancel() and running.thread is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(running.thread), ctypes.py_object(KeyboardInterrupt))


def get_runtime_context():
    class Context:
        def get_node_id(self):
            return "0123456789abcdef"

    return Context()

"""As much of Ray as a driver calls: tasks run in threads of this process, and are tried again as Ray does."""
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for

POOL = ThreadPoolExecutor(max_workers=64)


class Task:
    def __init__(self, function, max_retries=3, retry_exceptions=()):
        self.function, self.max_retries, self.retry_exceptions = function, max_retries, tuple(retry_exceptions)

    def options(self, num_cpus, num_gpus, memory, scheduling_strategy=None):
        assert min(num_cpus, num_gpus, memory) >= 0
        return self

    def remote(self, *arguments):
        return POOL.submit(self.run, arguments)

    def run(self, arguments):
        tries = 0
        while True:
            try:
                return self.function(*arguments)
            except self.retry_exceptions:
                tries += 1
                if tries == self.max_retries:
                    raise


def remote(**options):
    return lambda function: Task(function, **options)


def init(address):
    pass


def get(results):
    if isinstance(results, list):
        return [result.result() for result in results]
    # a group of places is there at once
    return results.result() if hasattr(results, "result") else results


def wait(results, timeout):
    done, running = wait_for(results, timeout=timeout)
    return list(done), list(running)


def cancel(result):
    result.cancel()


def get_runtime_context():
    class Context:
        def get_node_id(self):
            return "0123456789abcdef"

    return Context()

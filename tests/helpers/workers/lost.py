"""How soon a worker notices that another one is gone.

    python -m tests.helpers.workers.lost SIGKILL 1
    python -m tests.helpers.workers.lost SIGSTOP 0

trains with two workers, sends the signal to worker 1 or 0 and prints the
seconds until the other one raises, and what. `--restart` starts the worker
again at once, alone.
"""

import argparse
import signal
import sys
import time

import keras

from experiments.strategies import lost_worker, make_strategy
from tests.helpers.distribution.checks import SUB_BATCH, pairs, under
from tests.helpers.workers.processes import free_addresses, start

WORKER = "--worker"
LIMIT = 300  # seconds


class Signs(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.last_step = time.time()

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            print("training", flush=True)


def work():
    strategy = make_strategy("multi_worker")
    model = under(strategy)
    signs = Signs()
    try:
        model.fit(*pairs(), 2 * SUB_BATCH, 10**6, verbose=0, callbacks=[signs])
    except Exception as error:
        seconds = time.time() - signs.last_step
        print(
            f"{type(error).__name__} {seconds:.1f} s after the last step; "
            f"lost_worker: {lost_worker(error)}",
            flush=True,
        )


def main(signal_name, lost, restart):
    addresses = free_addresses(2)

    def start_worker(index):
        return start(
            index,
            addresses,
            "tests.helpers.workers.lost",
            WORKER,
        )

    workers = [start_worker(index) for index in range(2)]
    started = list(workers)
    try:
        while not all("training" in worker.printed() for worker in workers):
            time.sleep(0.1)
        workers[lost].send_signal(getattr(signal, signal_name))
        if restart:
            workers[lost].wait(LIMIT)
            started.append(start_worker(lost))
        output, _ = workers[1 - lost].communicate(timeout=LIMIT)
        print(f"{signal_name} to worker {lost}: {output.splitlines()[-1]}")
    finally:
        for worker in started:
            worker.kill()


if __name__ == "__main__":
    if sys.argv[1:] == [WORKER]:
        work()
    else:
        parser = argparse.ArgumentParser()
        parser.add_argument("signal")
        parser.add_argument("worker", type=int, choices=(0, 1))
        parser.add_argument("--restart", action="store_true")
        given = parser.parse_args()
        main(given.signal, given.worker, given.restart)

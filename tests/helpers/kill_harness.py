"""Kills a run of train.py again and again, and compares it with one in peace.

    python -m tests.helpers.kill_harness --kind=plain --kills=50
    python -m tests.helpers.kill_harness --kind=beside --kills=50 --replicas=2

Every second kill comes while a checkpoint is being written, the others at
random moments from the start of the process on. Each start draws its interval
from one checkpoint to the next, and, if --threads gives some, the number of
TensorFlow's threads. The last line says in how many places the results differ.
The processes are forked from one that has imported TensorFlow but not used it,
which saves most of the time of starting them.
"""

import argparse
import glob
import os
import random
import re
import signal
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

import train
from configs import digits
from experiments.run_folder import WorkDir
from experiments.strategies import make_strategy
from tests.helpers.small_runs import contents

# Of a batch of SGD or Adam the halves are drawn apart.
_HALVED = {"ell": 1, "batch_size": 10}
# What each kind of run has of its own; all but two measure the noise.
KINDS = {
    "plain": {"measure_noise": False},
    "measured": {},
    "beside": {"optimizer": "sgd", **_HALVED},
    "adam": {
        "optimizer": "adam",
        "learning_rate": 2e-3,
        "sampling": "shuffle",
        **_HALVED,
    },
    "grown": {
        "optimizer": "sgd",
        "growth": "always",
        "growth_epochs": (1, 2),
        "max_batch_size": 40,
        **_HALVED,
    },
    # A step is a pass of all examples, an epoch 100 of them.
    "ngd": {
        "optimizer": "ngd",
        "ell": 1,
        "num_examples": 1200,
        "batch_size": 12,
        "measure_noise": False,
    },
}
INTERVALS = ("1", "3", "50", "500", "0.05s")


def configuration(kind, epochs, replicas=1):
    config = digits.get_config()
    # 127 batches an epoch: calls of 127 steps, so that every second checkpoint
    # of the plain model is in the middle of a pair.
    config.num_examples = 127 * 11
    config.batch_size = 11
    config.epochs = epochs
    config.ell = 2
    config.pairing = "independent"
    config.model.hidden_units = (16,)
    config.schedule = "cosine"
    config.validate_every = 2
    config.update(KINDS[kind])
    if replicas > 1:
        # Each replica gets as many pairs as the others.
        config.batch_size = 8 * replicas
    return config


def start(path, config, log, interval, threads, replicas):
    """Starts the training in a process of its own; returns its number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        tf.config.experimental.enable_op_determinism()
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
        workdir = WorkDir(path, config.to_dict())
        strategy = make_strategy(
            *(("mirrored", replicas) if replicas > 1 else ("none",))
        )
        train.train(config, workdir, None, strategy, interval)
        code = 0
    except BaseException as error:
        print(repr(error), file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(child, seconds=0.0, at=lambda: False):
    """Waits so long, or until `at`; the exit code, or None if it runs."""
    until = time.monotonic() + seconds
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until or at():
            return None
        time.sleep(0.0005)


def steps_saved(path):
    names = glob.glob(os.path.join(path, "checkpoints", "step-*.npz"))
    steps = (re.search(r"step-(\d+)", name)[1] for name in names)
    return max(map(int, steps), default=0)


def run_with_kills(
    kind, kills, epochs, longest, seed, folder, intervals, threads, replicas=1
):
    """Returns the names of the files that differ after so many kills.

    Args:
        kind: one of `KINDS`.
        kills: how often the run is killed.
        epochs: of the run.
        longest: seconds, the latest moment of a random kill.
        seed: of the moments.
        folder: a directory for the two runs.
        intervals: from one checkpoint to the next, to draw from; the first
            is the shortest.
        threads: numbers of threads to draw from, 0 for TensorFlow's own.
        replicas: on how many virtual CPUs it trains.
    """
    config = configuration(kind, epochs, replicas)
    moments = random.Random(seed)
    peaceful = os.path.join(folder, "peaceful")
    killed = os.path.join(folder, "killed")
    pattern = os.path.join(killed, "checkpoints", "*.partial.npz")
    log = open(os.path.join(folder, "log"), "w")

    def begin(path, often=False):
        drawn = moments.choice(intervals)
        interval = intervals[0] if often else drawn
        number = moments.choice(threads)
        # Flushed, or the fork would print it again.
        what = f"every {interval}, {number or 'all'} threads"
        print(what, end=", ", flush=True)
        return start(path, config, log, interval, number, replicas)

    def said():
        with open(log.name) as file:
            return file.read()

    def finish(path):
        began = time.monotonic()
        assert ended(begin(path), 3600) == 0, said()[-3000:]
        print(f"to the end: {time.monotonic() - began:.1f} s", flush=True)

    finish(peaceful)
    for count in range(kills):
        if count % 2:
            # Of longer intervals none might be written before the end, and
            # some have to be, so that the run gets on.
            child = begin(killed, often=True)
            rest = moments.randrange(1, 5)
            seen = set()

            def is_writing(seen=seen, rest=rest):
                seen.add(steps_saved(killed))
                return len(seen) > rest and bool(glob.glob(pattern))

            code = ended(child, 600, is_writing)
        else:
            child = begin(killed)
            code = ended(child, moments.uniform(0, longest))
        assert code is None, (
            f"the run ended with {code} before kill {count + 1}: give it "
            f"more epochs\n{said()[-3000:]}"
        )
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        print(
            f"kill {count + 1}: {steps_saved(killed)} steps saved", flush=True
        )
    finish(killed)
    count = said().count("but not to the bit")
    print(f"starts that go on, but not to the bit: {count}")
    one, other = contents(peaceful), contents(killed)
    return [name for name in one if one[name] != other[name]]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--longest", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--intervals", nargs="+", default=INTERVALS)
    parser.add_argument("--threads", nargs="+", type=int, default=(0,))
    parser.add_argument("--replicas", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        differing = run_with_kills(**vars(arguments), folder=folder)
    print(f"{arguments.kills} kills, differing: {differing or 'nothing'}")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()

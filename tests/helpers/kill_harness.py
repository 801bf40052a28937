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
import multiprocessing
import os
import random
import re
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


def run(path, config, log, interval, threads, replicas):
    """Trains, in a process of its own."""
    for stream in (1, 2):
        os.dup2(log.fileno(), stream)
    tf.config.experimental.enable_op_determinism()
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    workdir = WorkDir(path, config.to_dict())
    name = "mirrored" if replicas > 1 else "none"
    strategy = make_strategy(name, replicas if replicas > 1 else None)
    train.train(config, workdir, None, strategy, interval)


def wait(child, seconds, condition=lambda: False):
    """Waits until a process ends, or it is time, or `condition` holds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and child.is_alive() and not condition():
        time.sleep(0.0005)


def steps_saved(path):
    names = glob.glob(os.path.join(path, "checkpoints", "step-*.npz"))
    steps = (re.search(r"step-(\d+)", name)[1] for name in names)
    return max(map(int, steps), default=0)


def run_with_kills(options, folder):
    """Returns the names of the files that differ after so many kills."""
    config = configuration(options.kind, options.epochs, options.replicas)
    moments = random.Random(options.seed)
    peaceful, killed = f"{folder}/peaceful", f"{folder}/killed"
    log = open(f"{folder}/log", "w+")

    def begin(path, interval=None):
        interval = interval or moments.choice(options.intervals)
        threads = moments.choice(options.threads)
        # Flushed, or the fork would print it again.
        print(f"every {interval}, {threads or 'all'} threads", flush=True)
        arguments = path, config, log, interval, threads, options.replicas
        context = multiprocessing.get_context("fork")
        child = context.Process(target=run, args=arguments)
        child.start()
        return child

    def said():
        log.seek(0)
        return log.read()

    def finish(path):
        child = begin(path)
        child.join(3600)
        assert child.exitcode == 0, said()[-3000:]

    finish(peaceful)
    for count in range(options.kills):
        if count % 2:
            # Of longer intervals none might be written before the end, and
            # some have to be, so that the run gets on.
            child = begin(killed, options.intervals[0])
            rest, seen = moments.randrange(1, 5), set()

            def is_writing(seen=seen, rest=rest):
                seen.add(steps_saved(killed))
                partial = glob.glob(f"{killed}/checkpoints/*.partial.npz")
                return len(seen) > rest and bool(partial)

            wait(child, 600, is_writing)
        else:
            child = begin(killed)
            wait(child, moments.uniform(0, options.longest))
        assert child.is_alive(), (
            f"the run ended with {child.exitcode} before kill {count + 1}: "
            f"give it more epochs\n{said()[-3000:]}"
        )
        child.kill()
        child.join()
        saved = steps_saved(killed)
        print(f"kill {count + 1}: {saved} steps saved", flush=True)
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
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        differing = run_with_kills(options, folder)
    print(f"{options.kills} kills, differing: {differing or 'nothing'}")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()

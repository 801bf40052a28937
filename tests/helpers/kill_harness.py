"""Kills a run of train.py again and again, and compares it with one in peace.

    python -m tests.helpers.kill_harness --kind=plain --kills=50
    python -m tests.helpers.kill_harness --kind=beside --kills=50 --replicas=2

Every second kill comes while a checkpoint is being written, the others at
random moments from the start of the process on. Each start draws its interval
from one checkpoint to the next, and, if --threads gives some, the number of
TensorFlow's threads. The last line says in how many places the results differ.
"""

import argparse
import glob
import random
import re
import sys
import tempfile
import time

from tests.helpers.contents import contents
from tests.helpers.processes import Program

# 127 batches an epoch: calls of 127 steps, so that every second checkpoint of
# the plain model is in the middle of a pair.
COMMON = {
    "num_examples": 127 * 11,
    "batch_size": 11,
    "ell": 2,
    "pairing": "independent",
    "model.hidden_units": (16,),
    "schedule": "cosine",
    "validate_every": 2,
}
# Of a batch of SGD or Adam the halves are drawn apart.
HALVED = {"ell": 1, "batch_size": 10}
# What each kind of run has of its own; all but two measure the noise.
KINDS = {
    "plain": {"measure_noise": False},
    "measured": {},
    "beside": {"optimizer": "sgd", **HALVED},
    "adam": {
        "optimizer": "adam",
        "learning_rate": 2e-3,
        "sampling": "shuffle",
        **HALVED,
    },
    "grown": {
        "optimizer": "sgd",
        "growth": "always",
        "growth_epochs": (1, 2),
        "max_batch_size": 40,
        **HALVED,
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


def run_with_kills(
    kind,
    folder,
    kills=50,
    epochs=60,
    longest=10.0,
    seed=0,
    intervals=INTERVALS,
    threads=(0,),
    replicas=1,
):
    """The names of the files that differ after so many kills.

    `folder` is for the two runs; the rest is what the flags give.
    """
    moments = random.Random(seed)
    config = COMMON | KINDS[kind] | {"epochs": epochs}
    options = ["--deterministic"]
    if replicas > 1:
        options += ["--strategy=mirrored", f"--virtual_devices={replicas}"]
        # Each replica gets as many pairs as the others.
        config["batch_size"] = 8 * replicas
    options += [f"--config.{key}={value}" for key, value in config.items()]
    checkpoints = f"{folder}/killed/checkpoints"

    def start(name, interval):
        number = moments.choice(threads)
        print(f"every {interval}, {number or 'all'} threads", end=", ")
        return Program(
            "train.py",
            f"--workdir={folder}/{name}",
            f"--checkpoint_every={interval}",
            *options,
            TF_NUM_INTRAOP_THREADS=str(number),
            TF_NUM_INTEROP_THREADS=str(number),
        )

    def finish(name):
        program = start(name, moments.choice(intervals))
        _, errors = program.communicate(3600)
        assert program.returncode == 0, errors

    def partial_files():
        return {*glob.glob(f"{checkpoints}/*.partial.npz")}

    def last_step():
        names = {*glob.glob(f"{checkpoints}/step-*.npz")} - partial_files()
        steps = (re.search(r"step-(\d+)", name)[1] for name in names)
        return max(map(int, steps), default=0)

    finish("peaceful")
    for count in range(kills):
        if count % 2:
            # Of longer intervals none might be written before the end, and
            # some have to be, so that the run gets on.
            torn, rest, seen = partial_files(), moments.randrange(1, 5), set()
            program = start("killed", intervals[0])

            def is_writing(torn=torn, rest=rest, seen=seen):
                seen.add(last_step())
                return len(seen) > rest and partial_files() - torn

            program.wait_until(is_writing, 600)
        else:
            program = start("killed", moments.choice(intervals))
            time.sleep(moments.uniform(0, longest))
        assert program.returncode is None, "give the run more epochs"
        program.kill()
        program.communicate()
        print(f"kill {count + 1}: {last_step()} steps saved", flush=True)
    finish("killed")
    one, other = contents(f"{folder}/peaceful"), contents(f"{folder}/killed")
    return [name for name in one if one[name] != other[name]]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=60)
    # Seconds, of the random moments.
    parser.add_argument("--longest", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--intervals", nargs="+", default=INTERVALS)
    parser.add_argument("--threads", nargs="+", type=int, default=(0,))
    parser.add_argument("--replicas", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        differing = run_with_kills(folder=folder, **vars(arguments))
    print(f"{arguments.kills} kills, differing: {differing or 'nothing'}")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()

"""Peak memory of training, against that of the plain network.

    PYTHONPATH=. python benchmarks/memory.py svag [--networks bn gn]
    PYTHONPATH=. python benchmarks/memory.py measured --networks vit lstm

SVAG is held against plain SGD on the same 2B examples; "measured" is the
callback that measures every step, beside Adam. Each training has a process of
its own. Its peak is the highest resident set (VmHWM of /proc/self/status);
what training adds is that minus the resident set before the first step, when
the model and its batches exist.

By default glibc's malloc keeps freed blocks of up to 32 MB for itself, so the
peak depends on how it happens to reuse them. Here MALLOC_MMAP_THRESHOLD_ is
1048576: blocks from 1 MiB on are given back when TensorFlow frees them, and
the peak is that of the tensors alive; `--default_malloc` leaves it.
"""

import argparse
import os
import statistics
import subprocess
import sys

import keras
from networks import NETWORKS
from side_by_side import (
    alternating_rounds,
    make_parser,
    print_header,
    print_row,
    ratio_cells,
)

from keras_svag import SVAG, GradientNoiseMonitor, SVAGModel


def status_megabytes(key):
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(key + ":"):
                return int(line.split()[1]) / 1024
    raise KeyError(key)


def train(contender, name, trained):
    """Trains in this process; prints its peak and what that added, in MB."""
    network, callbacks = NETWORKS[name], []
    if contender == "measured":
        model = network.compiled("adam")
        batches = network.batches(network.batch_size)
        callbacks = [GradientNoiseMonitor(every=1)] * (trained == "it")
    else:
        batches = network.batches(2 * network.batch_size)
        model = (
            network.compiled(SVAG(0.1, ell=4), SVAGModel)
            if trained == "it"
            else network.compiled(keras.optimizers.SGD(0.1))
        )
    next(iter(batches))
    before = status_megabytes("VmRSS")
    arguments = {"steps_per_epoch": 4, "shuffle": False, "verbose": 0}
    model.fit(batches, callbacks=callbacks, **arguments)
    peak = status_megabytes("VmHWM")
    print(peak, peak - before)


def in_a_process(*arguments, malloc):
    """A function that gives the two numbers that a process prints."""

    def run():
        completed = subprocess.run(
            [sys.executable, __file__, *arguments],
            env={**os.environ, **malloc, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=True,
        )
        return [float(number) for number in completed.stdout.split()[-2:]]

    return run


def main():
    parser = make_parser(__doc__, networks=("bn", "gn"))
    parser.add_argument("contender", choices=("svag", "measured"))
    parser.add_argument("--default_malloc", action="store_true")
    parser.add_argument(
        "--train", choices=("it", "plain"), help=argparse.SUPPRESS
    )
    arguments = parser.parse_args()
    if arguments.train:
        train(arguments.contender, *arguments.networks, arguments.train)
        return
    malloc = {"MALLOC_MMAP_THRESHOLD_": "1048576"}
    malloc = {} if arguments.default_malloc else malloc
    ratio = f"{arguments.contender} / plain | range"
    print_header("training", "peak, MB", ratio, "added, MB", ratio)
    for name in arguments.networks:
        common = arguments.contender, "--networks", name, "--train"
        runs = {
            trained: in_a_process(*common, trained, malloc=malloc)
            for trained in ("plain", "it")
        }
        measured = alternating_rounds(runs, arguments.rounds, warm_up=False)
        cells = []
        # The peak, and what training adds.
        for plain, other in zip(
            *(zip(*measured[c], strict=True) for c in ("plain", "it")),
            strict=True,
        ):
            cells += [f"{statistics.median(plain):.0f}"]
            cells += [ratio_cells(other, plain)]
        print_row(NETWORKS[name].title, *cells)


if __name__ == "__main__":
    main()

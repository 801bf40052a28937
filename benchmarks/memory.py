"""Peak memory of training with SVAG, against plain Keras SGD.

    python benchmarks/memory.py [--workloads bn gn] [--rounds 5]

Each training of two steps, on the same 2B examples and the same network, has
a process of its own. What counts is the highest resident set (VmHWM of
/proc/self/status) minus the resident set before the first step, when the
model and its batches exist: what tracing and training add.

By default glibc's malloc keeps freed blocks of up to 32 MB for itself, so the
peak depends on how it happens to reuse them. The rows "freed at once" are
measured with MALLOC_MMAP_THRESHOLD_=1048576: blocks from 1 MiB on are given
back when TensorFlow frees them, and the peak is that of the tensors alive.
"""

import argparse
import os
import statistics
import subprocess
import sys

from side_by_side import (
    alternating_rounds,
    print_header,
    print_row,
    ratio_cells,
)

ALLOCATORS = {
    "default malloc": {},
    "freed at once": {"MALLOC_MMAP_THRESHOLD_": "1048576"},
}


def status_megabytes(key):
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(key + ":"):
                return int(line.split()[1]) / 1024
    raise KeyError(key)


def print_added(model, batches, callbacks=(), steps=2):
    """Trains some steps in this process; prints its peak and what they added.

    Both in MB.
    """
    next(iter(batches))
    before = status_megabytes("VmRSS")
    model.fit(
        batches,
        steps_per_epoch=steps,
        shuffle=False,
        verbose=0,
        callbacks=[*callbacks],
    )
    peak = status_megabytes("VmHWM")
    print(peak, peak - before)


def megabytes_printed(script, *arguments, allocator="freed at once"):
    """Peak and what a training adds, as a process of its own prints them."""
    completed = subprocess.run(
        [sys.executable, script, "--train", *arguments],
        env={
            **os.environ,
            **ALLOCATORS[allocator],
            "TF_CPP_MIN_LOG_LEVEL": "3",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    return [float(number) for number in completed.stdout.split()[-2:]]


def train(name, contender, policy):
    """Trains in this process and prints what it added, in MB."""
    import keras
    from workloads import WORKLOADS, cross_entropy

    import keras_svag

    keras.config.set_dtype_policy(policy)
    workload = WORKLOADS[name]
    model, optimizer = workload.make(), keras.optimizers.SGD(0.1)
    if contender == "svag":
        model = keras_svag.SVAGModel(model)
        optimizer = keras_svag.SVAG(0.1, ell=4)
    model.compile(optimizer, loss=cross_entropy(), metrics=["accuracy"])
    batches = workload.batches(2 * workload.batch_size)
    print_added(model, batches)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workloads", nargs="+", default=["bn", "gn"])
    parser.add_argument("--policy", default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--train", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        train(*arguments.train)
        return
    print_header("network", "SGD, MB", "SVAG, MB", "SVAG / SGD", "range")
    for name in arguments.workloads:
        for title in ALLOCATORS:
            megabytes = alternating_rounds(
                {
                    contender: lambda c=contender, n=name, t=title: (
                        megabytes_printed(
                            *(__file__, n, c, arguments.policy), allocator=t
                        )[1]
                    )
                    for contender in ("sgd", "svag")
                },
                arguments.rounds,
                warm_up=False,
            )
            print_row(
                f"{name}, {title}",
                f"{statistics.median(megabytes['sgd']):.0f}",
                f"{statistics.median(megabytes['svag']):.0f}",
                ratio_cells(megabytes["svag"], megabytes["sgd"]),
            )


if __name__ == "__main__":
    main()

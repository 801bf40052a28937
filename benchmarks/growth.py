"""How the time of a simulated SGD step grows with the examples it takes.

    python benchmarks/growth.py [--rounds 5]

PreResNet-8 with group norm through `fit`, B = 64, with the noise metrics: an
SGD step takes ell SVAG steps of 2B examples. Under MirroredStrategy over
virtual CPUs, one process for each number of replicas, batches of several
sizes at ell = 2, the same for each replica, and plain Keras SGD on the same
batches. The slope is that of log seconds over log examples.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import warnings

import keras
import numpy as np
import tensorflow as tf
from side_by_side import alternating_rounds, print_header, print_row
from workloads import PRE_RESNET_8, cross_entropy, seconds_per_step

import keras_svag

WORKLOAD = PRE_RESNET_8
ROWS_OF_A_REPLICA = (128, 256, 512, 1024)


def compiled(ell):
    model = keras_svag.SVAGModel(WORKLOAD.make())
    model.compile(keras_svag.SVAG(0.1, ell=ell), loss=cross_entropy())
    return model


def compiled_sgd():
    model = WORKLOAD.make()
    model.compile(keras.optimizers.SGD(0.1), loss=cross_entropy())
    return model


def seconds_by_ell(rounds, ells=(1, 2, 4, 8, 16)):
    batches = WORKLOAD.batches(2 * WORKLOAD.batch_size)
    run = {}
    for ell in ells:
        model = compiled(ell)
        run[ell] = lambda m=model, e=ell: (
            e * seconds_per_step(m, batches, max(e, 4))
        )
    seconds = alternating_rounds(run, rounds)
    return {
        2 * ell * WORKLOAD.batch_size: times for ell, times in seconds.items()
    }


def seconds_by_batch(replicas, rounds):
    """In this process, whose CPUs are split into virtual ones."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * replicas
    )
    strategy = tf.distribute.get_strategy()
    if replicas > 1:
        strategy = tf.distribute.MirroredStrategy(
            [f"CPU:{i}" for i in range(replicas)]
        )
    run = {}
    for rows in ROWS_OF_A_REPLICA:
        rows *= replicas
        for name, make in (
            ("SVAG", lambda: compiled(2)),
            ("SGD", compiled_sgd),
        ):
            with strategy.scope():
                model = make()
            run[name, rows] = functools.partial(
                seconds_per_step, model, WORKLOAD.batches(rows), WORKLOAD.steps
            )
    seconds = {"SVAG": {}, "SGD": {}}
    for (name, rows), times in alternating_rounds(run, rounds).items():
        seconds[name][rows] = times
    return seconds


def in_a_process(replicas, rounds):
    command = [sys.executable, __file__, "--rounds", str(rounds)]
    completed = subprocess.run(
        [*command, "--replicas", str(replicas)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    return json.loads(completed.stdout.splitlines()[-1])


def print_growth(title, seconds):
    examples = np.array([int(count) for count in seconds])
    slopes = [
        np.polyfit(np.log(examples), np.log(times), 1)[0]
        for times in zip(*seconds.values(), strict=True)
    ]
    medians = [1000 * statistics.median(times) for times in seconds.values()]
    print_row(
        title,
        ", ".join(f"{count:,}" for count in examples),
        ", ".join(f"{median:.0f}" for median in medians),
        f"{statistics.median(slopes):.3f}",
        f"{min(slopes):.3f} to {max(slopes):.3f}",
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--replicas", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.replicas:
        seconds = seconds_by_batch(arguments.replicas, arguments.rounds)
        print(json.dumps(seconds))
        return
    print_header("growing", "examples", "ms", "slope", "range")
    print_growth("ell = 1, 2, 4, 8, 16", seconds_by_ell(arguments.rounds))
    keras.backend.clear_session()
    seconds = {n: in_a_process(n, arguments.rounds) for n in (1, 2)}
    for name in ("SVAG", "SGD"):
        for replicas, by_batch in seconds.items():
            print_growth(
                f"{name}, batch, {replicas} replica(s)", by_batch[name]
            )
        one, two = (list(s[name].items())[-1] for s in seconds.values())
        print_growth(f"{name}, replicas = 1, 2", dict((one, two)))


if __name__ == "__main__":
    main()

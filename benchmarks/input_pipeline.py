"""Examples per second of the input pipeline, augmented.

    PYTHONPATH=. python benchmarks/input_pipeline.py [--rounds 5]

`training_batches` draws, crops, mirrors and standardizes whole batches as a
function of (seed, step). The other pipeline is that of the Keras guides:
shuffle, map over single examples, batch, prefetch. 50,000 random images of
CIFAR's shape, 256 a step. Threads are limited by tf.data's own options. Below,
what a step costs by the number of examples, which are single pixels without
augmentation, so that little but the drawing is measured.
"""

import argparse
import functools
import statistics
import time
import warnings

import numpy as np
import tensorflow as tf
from networks import CIFAR
from side_by_side import (
    alternating_rounds,
    milliseconds,
    print_header,
    print_row,
    ratio_cells,
    ratios,
)

from experiments import datasets

ROWS = 256
SAMPLING = ("with_replacement", "without_replacement", "shuffle")
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def ours(images, labels, sampling, rows=ROWS, augmentation=datasets.augment):
    return datasets.training_batches(
        images,
        labels,
        sub_batch_size=rows // 2,
        sub_batches_per_step=2,
        sampling=sampling,
        seed=0,
        augmentation=augmentation,
        preprocess=datasets.standardization(MEAN, STD, 255),
    )


def of_the_guides(images, labels):
    def augment(image, label):
        image = tf.pad(image, [[4, 4], [4, 4], [0, 0]])
        image = tf.image.random_crop(image, CIFAR)
        image = tf.image.random_flip_left_right(image)
        return (tf.cast(image, tf.float32) / 255 - MEAN) / STD, label

    return (
        tf.data.Dataset.from_tensor_slices((images, labels))
        .shuffle(10_000)
        .repeat()
        .map(augment, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(ROWS, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
    )


def limited(batches, threads):
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = threads
    return batches.with_options(options)


def seconds_per_example(iterator, steps, rows):
    start = time.perf_counter()
    for _ in range(steps):
        next(iterator)
    return (time.perf_counter() - start) / (steps * rows)


def per_second(seconds):
    return f"{1 / statistics.median(seconds):,.0f}"


def compare_pipelines(images, labels, threads, rounds):
    pipelines = {
        "guides": of_the_guides(images, labels),
        **{sampling: ours(images, labels, sampling) for sampling in SAMPLING},
    }
    seconds = alternating_rounds(
        {
            name: functools.partial(
                _turn,
                limited(batches, threads),
                200 if name != "guides" else 60,
            )
            for name, batches in pipelines.items()
        },
        rounds,
    )
    guides = seconds.pop("guides")
    print_row(f"guides, {threads} thread(s)", per_second(guides), "1", "")
    for name, times in seconds.items():
        print_row(
            f"{name}, {threads} thread(s)",
            per_second(times),
            ratio_cells(guides, times),
        )


def _turn(batches, steps):
    # A new iterator, since one that waits fills its buffer.
    iterator = iter(batches)
    for _ in range(10):
        next(iterator)
    return seconds_per_example(iterator, steps, ROWS)


def compare_sizes(rounds):
    for size in (50_000, 10**6, 10**7):
        pixels = np.zeros((size, 1, 1, 3), "uint8")
        labels = np.zeros(size, "int32")
        seconds = alternating_rounds(
            {
                sampling: functools.partial(
                    _seconds_per_step,
                    iter(
                        limited(
                            ours(pixels, labels, sampling, augmentation=None),
                            threads=1,
                        )
                    ),
                )
                for sampling in SAMPLING
            },
            rounds,
        )
        for sampling, times in seconds.items():
            each = ratios(times, seconds["with_replacement"])
            low, middle, high = np.quantile(each, (0.25, 0.5, 0.75))
            print_row(
                f"{size:,}",
                f"`{sampling}`",
                milliseconds(times),
                f"{middle:.2f}",
                f"{low:.2f} to {high:.2f}",
            )


def _seconds_per_step(iterator):
    # First what its buffer holds since its last turn. Short turns, since steps
    # are short against what else happens on a machine.
    _steps_within(iterator, 0.01)
    seconds, steps = _steps_within(iterator, 0.03)
    return seconds / steps


def _steps_within(iterator, limit):
    start, steps = time.perf_counter(), 0
    while (seconds := time.perf_counter() - start) < limit:
        next(iterator)
        steps += 1
    return seconds, steps


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50_000, *CIFAR)).astype("uint8")
    labels = rng.integers(0, 10, 50_000).astype("int32")
    print_header("pipeline", "examples/s", "to the guides'", "range")
    for threads in (1, 2):
        compare_pipelines(images, labels, threads, arguments.rounds)
    print()
    print_header("examples", "sampling", "ms a step", "ratio", "middle half")
    compare_sizes(30 * arguments.rounds)


if __name__ == "__main__":
    main()

"""Steps per second of the digits MLP, against a loop written by hand.

    PYTHONPATH=. python benchmarks/small_models.py [--steps 512] [--rounds 7]

Through `fit` with an `SVAGModel` that measures the noise, with the callbacks
that train.py has and with none, for several `steps_per_execution`. The loop
is what one would write instead: the same SVAG step, with its G and N, the
loss and the accuracy summed in variables, as one `tf.function` that is called
on every batch of the same data.
"""

import argparse
import functools
import itertools
import tempfile
import time
import warnings

import keras
import numpy as np
import tensorflow as tf
from side_by_side import (
    alternating_rounds,
    milliseconds,
    print_header,
    print_row,
    ratio_cells,
)
from workloads import WORKLOADS, cross_entropy, seconds_per_step

import keras_svag
from experiments import datasets
from experiments.run_folder import StopAtNonFiniteLoss, TrainingClock

LEARNING_RATE, ELL, WEIGHT_DECAY = 0.2, 4, 5e-3


def digits_batches(batch_size):
    rng = np.random.default_rng(0)
    return datasets.training_batches(
        rng.integers(0, 17, (1437, 8, 8, 1)).astype("uint8"),
        rng.integers(0, 10, 1437),
        sub_batch_size=batch_size,
        sub_batches_per_step=2,
        sampling="with_replacement",
        seed=0,
        preprocess=datasets.standardization([0.3], [0.4], 16),
    )


def hand_written_step(model):
    """The function `(x, y) -> loss` of one SVAG step, noise summed."""
    loss_of = cross_entropy()
    w1, w2 = keras_svag.svag_weights(ELL)
    variables = [v.value for v in model.trainable_variables]
    sums = tf.Variable(tf.zeros(4))

    def gradients(x, y):
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            loss = loss_of(y, logits)
        hits = tf.equal(tf.argmax(logits, 1, tf.int32), y)
        accuracy = tf.reduce_mean(tf.cast(hits, tf.float32))
        return tape.gradient(loss, variables), loss, accuracy

    @tf.function
    def step(x, y):
        first, loss1, accuracy1 = gradients(x[0::2], y[0::2])
        second, loss2, accuracy2 = gradients(x[1::2], y[1::2])
        pairs = list(zip(first, second, strict=True))
        g = tf.add_n([tf.reduce_sum(a * b) for a, b in pairs])
        n = tf.add_n([tf.reduce_sum((a - b) ** 2) for a, b in pairs]) / 2
        loss = (loss1 + loss2) / 2
        sums.assign_add(tf.stack([g, n, loss, (accuracy1 + accuracy2) / 2]))
        for variable, (a, b) in zip(variables, pairs, strict=True):
            drift = w1 * a + w2 * b + WEIGHT_DECAY * variable
            variable.assign_sub(LEARNING_RATE / ELL * drift)
        return loss

    return step


def seconds_of_loop(step, batches, steps):
    iterator = iter(batches)
    start = time.perf_counter()
    for x, y in itertools.islice(iterator, steps):
        step(x, y)
    return (time.perf_counter() - start) / steps


def compiled(workload, steps_per_execution):
    model = keras_svag.SVAGModel(workload.make())
    model.compile(
        keras_svag.SVAG(LEARNING_RATE, ELL, weight_decay=WEIGHT_DECAY),
        loss=cross_entropy(),
        metrics=["accuracy"],
        steps_per_execution=steps_per_execution,
    )
    return model


def default_callbacks(folder):
    """Those of train.py."""
    return [
        TrainingClock(),
        StopAtNonFiniteLoss(),
        keras.callbacks.CSVLogger(f"{folder}/history.csv"),
        keras.callbacks.TensorBoard(folder, write_graph=False),
        keras_svag.ScalingRuleCheck(
            num_examples=1437,
            log_dir=folder,
            scale_invariant=True,
            verbose=0,
        ),
    ]


def seconds_of_fit(model, batches, steps, with_callbacks):
    with tempfile.TemporaryDirectory() as folder:
        callbacks = default_callbacks(folder) if with_callbacks else ()
        return seconds_per_step(model, batches, steps, callbacks)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--steps_per_execution",
        type=int,
        nargs="+",
        default=[1, 2, 4, 8, 16, 32],
    )
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    workload, steps = WORKLOADS["mlp"], arguments.steps
    batches = digits_batches(workload.batch_size)
    run = {
        "loop": functools.partial(
            seconds_of_loop, hand_written_step(workload.make()), batches, steps
        )
    }
    for count in arguments.steps_per_execution:
        model = compiled(workload, count)
        for with_callbacks in (False, True):
            run[count, with_callbacks] = functools.partial(
                seconds_of_fit,
                model,
                batches,
                steps,
                with_callbacks,
            )
    seconds = alternating_rounds(run, arguments.rounds)
    loop = seconds.pop("loop")
    print_header(
        "`fit` against the loop",
        "ms a step",
        "steps/s, `fit` / loop",
        "range",
    )
    print_row("loop", milliseconds(loop), "1", "")
    for (count, with_callbacks), times in seconds.items():
        callbacks = "train.py's" if with_callbacks else "no"
        print_row(
            f"steps_per_execution={count}, {callbacks} callbacks",
            milliseconds(times),
            ratio_cells(loop, times),
        )


if __name__ == "__main__":
    main()

"""Gradient noise of real runs, in markdown tables.

PYTHONPATH=. python benchmarks/gradient_noise.py history RUN
    N/G, its interval and κ_max over the training of a run of train.py.
PYTHONPATH=. python benchmarks/gradient_noise.py probe RUN [--data_dir DIR]
    The probe against the pair estimator on the run's final weights.
PYTHONPATH=. python benchmarks/gradient_noise.py time
    What measuring adds to a step of PreResNet-8 with group norm.
"""

import argparse
import json
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator

import keras_svag
from experiments import datasets
from keras_svag import applications


def history(arguments):
    """Table of the points of the run's TensorBoard, each over its window."""
    events = event_accumulator.EventAccumulator(
        os.path.join(arguments.run, "linear_scaling"),
        size_guidance={"tensors": 0},
    )
    events.Reload()

    def read(tag):
        if tag not in events.Tags()["tensors"]:
            return {}
        return {
            event.step: float(tf.make_ndarray(event.tensor_proto))
            for event in events.Tensors(tag)
        }

    columns = [
        read(tag)
        for tag in (
            "noise_to_signal/ratio",
            "noise_to_signal/ratio_low",
            "noise_to_signal/ratio_high",
            "max_batch_multiplier/kappa_max",
            "max_batch_multiplier/kappa_max_low",
            "max_batch_multiplier/kappa_max_high",
            "equilibrium/balance",
        )
    ]
    print("| epoch | N/G | 95% interval | κ_max | interval | balance |")
    print("|---:|---:|---|---:|---|---:|")
    epochs = sorted(columns[0])
    shown = epochs[:: max(1, len(epochs) // arguments.rows)]
    for epoch in sorted({*shown, epochs[-1]}):
        q, q_low, q_high, k, k_low, k_high, balance = (
            column.get(epoch, float("nan")) for column in columns
        )
        print(
            f"| {epoch} | {q:.3g} | [{q_low:.3g}, {q_high:.3g}] | {k:.3g} "
            f"| [{k_low:.3g}, {k_high:.3g}] | {balance:.2f} |"
        )


def probe(arguments):
    """Table of both estimates, from draws with replacement."""
    with open(os.path.join(arguments.run, "config.json")) as file:
        config = json.load(file)
    data = datasets.load(config["dataset"], arguments.data_dir)
    model = keras.saving.load_model(os.path.join(arguments.run, "model.keras"))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    standardize = datasets.standardization(data.mean, data.std, data.max_value)
    batch_size, steps = config["batch_size"], arguments.batches

    pairs = keras_svag.SVAGModel(model)
    pairs.compile(keras_svag.SVAG(0.0), loss=loss)
    monitor = keras_svag.GradientNoiseMonitor(num_examples=None)
    pairs.fit(
        datasets.training_batches(
            data.train_images,
            data.train_labels,
            sub_batch_size=batch_size,
            sub_batches_per_step=2,
            sampling="with_replacement",
            seed=1,
            preprocess=standardize,
        ),
        steps_per_epoch=steps,
        shuffle=False,
        verbose=0,
        callbacks=[monitor],
    )
    images = np.asarray(standardize(data.train_images), np.float32)
    probed = keras_svag.measure_gradient_noise(
        model,
        (images, data.train_labels),
        batch_size,
        2 * steps,
        loss=loss,
        seed=2,
        verbose=0,
    )
    print(f"| estimator | batches of {batch_size} | G | N | N/G, 95% |")
    print("|---|---:|---|---|---|")
    for name, noise in (
        ("pairs of a training step", monitor.estimate()),
        ("probe", probed),
    ):
        low, high = noise.interval()
        print(
            f"| {name} | {2 * steps} "
            f"| {noise.grad_sq_norm:.4g} ± {noise.grad_sq_norm_se:.2g} "
            f"| {noise.noise_trace:.4g} ± {noise.noise_trace_se:.2g} "
            f"| {noise.noise_to_signal:.3g} [{low:.3g}, {high:.3g}] |"
        )


def measuring_time(arguments):
    """Table of the medians over alternating repeats."""
    rng = np.random.default_rng(0)
    rows = 2 * arguments.batch_size
    batch = (
        tf.constant(rng.normal(size=(rows, 32, 32, 3)), tf.float32),
        tf.constant(rng.integers(0, 10, rows), tf.int32),
    )
    data = tf.data.Dataset.from_tensors(batch).repeat()
    models = {}
    callbacks = {
        "not measured": [],
        "measured": [keras_svag.GradientNoiseMonitor()],
        "measured per layer": [keras_svag.GradientNoiseMonitor(per_layer=True)],
    }
    for name, monitors in callbacks.items():
        network = applications.PreResNet(8, (32, 32, 3), 10, "group", seed=0)
        models[name] = keras_svag.SVAGModel(network)
        models[name].compile(
            keras_svag.SVAG(0.1, ell=2),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        models[name].fit(
            data,
            steps_per_epoch=2,
            shuffle=False,
            verbose=0,
            callbacks=monitors,
        )
    seconds = {name: [] for name in models}
    for _ in range(arguments.repeats):
        for name, model in models.items():
            start = time.perf_counter()
            model.fit(
                data,
                steps_per_epoch=arguments.batches,
                shuffle=False,
                verbose=0,
                callbacks=callbacks[name],
            )
            elapsed = time.perf_counter() - start
            seconds[name].append(elapsed / arguments.batches)
    reference = seconds["not measured"]
    print("| step of an SVAGModel | median ms | ratio | range |")
    print("|---|---:|---:|---|")
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(times, reference, strict=True)]
        print(
            f"| {name} | {1000 * statistics.median(times):.1f} "
            f"| {statistics.median(ratios):.3f} "
            f"| {min(ratios):.3f} to {max(ratios):.3f} |"
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("history")
    command.add_argument("run")
    command.add_argument("--rows", type=int, default=8)
    command.set_defaults(run_command=history)
    command = commands.add_parser("probe")
    command.add_argument("run")
    command.add_argument("--data_dir")
    command.add_argument("--batches", type=int, default=100)
    command.set_defaults(run_command=probe)
    command = commands.add_parser("time")
    command.add_argument("--batch_size", type=int, default=64)
    command.add_argument("--batches", type=int, default=10)
    command.add_argument("--repeats", type=int, default=7)
    command.set_defaults(run_command=measuring_time)
    arguments = parser.parse_args()
    arguments.run_command(arguments)


if __name__ == "__main__":
    main()

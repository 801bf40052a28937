"""The probe against the pair estimator, on the final weights of a run.

PYTHONPATH=. python benchmarks/gradient_noise.py RUN [--data_dir DIR]
"""

import argparse
import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import keras_svag
from experiments import datasets


def probe(arguments):
    """Table of both estimates, from draws with replacement."""
    with open(os.path.join(arguments.run, "config.json")) as file:
        config = json.load(file)
    data = datasets.load(config["dataset"], arguments.data_dir)
    path = os.path.join(arguments.run, "model.keras")
    model = keras.saving.load_model(path, compile=False)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    standardize = datasets.standardization(
        data.mean, data.std, data.kind.max_value
    )
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


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run")
    parser.add_argument("--data_dir")
    parser.add_argument("--batches", type=int, default=100)
    probe(parser.parse_args())


if __name__ == "__main__":
    main()

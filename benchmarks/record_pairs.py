"""Records the noise of pairs along a run on the digits, for block_coverage.py.

    python benchmarks/record_pairs.py sgd.npz
    python benchmarks/record_pairs.py svag4.npz --ell=4

Images, network and batch size of configs/digits.py with weight decay 5e-3,
drawn with replacement: SGD by halves of a batch, or SVAG by independent pairs.
The file has arrays `g` and `n`, Ĝ and N̂ at batch size 16 of each step after
those in which the weights come to rest.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

import keras_svag

_TRAINING = 1437  # images
_BATCH_SIZE = 16
_SETTLING = {"halves": 4000, "independent": 8000}  # steps


def drawn(x, y, rows, seed):
    """Batches drawn with replacement, without end; others in each iteration."""
    seeds = tf.data.Dataset.random(seed, rerandomize_each_iteration=True)

    def batch(number):
        picked = tf.random.stateless_uniform(
            [rows], [seed, number], 0, len(x), tf.int64
        )
        return tf.gather(x, picked), tf.gather(y, picked)

    return seeds.map(batch)


def record(ell, count, seed=0):
    """Ĝ and N̂ of `count` steps at rest, each of shape (count,)."""
    keras.utils.set_random_seed(seed)
    pairing = "halves" if ell == 1 else "independent"
    x, y = load_digits(return_X_y=True)
    x, y = x[:_TRAINING].reshape(-1, 8, 8, 1), y[:_TRAINING]
    x = ((x - x.mean()) / x.std()).astype("float32")
    network = keras_svag.applications.ScaleInvariantMLP(
        (8, 8, 1), 10, hidden_units=(64, 64)
    )
    model = keras_svag.SVAGModel(network)
    model.compile(
        keras_svag.SVAG(0.2, ell=ell, pairing=pairing, weight_decay=5e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    rows = _BATCH_SIZE if pairing == "halves" else 2 * _BATCH_SIZE
    batches = drawn(x, y, rows, seed)
    model.fit(batches, steps_per_epoch=_SETTLING[pairing], verbose=2)
    monitor = keras_svag.GradientNoiseMonitor(num_examples=None)
    model.fit(batches, steps_per_epoch=count, verbose=2, callbacks=[monitor])
    series = monitor.series
    return series["grad_sq_norm"], series["example_noise"] / _BATCH_SIZE


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file")
    parser.add_argument("--ell", type=int, default=1)
    parser.add_argument("--count", type=int, default=40_000)
    options = parser.parse_args()
    g, n = record(options.ell, options.count)
    np.savez(options.file, g=g, n=n)
    top = np.sort(g)[-len(g) // 100 :].sum() / g.sum()
    print(
        f"N/G = {n.mean() / g.mean():.3g}; the largest 1% carry {top:.0%} of G"
    )


if __name__ == "__main__":
    main()

"""Records the noise of pairs along a run at rest, for coverage.py.

    PYTHONPATH=. python benchmarks/record_pairs.py sgd [--count 40000]

Digits: images, network and batch size of configs/digits.py with weight decay
5e-3, drawn with replacement: SGD by halves of a batch, SVAG with ell = 4 by
independent pairs, or Adam with the settings of configs/digits_adam.py. Or the
Transformer of networks.py with AdamW on sentences of random words, two classes
by the words in them, a fifth of the labels drawn anew at random each time.
Those of Adam are in its own norm. The file, such as sgd.npz, has arrays `g` and
`n`: Ĝ and N̂ at the batch size of each step after those in which the weights
come to rest.
"""

import keras
import numpy as np
import tensorflow as tf
from networks import LENGTH, WORDS, transformer
from sklearn.datasets import load_digits
from table import command_line

from keras_svag import SVAG, GradientNoiseMonitor, SVAGModel, applications


def digits():
    x, y = (part[:1437] for part in load_digits(return_X_y=True))
    x = x.reshape(-1, 8, 8, 1)
    return ((x - x.mean()) / x.std()).astype("float32"), y


def sentences():
    rng = np.random.default_rng(0)
    x = rng.integers(0, WORDS, (4000, LENGTH), "int32")
    # By whether more of its words are of the first half of the dictionary.
    return x, np.sum(x < WORDS // 2, axis=1) > LENGTH // 2


def drawn(x, y, rows, flipped=0.0, seed=0):
    """Batches drawn with replacement, without end; others in each iteration."""
    seeds = tf.data.Dataset.random(seed, rerandomize_each_iteration=True)

    def batch(number):
        picked = tf.random.stateless_uniform(
            [rows], [seed, number], 0, len(x), tf.int64
        )
        labels = tf.cast(tf.gather(y, picked), tf.int32)
        draws, coins = (
            tf.random.stateless_uniform([rows], [other, number])
            for other in (seed + 1, seed + 2)
        )
        random = tf.cast(coins < 0.5, tf.int32)
        return tf.gather(x, picked), tf.where(draws < flipped, random, labels)

    return seeds.map(batch).prefetch(8)


# The optimizer, rows of a step, and how many steps it takes to come to rest.
RUNS = {
    "sgd": (SVAG(0.2, ell=1, pairing="halves", weight_decay=5e-3), 16, 4000),
    "svag4": (SVAG(0.2, ell=4, weight_decay=5e-3), 32, 8000),
    "adam": (keras.optimizers.Adam(2e-3, weight_decay=0.5), 16, 5000),
    "transformer": (keras.optimizers.AdamW(1e-3, weight_decay=1), 32, 3000),
}


def main():
    options = command_line(__doc__, run=RUNS, count=40_000)
    optimizer, rows, settling = RUNS[options.run]
    keras.utils.set_random_seed(0)
    if options.run == "transformer":
        model = transformer()
        batches = drawn(*sentences(), rows, flipped=0.2)
    else:
        model = applications.ScaleInvariantMLP(
            (8, 8, 1), 10, hidden_units=(64, 64)
        )
        batches = drawn(*digits(), rows)
    is_adam = not isinstance(optimizer, SVAG)
    if not is_adam:
        model = SVAGModel(model)
    model.compile(
        optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    model.fit(batches, steps_per_epoch=settling, verbose=2)
    monitor = GradientNoiseMonitor(every=1, num_examples=None)
    model.fit(
        batches,
        steps_per_epoch=options.count,
        verbose=2,
        callbacks=[monitor],
    )
    prefix = "preconditioned_" if is_adam else ""
    g = monitor.series[f"{prefix}grad_sq_norm"]
    # A pair of independent batches are two.
    of_batch = rows // 2 if options.run == "svag4" else rows
    n = monitor.series[f"{prefix}example_noise"] / of_batch
    np.savez(f"{options.run}.npz", g=g, n=n)
    top = np.sort(np.abs(g))[-len(g) // 100 :].sum() / np.abs(g).sum()
    print(
        f"N/G = {n.mean() / g.mean():.3g}; the largest 1% carry {top:.0%} of G"
    )


if __name__ == "__main__":
    main()

"""Records the noise of pairs along a run, for block_coverage.py.

    PYTHONPATH=. python benchmarks/record_pairs.py sgd.npz
    PYTHONPATH=. python benchmarks/record_pairs.py svag4.npz --ell=4
    PYTHONPATH=. python benchmarks/record_pairs.py adam.npz --run=adam
    PYTHONPATH=. python benchmarks/record_pairs.py transformer.npz \
        --run=transformer --count=4000

Images, network and batch size of configs/digits.py with weight decay 5e-3,
drawn with replacement: SGD by halves of a batch, or SVAG by independent pairs;
or Adam with the settings of configs/digits_adam.py and `--beta_2`. Or the
Transformer of networks.py with AdamW on sentences of random words, two classes
by the words in them, a fifth of the labels drawn anew at random each time.
Those of Adam are in its own norm. The file has arrays `g` and `n`, Ĝ and N̂ at
the batch size of each step after those in which the weights come to rest.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from networks import LENGTH, WORDS, transformer
from sklearn.datasets import load_digits

import keras_svag

_TRAINING = 1437  # images
_SENTENCES = 4000


def digits():
    x, y = load_digits(return_X_y=True)
    x, y = x[:_TRAINING].reshape(-1, 8, 8, 1), y[:_TRAINING]
    return ((x - x.mean()) / x.std()).astype("float32"), y


def sentences():
    rng = np.random.default_rng(0)
    x = rng.integers(0, WORDS, (_SENTENCES, LENGTH), "int32")
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
        if flipped:
            draws = tf.random.stateless_uniform([rows], [seed + 1, number])
            coins = tf.random.stateless_uniform([rows], [seed + 2, number])
            random = tf.cast(coins < 0.5, tf.int32)
            labels = tf.where(draws < flipped, random, labels)
        return tf.gather(x, picked), labels

    return seeds.map(batch).prefetch(8)


def training(options):
    """The model of a run, its batches, and how many steps it comes to rest."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if options.run == "transformer":
        model = transformer()
        model.compile(
            keras.optimizers.AdamW(1e-3, beta_2=options.beta_2, weight_decay=1),
            "sparse_categorical_crossentropy",
        )
        return model, drawn(*sentences(), 32, flipped=0.2), 3000
    model = keras_svag.applications.ScaleInvariantMLP(
        (8, 8, 1), 10, hidden_units=(64, 64)
    )
    if options.run == "adam":
        adam = keras.optimizers.Adam(
            2e-3, beta_2=options.beta_2, weight_decay=0.5
        )
        model.compile(adam, loss)
        return model, drawn(*digits(), 16), 5000
    pairing = "halves" if options.ell == 1 else "independent"
    model = keras_svag.SVAGModel(model)
    model.compile(
        keras_svag.SVAG(
            0.2, ell=options.ell, pairing=pairing, weight_decay=5e-3
        ),
        loss,
    )
    rows, settling = (16, 4000) if options.ell == 1 else (32, 8000)
    return model, drawn(*digits(), rows), settling


def record(options):
    """Ĝ and N̂ of `count` steps at rest, each of shape (count,)."""
    keras.utils.set_random_seed(0)
    model, batches, settling = training(options)
    model.fit(batches, steps_per_epoch=settling, verbose=2)
    monitor = keras_svag.GradientNoiseMonitor(options.every, num_examples=None)
    steps = options.count * options.every
    model.fit(batches, steps_per_epoch=steps, verbose=2, callbacks=[monitor])
    is_adaptive = options.run in ("adam", "transformer")
    prefix = "preconditioned_" if is_adaptive else ""
    series = monitor.series
    rows = 32 if options.run == "transformer" else 16
    return (
        series[f"{prefix}grad_sq_norm"],
        series[f"{prefix}example_noise"] / rows,
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file")
    parser.add_argument(
        "--run", default="svag", choices=["svag", "adam", "transformer"]
    )
    parser.add_argument("--ell", type=int, default=1)
    parser.add_argument("--beta_2", type=float, default=0.999)
    parser.add_argument("--count", type=int, default=40_000)
    parser.add_argument("--every", type=int, default=1)
    options = parser.parse_args()
    g, n = record(options)
    np.savez(options.file, g=g, n=n)
    top = np.sort(np.abs(g))[-len(g) // 100 :].sum() / np.abs(g).sum()
    print(
        f"N/G = {n.mean() / g.mean():.3g}; the largest 1% carry {top:.0%} of G"
    )


if __name__ == "__main__":
    main()

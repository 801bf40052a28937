"""Which examples form a sub-batch."""

import tensorflow as tf

# Up to this size all random keys are ranked: exact, and no dearer.
_MOST_RANKED = 1024
# At TensorFlow's own 4 a chi-square test of 40,000 permutations of 37 elements
# tells them from uniform ones.
_ROUNDS = 24

SAMPLING_MODES = ("with_replacement", "without_replacement", "shuffle")

# Every use of randomness has a stream of its own. Its place is part of the
# meaning of a seed: changing one changes every run that was made with it.
_STREAMS = (*SAMPLING_MODES, "augmentation")


def stream_seed(seed, stream, index):
    """The stateless seed of one use of randomness, of shape `(2,)`.

    Seeds of different `(seed, stream, index)` are unrelated: in particular
    seed 1 at index 0 shares nothing with seed 0 at index 1. The index is that
    of a sub-batch or an epoch.
    """
    key = tf.constant([seed, 0], tf.int64)
    stream = tf.constant(_STREAMS.index(stream), tf.int64)
    key = tf.random.fold_in(key, stream)
    return tf.random.fold_in(key, tf.cast(index, tf.int64))


def sub_batch_indices(
    sampling, seed, index, num_examples, sub_batch_size, sub_batches_per_epoch
):
    """Numbers of the examples of sub-batch number `index`, from 0, int64.

    - `"with_replacement"`: independent uniform draws;
    - `"without_replacement"`: distinct examples within a sub-batch, drawn
      independently of all other sub-batches;
    - `"shuffle"`: every epoch has a random permutation of its own, of which
      its `sub_batches_per_epoch` are consecutive pieces, so that they are
      disjoint. What does not fill a sub-batch is dropped for that epoch.

    A sub-batch costs the same whichever were drawn before it, and however
    many examples there are. It works eagerly and inside `tf.function` and
    `tf.data`, and leaves TensorFlow's global random state alone.
    """
    index = tf.cast(index, tf.int64)
    if sampling == "with_replacement":
        return tf.random.stateless_uniform(
            (sub_batch_size,),
            stream_seed(seed, sampling, index),
            minval=0,
            maxval=num_examples,
            dtype=tf.int64,
        )
    start, permutation = 0, index
    if sampling == "shuffle":
        start = index % sub_batches_per_epoch * sub_batch_size
        permutation = index // sub_batches_per_epoch
    return permuted(
        start + tf.range(sub_batch_size, dtype=tf.int64),
        num_examples,
        stream_seed(seed, sampling, permutation),
    )


def permuted(positions, size, seed):
    """Images of positions under a random permutation of 0 … size - 1.

    A permutation is a function of `seed` alone, of shape `(2,)`. Beyond 1,024
    elements it costs the same whatever their number. Positions and images are
    int64 tensors of shape `(count,)`.
    """
    if size <= _MOST_RANKED:
        # Exact up to ties, which 52-bit keys make negligible.
        keys = tf.random.stateless_uniform((size,), seed, dtype=tf.float64)
        order = tf.math.top_k(keys, size, sorted=True).indices
        return tf.cast(tf.gather(order, positions), tf.int64)
    key = tf.random.stateless_uniform(
        (3,), seed, minval=None, maxval=None, dtype=tf.uint32
    )
    # That of tf.random.experimental.index_shuffle, with more rounds.
    return tf.raw_ops.RandomIndexShuffle(
        index=positions,
        seed=key,
        max_index=tf.constant(size - 1, tf.int64),
        rounds=_ROUNDS,
    )

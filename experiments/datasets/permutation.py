"""A random permutation, of which only the images asked for are computed."""

import tensorflow as tf

# Up to this size all random keys are ranked: exact, and no dearer.
_MOST_RANKED = 1024
# At TensorFlow's own 4 a chi-square test of 40,000 permutations of 37 elements
# tells them from uniform ones.
_ROUNDS = 24


def permuted(positions, size, seed):
    """Images of positions under a random permutation of 0 … size - 1.

    A permutation is a function of `seed` alone. Beyond 1,024 elements it costs
    the same whatever their number.

    Args:
        positions: int64 tensor of shape `(count,)`, from 0 to `size` - 1.
        size: integer >= 1.
        seed: stateless seed of shape `(2,)`.

    Returns:
        int64 tensor of shape `(count,)`: distinct for distinct positions.
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

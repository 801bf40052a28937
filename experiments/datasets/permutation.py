"""A random permutation, of which only the images asked for are computed."""

import functools
import math

import tensorflow as tf

# Up to this size all random keys are ranked: exact, and no dearer.
_MOST_RANKED = 1024
# Two rounds multiply the bias of a pair of positions by one over the side of
# the rectangle (derived): with 12, and more elements than are ranked, a test
# of all pairs in a row would need more than 10^10 permutations to see it.
_ROUNDS = 12


def permuted(positions, size, seed):
    """Images of positions under a random permutation of 0 … size - 1.

    A permutation is a function of `seed` alone. Beyond 1,024 elements it costs
    the same whatever their number: a Feistel network [1] of 12 rounds, whose
    round functions have 192 bits of key each.

    Args:
        positions: int64 tensor of shape `(count,)`, from 0 to `size` - 1.
        size: integer >= 1.
        seed: stateless seed of shape `(2,)`.

    Returns:
        int64 tensor of shape `(count,)`: distinct for distinct positions.

    References:
        [1] J. Black and P. Rogaway, Ciphers with Arbitrary Finite Domains,
            2002: the rectangle and the walk back into the range.
    """
    # tf.random.experimental.index_shuffle would do, but at its fixed 4 rounds
    # pairs of positions are far from uniform (a chi-square test rejects at 37
    # and at 50,000 elements).
    method = _ranked if size <= _MOST_RANKED else _by_network
    return method(positions, size, seed)


def _ranked(positions, size, seed):
    # Exact up to ties, which 52-bit keys make negligible.
    keys = tf.random.stateless_uniform((size,), seed, dtype=tf.float64)
    order = tf.math.top_k(keys, size, sorted=True).indices
    return tf.cast(tf.gather(order, positions), tf.int64)


def _by_network(positions, size, seed):
    height, width = _rectangle(size)
    keys = tf.random.stateless_uniform(
        (3 * _ROUNDS,), seed, minval=None, maxval=None, dtype=tf.uint64
    )
    keys = tf.unstack(keys)

    def images(values):
        left, right = values // width, values % width
        modulus, other = height, width
        for key in zip(keys[0::3], keys[1::3], keys[2::3], strict=True):
            left, right = right, (left + _hashed(right, *key)) % modulus
            modulus, other = other, modulus
        return left * width + right

    found = images(tf.cast(positions, tf.uint64))
    if height * width > size:
        # The rectangle's permutation, walked along until it is in the range,
        # is one of the range.
        (found,) = tf.while_loop(
            lambda values: tf.reduce_any(values >= size),
            lambda values: (tf.where(values >= size, images(values), values),),
            (found,),
        )
    return tf.cast(found, tf.int64)


@functools.cache
def _rectangle(size):
    """The nearly square rectangle with the fewest cells beyond `size`."""
    root = math.isqrt(size - 1) + 1
    height = min(range(root, root + root // 4 + 1), key=lambda h: -size % h)
    return height, -(-size // height)


def _hashed(values, factor, offset, second_factor):
    """31-bit hashes of values below 2³²."""
    # The upper half of this is pairwise independent, but linear, which shows
    # in the joint distribution of three positions; the second product is not.
    values = values * factor + offset
    values = tf.bitwise.bitwise_xor(values, _shifted(values, 32))
    return _shifted(values * second_factor, 33)


def _shifted(values, bits):
    return tf.bitwise.right_shift(values, tf.constant(bits, tf.uint64))

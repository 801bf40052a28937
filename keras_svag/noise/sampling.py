"""Which examples form a sub-batch, and the bias that the drawing gives."""

import math
import numbers

import tensorflow as tf

from keras_svag.arguments import checked_integer, is_number

SAMPLING_MODES = ("with_replacement", "without_replacement", "shuffle")


def sampling_correction(
    sampling, num_examples=None, batch_size=None, sub_batch_size=None
):
    """The linear map from (G_hat, N_hat) to unbiased (G, N).

    Exact at fixed weights (derived: distinct examples drawn without
    replacement have covariance -Sigma^1 / (n - 1)), where n is `num_examples`,
    B `batch_size` and b `sub_batch_size`:

    | sampling | G | N |
    |---|---|---|
    | `with_replacement` | G_hat | N_hat |
    | `without_replacement` | G_hat | N_hat (n - 1) / (n - b) |
    | `shuffle` | G_hat + (B / n) N_hat | N_hat (n - 1) / n |

    In `shuffle` the two sub-batches (or all batches of a probe) are disjoint;
    in `without_replacement` each is drawn without replacement, independently
    of the others. Along a shuffled *run* the weights depend on the epoch so
    far, so there the correction is not exact. Nothing is corrected, and the
    map is the identity, while a size that it needs is None.

    Args:
        sampling: One of `SAMPLING_MODES`.
        num_examples: Size of the data set; not needed with replacement.
        batch_size: B, at which N is stated; needed for `shuffle`.
        sub_batch_size: Examples behind each of the gradients compared (on one
            replica); needed for `without_replacement`.

    Returns:
        `((a11, a12), (a21, a22))`, floats.

    Raises:
        ValueError: If the mode is unknown, a size is no whole number of at
            least 1, or a batch does not fit into the data set.
    """
    if sampling not in SAMPLING_MODES:
        raise ValueError(
            f"`sampling` must be one of {', '.join(SAMPLING_MODES)}, "
            f"got {sampling!r}."
        )
    n = _checked_size("num_examples", num_examples)
    batch_size = _checked_size("batch_size", batch_size)
    sub_batch_size = _checked_size("sub_batch_size", sub_batch_size)
    identity = (1.0, 0.0), (0.0, 1.0)
    if sampling == "with_replacement" or n is None:
        return identity
    if n < 2:
        raise ValueError(
            f"`num_examples` must be at least 2, got {n}: the gradient of a "
            "single example has no noise."
        )
    if batch_size is not None and batch_size > n:
        raise ValueError(
            f"`batch_size` must be at most num_examples = {n} with sampling = "
            f"{sampling!r}, got {batch_size}."
        )
    if sampling == "shuffle":
        if batch_size is None:
            return identity
        return (1.0, batch_size / n), (0.0, (n - 1) / n)
    if sub_batch_size is None:
        return identity
    if sub_batch_size >= n:
        raise ValueError(
            f"`sub_batch_size` must be below num_examples = {n}, got "
            f"{sub_batch_size}: a whole data set drawn without replacement "
            "shows no noise."
        )
    return (1.0, 0.0), (0.0, (n - 1) / (n - sub_batch_size))


def _checked_size(name, value):
    if value is None:
        return None
    if not (is_number(value) and 1 <= value < math.inf) or value != int(value):
        raise ValueError(
            f"`{name}` must be a whole number of at least 1 or None, "
            f"got {value!r}."
        )
    return int(value)


# Every use of randomness has a stream of its own. The numbers are part of the
# meaning of a seed: changing one changes every run that was made with it.
_STREAMS = {
    "with_replacement": 0,
    "without_replacement": 1,
    "shuffle": 2,
    "augmentation": 3,
}


def stream_seed(seed, stream, index):
    """Returns the stateless seed of one use of randomness.

    Seeds of different `(seed, stream, index)` are unrelated: in particular
    seed 1 at index 0 shares nothing with seed 0 at index 1.

    Args:
        seed: integer, the seed of the run.
        stream: one of the sampling modes, or `"augmentation"`.
        index: integer or scalar integer tensor: a sub-batch or an epoch.

    Returns:
        int64 tensor of shape `(2,)` for TensorFlow's stateless operations.
    """
    check_seed(seed)
    key = tf.constant([seed, 0], tf.int64)
    key = tf.random.fold_in(key, tf.constant(_STREAMS[stream], tf.int64))
    return tf.random.fold_in(key, tf.cast(index, tf.int64))


def sub_batch_indices(
    sampling,
    seed,
    index,
    num_examples,
    sub_batch_size,
    sub_batches_per_epoch=None,
):
    """Draws the examples of sub-batch number `index`.

    - `"with_replacement"`: independent uniform draws;
    - `"without_replacement"`: distinct examples within a sub-batch, drawn
      independently of all other sub-batches;
    - `"shuffle"`: every epoch has a random permutation of its own, of which
      its sub-batches are consecutive pieces, so that they are disjoint. What
      does not fill a sub-batch is dropped for that epoch.

    Any sub-batch costs the same, whichever were drawn before it. It works
    eagerly and inside `tf.function` and `tf.data`, and leaves TensorFlow's
    global random state alone.

    Args:
        sampling: one of `SAMPLING_MODES`.
        seed: integer, the seed of the run.
        index: integer or scalar integer tensor >= 0, counts sub-batches from
            the start of the run.
        num_examples: integer, the size of the data set.
        sub_batch_size: integer, at most `num_examples`.
        sub_batches_per_epoch: integer, for `"shuffle"` only: how many
            sub-batches an epoch has. Default: as many as fit. Sub-batches
            that are consumed in pairs need an even number.

    Returns:
        int64 tensor of shape `(sub_batch_size,)`.

    Raises:
        ValueError: if an argument is out of range or the mode is unknown.
    """
    check_sampling(sampling)
    checked_integer("num_examples", num_examples)
    check_sub_batch_size(sub_batch_size, num_examples)
    if isinstance(index, numbers.Integral) and index < 0:
        raise ValueError(
            f"`index` counts sub-batches from 0; received: {index}."
        )
    if sampling == "with_replacement":
        return tf.random.stateless_uniform(
            (sub_batch_size,),
            stream_seed(seed, sampling, index),
            minval=0,
            maxval=num_examples,
            dtype=tf.int64,
        )
    if sampling == "without_replacement":
        draw = stream_seed(seed, sampling, index)
        return _distinct_indices(draw, num_examples, sub_batch_size)
    fitting = num_examples // sub_batch_size
    if sub_batches_per_epoch is None:
        sub_batches_per_epoch = fitting
    elif not 1 <= sub_batches_per_epoch <= fitting:
        raise ValueError(
            "`sub_batches_per_epoch` must be between 1 and "
            f"{fitting}, the number of sub-batches of {sub_batch_size} in "
            f"{num_examples} examples; received: {sub_batches_per_epoch}."
        )
    index = tf.cast(index, tf.int64)
    epoch = index // sub_batches_per_epoch
    start = (index % sub_batches_per_epoch) * sub_batch_size
    permutation = _distinct_indices(
        stream_seed(seed, sampling, epoch), num_examples, num_examples
    )
    return tf.ensure_shape(
        permutation[start : start + sub_batch_size], (sub_batch_size,)
    )


def _distinct_indices(draw, num_examples, count):
    # tf.random.experimental.index_shuffle would be O(count), but at its fixed
    # 4 rounds pairs of positions are far from uniform (a chi-square test
    # rejects at 37 and at 50,000 examples). Random keys, ranked, are exact up
    # to ties, which 52-bit keys make negligible.
    keys = tf.random.stateless_uniform((num_examples,), draw, dtype=tf.float64)
    ranked = tf.math.top_k(keys, count, sorted=True).indices
    return tf.cast(ranked, tf.int64)


def check_seed(seed):
    """Raises unless `seed` is an integer that fits 64 bits."""
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral):
        raise TypeError(f"`seed` must be an integer; received: {seed!r}.")
    if not -(2**63) <= seed < 2**63:
        raise ValueError(
            f"`seed` must fit a signed 64-bit integer; received: {seed}."
        )


def check_sampling(sampling):
    """Raises unless `sampling` is a known mode."""
    if sampling not in SAMPLING_MODES:
        raise ValueError(
            f"`sampling` must be one of {', '.join(SAMPLING_MODES)}; "
            f"received: {sampling!r}."
        )


def check_sub_batch_size(sub_batch_size, num_examples):
    """Raises unless a sub-batch has between 1 and all examples."""
    if isinstance(sub_batch_size, bool) or not isinstance(
        sub_batch_size, numbers.Integral
    ):
        raise TypeError(
            f"`sub_batch_size` must be an integer; received: "
            f"{sub_batch_size!r}."
        )
    if not 1 <= sub_batch_size <= num_examples:
        raise ValueError(
            f"`sub_batch_size` must be between 1 and {num_examples}, the "
            f"number of examples in the data set; received: {sub_batch_size}."
        )

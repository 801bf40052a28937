"""Which examples form a sub-batch."""

import tensorflow as tf

from experiments.datasets.permutation import permuted

SAMPLING_MODES = ("with_replacement", "without_replacement", "shuffle")

# Every use of randomness has a stream of its own. The numbers are part of the
# meaning of a seed: changing one changes every run that was made with it.
_STREAMS = {
    "with_replacement": 0,
    "without_replacement": 1,
    "shuffle": 2,
    "augmentation": 3,
}


def stream_seed(seed, stream, index):
    """The stateless seed of one use of randomness, of shape `(2,)`.

    Seeds of different `(seed, stream, index)` are unrelated: in particular
    seed 1 at index 0 shares nothing with seed 0 at index 1.

    Args:
        seed: integer, the seed of the run.
        stream: one of the sampling modes, or `"augmentation"`.
        index: integer or scalar integer tensor: a sub-batch or an epoch.
    """
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
    """Draws the examples of sub-batch number `index`, counted from 0.

    - `"with_replacement"`: independent uniform draws;
    - `"without_replacement"`: distinct examples within a sub-batch, drawn
      independently of all other sub-batches;
    - `"shuffle"`: every epoch has a random permutation of its own, of which
      its `sub_batches_per_epoch` (by default as many as fit; consumed in pairs
      they need an even number) are consecutive pieces, so that they are
      disjoint. What does not fill a sub-batch is dropped for that epoch.

    A sub-batch costs the same whichever were drawn before it, and however
    many examples there are. It works eagerly and inside `tf.function` and
    `tf.data`, and leaves TensorFlow's global random state alone.

    Returns:
        int64 tensor of shape `(sub_batch_size,)`.
    """
    if sampling == "with_replacement":
        return tf.random.stateless_uniform(
            (sub_batch_size,),
            stream_seed(seed, sampling, index),
            minval=0,
            maxval=num_examples,
            dtype=tf.int64,
        )
    if sampling == "without_replacement":
        return permuted(
            tf.range(sub_batch_size, dtype=tf.int64),
            num_examples,
            stream_seed(seed, sampling, index),
        )
    if sub_batches_per_epoch is None:
        sub_batches_per_epoch = num_examples // sub_batch_size
    index = tf.cast(index, tf.int64)
    epoch = index // sub_batches_per_epoch
    start = (index % sub_batches_per_epoch) * sub_batch_size
    return permuted(
        start + tf.range(sub_batch_size, dtype=tf.int64),
        num_examples,
        stream_seed(seed, sampling, epoch),
    )

"""Batches of an in-memory data set, as a pure function of (seed, step)."""

import numpy as np
import tensorflow as tf

from experiments.datasets.sampling import stream_seed, sub_batch_indices


def training_batches(
    images,
    labels,
    *,
    sub_batch_size,
    sub_batches_per_step,
    sampling,
    seed,
    preprocess,
    start_step=0,
    augmentation=None,
    sub_batches_per_epoch=None,
):
    """Endless training batches that can be resumed at any step.

    Step k of the data set holds sub-batch k if `sub_batches_per_step` is 1,
    and sub-batches 2k and 2k + 1 with interleaved rows a0 b0 a1 b1 … if it is
    2, so that contiguous sharding over replicas keeps pairs together. Two
    consecutive steps of the first form hold the rows of one step of the
    second, augmentation included; with `"shuffle"` this needs the same
    `sub_batches_per_epoch` in both.

    A step depends on `seed` and its number alone: a run that is resumed with
    `start_step=k` sees what the uninterrupted one would have seen. TensorFlow's
    global random state is neither read nor changed.

    Args:
        images: array of shape `(n, height, width, channels)`.
        labels: integer array of shape `(n,)`.
        sub_batch_size: examples in a sub-batch.
        sub_batches_per_step: 1 or 2.
        sampling: one of `SAMPLING_MODES`.
        seed: integer.
        preprocess: function from raw image batches to model inputs, such as
            `standardization(…)`; its result is cast to float32.
        start_step: the number of the first step, from 0.
        augmentation: None, or a function `(images, seed) -> images` of the raw
            images of one sub-batch and a stateless seed of shape `(2,)`.
        sub_batches_per_epoch: integer, for `"shuffle"` only; default: those of
            as many whole steps as fit.

    Returns:
        An infinite `tf.data.Dataset` of `(x, y)`: float32 images and int32
        labels with `sub_batch_size * sub_batches_per_step` rows, of static
        shape.

    Raises:
        ValueError: if an epoch of `"shuffle"` holds no whole step.
    """
    num_examples = len(images)
    step_size = sub_batch_size * sub_batches_per_step
    if sampling == "shuffle" and step_size > num_examples:
        raise ValueError(
            f"A step of {sub_batches_per_step} × {sub_batch_size} = "
            f"{step_size} examples does not fit in one epoch of the "
            f'{num_examples} that `sampling="shuffle"` draws from: use a '
            "smaller `batch_size` or another sampling."
        )
    if sub_batches_per_epoch is None:
        sub_batches_per_epoch = num_examples // step_size * sub_batches_per_step
    images = tf.constant(images)
    labels = tf.constant(labels, tf.int32)

    def batch(step):
        xs, ys = [], []
        for offset in range(sub_batches_per_step):
            index = step * sub_batches_per_step + offset
            rows = sub_batch_indices(
                sampling,
                seed,
                index,
                num_examples,
                sub_batch_size,
                sub_batches_per_epoch,
            )
            x = tf.gather(images, rows)
            if augmentation is not None:
                x = augmentation(x, stream_seed(seed, "augmentation", index))
            xs.append(x)
            ys.append(tf.gather(labels, rows))
        x = preprocess(_interleave(xs))
        return tf.cast(x, tf.float32), _interleave(ys)

    steps = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max)
    batches = steps.map(
        batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    return _without_file_sharding(batches.prefetch(tf.data.AUTOTUNE))


def evaluation_batches(images, labels, batch_size, preprocess, whole=False):
    """All examples once, in order, in batches, a finite `tf.data.Dataset`.

    The last one is shorter, or left out if `whole` batches are wanted, which
    have static shapes. The rest is as in `training_batches`.
    """
    examples = tf.data.Dataset.from_tensor_slices(
        (images, np.asarray(labels, np.int32))
    )
    batches = examples.batch(batch_size, drop_remainder=whole).map(
        lambda x, y: (tf.cast(preprocess(x), tf.float32), y),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    return _without_file_sharding(batches.prefetch(tf.data.AUTOTUNE))


def full_batches(images, labels, preprocess):
    """All examples as one batch, in order, without end."""
    size = len(images)
    batch = evaluation_batches(images, labels, size, preprocess, whole=True)
    return batch.cache().repeat()


def standardization(dataset):
    """`images -> (images / max_value - mean) / std` of a `Dataset`.

    It takes images of shape `(batch, height, width, channels)` and gives
    float32 tensors of the same shape.
    """
    mean, std = np.float32(dataset.mean), np.float32(dataset.std)

    def standardize(images):
        # Broadcasting over rows of pixels instead of over single pixels is
        # three times as fast, with the same result.
        width, channels = images.shape[-2:]
        rows = tf.reshape(images, (-1, width * channels))
        rows = tf.cast(rows, tf.float32) / dataset.kind.max_value
        rows = (rows - np.tile(mean, width)) / np.tile(std, width)
        return tf.ensure_shape(tf.reshape(rows, tf.shape(images)), images.shape)

    return standardize


def _interleave(parts):
    rows = len(parts) * parts[0].shape[0]
    return tf.reshape(tf.stack(parts, axis=1), (rows, *parts[0].shape[1:]))


def _without_file_sharding(dataset):
    # There are no files to shard by. DATA shards rows among workers, each of
    # which makes the same batches.
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    return dataset.with_options(options)

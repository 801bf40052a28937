"""Batches of an in-memory data set, as a pure function of (seed, step)."""

import numpy as np
import tensorflow as tf

from experiments.datasets.augmentation import augment
from experiments.datasets.sampling import stream_seed, sub_batch_indices


def training_batches(
    dataset, plan, *, sampling, seed, start_step=0, augmentation=False
):
    """Endless training batches that can be resumed at any step.

    Step k of the data set holds sub-batch k if the plan has one of them in a
    step, and sub-batches 2k and 2k + 1 with interleaved rows a0 b0 a1 b1 … if
    it has two, so that contiguous sharding over replicas keeps pairs together.
    Two consecutive steps of the first form hold the rows of one step of the
    second, augmentation included.

    A step depends on `seed` and its number alone, and TensorFlow's global
    random state is neither read nor changed.

    Args:
        dataset, plan: a `Dataset` and an `EpochPlan`.
        sampling: one of `SAMPLING_MODES`.
        seed: integer.
        start_step: the number of the first step, from 0.
        augmentation: whether the images are augmented.

    Returns:
        An infinite `tf.data.Dataset` of standardized images and labels, of
        static shapes.
    """
    num_examples, rows_per_step = len(dataset.train_images), plan.rows_per_step
    if sampling == "shuffle" and rows_per_step > num_examples:
        raise ValueError(
            f"A step of {plan.sub_batches_per_step} × {plan.sub_batch_size} = "
            f"{rows_per_step} examples does not fit in one epoch of the "
            f'{num_examples} that `sampling="shuffle"` draws from: use a '
            "smaller `batch_size` or another sampling."
        )
    images = tf.constant(dataset.train_images)
    labels = tf.constant(dataset.train_labels, tf.int32)
    standardize = standardization(dataset)

    def sub_batch(index):
        rows = sub_batch_indices(
            sampling,
            seed,
            index,
            num_examples,
            plan.sub_batch_size,
            plan.sub_batches_per_shuffled_epoch,
        )
        x = tf.gather(images, rows)
        if augmentation:
            own_seed = stream_seed(seed, "augmentation", index)
            x = augment(x, own_seed, flip=dataset.kind.may_be_mirrored)
        return x, tf.gather(labels, rows)

    def batch(step):
        first = step * plan.sub_batches_per_step
        parts = [sub_batch(first + i) for i in range(plan.sub_batches_per_step)]
        xs, ys = zip(*parts, strict=True)
        return standardize(_interleave(xs)), _interleave(ys)

    steps = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max)
    return _prefetched(steps, batch)


def evaluation_batches(dataset, batch_size=500):
    """The test images once, in order, in batches; the last may be shorter."""
    examples = tf.data.Dataset.from_tensor_slices(
        (dataset.test_images, dataset.test_labels)
    )
    standardize = standardization(dataset)
    return _prefetched(
        examples.batch(batch_size), lambda x, y: (standardize(x), y)
    )


def full_batches(dataset):
    """The whole training set as one batch, in order, without end."""
    examples = tf.data.Dataset.from_tensors(
        (dataset.train_images, dataset.train_labels)
    )
    standardize = standardization(dataset)
    return (
        _prefetched(examples, lambda x, y: (standardize(x), y)).cache().repeat()
    )


def standardization(dataset):
    """`images -> (images / max_value - mean) / std` of a `Dataset`.

    It gives float32 tensors of the images' shape.
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


def _prefetched(dataset, function):
    batches = dataset.map(
        function, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    # There are no files to shard by. DATA shards rows among workers, each of
    # which makes the same batches.
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    return batches.prefetch(tf.data.AUTOTUNE).with_options(options)

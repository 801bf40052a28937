import itertools

import numpy as np
import pytest
import tensorflow as tf

from experiments.datasets import (
    evaluation_batches,
    full_batches,
    training_batches,
)
from experiments.datasets.augmentation import augment
from experiments.datasets.loading import Dataset, KnownDataset
from experiments.datasets.sampling import (
    SAMPLING_MODES,
    stream_seed,
    sub_batch_indices,
)
from experiments.epoch_plan import EpochPlan

NUM_EXAMPLES = 37
IMAGES = np.random.default_rng(0).integers(
    0, 17, (NUM_EXAMPLES, 8, 8, 3), dtype=np.uint8
)
# Labels that name their image.
LABELS = np.arange(NUM_EXAMPLES, dtype=np.int32)
MEAN, STD = np.float32([0.2, 0.3, 0.4]), np.float32([0.5, 0.6, 0.7])
KIND = KnownDataset(NUM_EXAMPLES, 10, 16, True)
DATASET = Dataset(KIND, IMAGES, LABELS, IMAGES[::-1], LABELS[::-1], MEAN, STD)


def standardized(images):
    return (np.float32(images) / 16 - MEAN) / STD


def _batches(sampling="with_replacement", per_step=2, size=4, start_step=0):
    plan = EpochPlan(NUM_EXAMPLES, size, pairs_within_step=per_step == 2)
    return training_batches(
        DATASET,
        plan,
        sampling=sampling,
        seed=6,
        start_step=start_step,
        augmentation=True,
    )


def _take(dataset, count):
    x, y = zip(*dataset.take(count).as_numpy_iterator(), strict=True)
    return np.stack(x), np.stack(y)


@pytest.mark.parametrize("sampling", SAMPLING_MODES)
@pytest.mark.parametrize("per_step, start", [(1, 0), (1, 11), (2, 0), (2, 5)])
def test_a_step_is_a_function_of_its_number(sampling, per_step, start):
    """Resumed at any step, and of one sub-batch or two that interleave."""
    tf.random.set_seed(1)
    expected = tf.random.uniform((3,))
    tf.random.set_seed(1)
    dataset = _batches(sampling, per_step, start_step=start)
    assert dataset.element_spec == (
        tf.TensorSpec((per_step * 4, 8, 8, 3), tf.float32),
        tf.TensorSpec((per_step * 4,), tf.int32),
    )
    assert dataset.cardinality() == tf.data.INFINITE_CARDINALITY
    x, y = _take(dataset, 7)
    # The global random state is left alone.
    np.testing.assert_array_equal(tf.random.uniform((3,)), expected)
    for step, offset in itertools.product(range(7), range(per_step)):
        index = per_step * (start + step) + offset
        # An epoch of shuffle has whole pairs: 8 of 4 examples.
        rows = sub_batch_indices(sampling, 6, index, NUM_EXAMPLES, 4, 8)
        own_seed = stream_seed(6, "augmentation", index)
        raw = augment(tf.gather(IMAGES, rows), own_seed)
        np.testing.assert_array_equal(y[step, offset::per_step], rows)
        np.testing.assert_array_equal(
            x[step, offset::per_step], standardized(raw)
        )


def test_evaluation_batches_hold_everything_once_in_order():
    batches = list(evaluation_batches(DATASET, 10))
    assert [len(y) for _, y in batches] == [10, 10, 10, 7]
    x, y = map(np.concatenate, zip(*batches, strict=True))
    np.testing.assert_array_equal(x, standardized(IMAGES[::-1]))
    np.testing.assert_array_equal(y, LABELS[::-1])


def test_a_full_batch_is_the_whole_set_in_order():
    batches = full_batches(DATASET)
    assert batches.element_spec[0].shape == IMAGES.shape
    x, y = _take(batches, 2)
    assert x.dtype == "float32"
    np.testing.assert_array_equal(x, [standardized(IMAGES)] * 2)
    np.testing.assert_array_equal(y, [LABELS] * 2)


def test_no_data_set_is_sharded_by_files():
    made = _batches(), evaluation_batches(DATASET), full_batches(DATASET)
    for dataset in made:
        policy = dataset.options().experimental_distribute.auto_shard_policy
        assert policy == tf.data.experimental.AutoShardPolicy.DATA


def test_an_epoch_of_shuffle_that_holds_no_step_is_refused():
    with pytest.raises(ValueError, match="2 × 20 = 40 .*of the 37"):
        _batches("shuffle", size=20)

import itertools

import numpy as np

from experiments.datasets import full_batches, single_examples, standardization


def test_every_batch_is_the_whole_set_in_order():
    images = np.arange(5 * 2 * 2, dtype="uint8").reshape(5, 2, 2, 1)
    labels = np.arange(5)
    batches = full_batches(images, labels, lambda x: x * 2)
    assert batches.element_spec[0].shape == (5, 2, 2, 1)
    for x, y in itertools.islice(batches, 3):
        np.testing.assert_array_equal(x, images * 2.0)
        np.testing.assert_array_equal(y, labels)
        assert x.dtype == "float32"


def test_single_examples_are_standardized_as_batches_are():
    images = np.arange(5 * 2 * 2 * 3, dtype="uint8").reshape(5, 2, 2, 3)
    mean, std = (0.1, 0.2, 0.3), (0.5, 1.0, 2.0)
    standardize = standardization(mean, std, 255)
    examples = list(single_examples(images, np.arange(5), standardize))
    x = np.stack([x for x, _ in examples])
    np.testing.assert_allclose(x, (images / 255 - mean) / std, rtol=1e-5)
    assert [int(y) for _, y in examples] == [0, 1, 2, 3, 4]

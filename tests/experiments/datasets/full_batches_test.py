import itertools

import numpy as np

from experiments.datasets import full_batches


def test_every_batch_is_the_whole_set_in_order():
    images = np.arange(5 * 2 * 2, dtype="uint8").reshape(5, 2, 2, 1)
    labels = np.arange(5)
    batches = full_batches(images, labels, lambda x: x * 2)
    assert batches.element_spec[0].shape == (5, 2, 2, 1)
    for x, y in itertools.islice(batches, 3):
        np.testing.assert_array_equal(x, images * 2.0)
        np.testing.assert_array_equal(y, labels)
        assert x.dtype == "float32"

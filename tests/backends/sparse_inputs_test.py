"""Sparse inputs are measured and trained on as the dense ones they are."""

import keras
import numpy as np
import pytest
import scipy.sparse
from keras import layers

import keras_svag
from tests.helpers.backend_cases import compiled_for, numbers

if keras.backend.backend() == "torch":
    pytest.skip("Keras has none on PyTorch", allow_module_level=True)

WORDS = np.maximum(numbers(24, 20) - 0.5, 0)


def model(is_sparse):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((20,), sparse=is_sparse), layers.Dense(2)]
    )


def trained(x, wraps):
    """The series and the weights of a few steps."""
    trainee = compiled_for(wraps, model(x is not WORDS))
    monitor = keras_svag.GradientNoiseMonitor(every=1)
    y = numbers(24, 2, seed=1)
    trainee.fit(x, y, batch_size=8, verbose=0, callbacks=[monitor])
    moments = monitor.series["grad_sq_norm"], monitor.series["example_noise"]
    return [*moments, *trainee.get_weights()]


@pytest.mark.parametrize("wraps", [False, True])
def test_noise_and_weights_are_those_of_dense_inputs(wraps):
    for sparse, dense in zip(
        trained(scipy.sparse.csr_matrix(WORDS), wraps),
        trained(WORDS, wraps),
        strict=True,
    ):
        np.testing.assert_allclose(sparse, dense, 1e-5, 1e-6)


def test_scale_invariance_is_not_looked_at_on_matrices_of_scipy():
    x = scipy.sparse.csr_matrix(WORDS)
    with pytest.raises(TypeError, match="^`x` must be arrays or tensors, got"):
        keras_svag.is_scale_invariant(model(True), x)

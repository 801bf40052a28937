"""For any sizes and weights a wrapped model trains as it does unwrapped."""

import keras
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_svag import SVAGModel
from tests.helpers.small_problems import dense_network, regression

positive_weights = st.floats(0, 10, width=32)


@st.composite
def calls_of_fit(draw):
    """Arguments of `fit`: a number of rows, batches, weights, a split."""
    rows = draw(st.integers(2, 12))
    weights = st.lists(positive_weights, min_size=rows, max_size=rows)
    x, y = regression(rows, seed=draw(st.integers(0, 9)))
    return {
        "x": x,
        "y": y,
        "batch_size": draw(st.integers(1, 14)),
        "sample_weight": draw(st.none() | weights.map(np.float32)),
        "validation_split": draw(st.sampled_from((0.0, 0.3))),
    }


@settings(max_examples=15)
@given(calls_of_fit())
def test_wrapped_model_trains_as_unwrapped(arguments):
    trained = []
    for wrap in (lambda model: model, SVAGModel):
        # Traced anew for each example, it would take a second each.
        model = wrap(dense_network())
        model.compile(
            keras.optimizers.SGD(0.01),
            "mse",
            metrics=["mae"],
            weighted_metrics=["mse"],
            run_eagerly=True,
        )
        history = model.fit(**arguments, shuffle=False, verbose=0)
        trained.append((model.get_weights(), history.history))
    (plain, plain_logs), (wrapped, wrapped_logs) = trained
    for ours, theirs in zip(wrapped, plain, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    for key, values in plain_logs.items():
        np.testing.assert_allclose(wrapped_logs[key], values, rtol=1e-4)

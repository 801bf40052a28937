"""For any sizes and weights a model trains as without the monitor."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_svag import GradientNoiseMonitor
from tests.helpers.small_problems import dense_network, regression

pytestmark = pytest.mark.slow

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
        "batch_size": draw(st.integers(2, 14)),
        "sample_weight": draw(st.none() | weights.map(np.float32)),
        "validation_split": draw(st.sampled_from((0.0, 0.3))),
    }


@settings(max_examples=15)
@given(calls_of_fit(), st.integers(1, 3))
def test_model_trains_as_without_the_monitor(arguments, every):
    trained = []
    for callbacks in ([], [GradientNoiseMonitor(every)]):
        # Traced anew for each example, it would take a second each.
        model = dense_network()
        model.compile(
            keras.optimizers.SGD(0.01),
            "mse",
            metrics=["mae"],
            weighted_metrics=["mse"],
            run_eagerly=True,
        )
        history = model.fit(
            **arguments, epochs=2, callbacks=callbacks, verbose=0
        )
        trained.append((model.get_weights(), history.history))
    (plain, plain_logs), (monitored, logs) = trained
    for ours, theirs in zip(monitored, plain, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert {key: logs[key] for key in plain_logs} == plain_logs

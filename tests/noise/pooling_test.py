import dataclasses
import json
import math

import numpy as np
import pytest

from keras_svag.noise.estimate import NoiseEstimate, PairSums
from keras_svag.noise.pooling import observed_since, pooled


def observations(seed, count, mean=(1.0, 5.0)):
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(2, count)) * [[3.0], [2.0]]
    return np.array(mean)[:, None] + noise


def estimate_of(g, n, **fields):
    return NoiseEstimate.from_sums(**PairSums.of(g, n).to_dict(), **fields)


def test_pooled_windows_are_one_long_window():
    windows = [observations(0, 30), observations(1, 70, (2.0, 9.0))]
    together = estimate_of(*np.concatenate(windows, axis=1), batch_size=8)
    actual = pooled(estimate_of(*w, batch_size=8) for w in windows)
    np.testing.assert_allclose(
        dataclasses.astuple(actual)[:7], dataclasses.astuple(together)[:7]
    )


def test_pooled_windows_of_one_observation_show_their_spread():
    g, n = observations(0, 12)
    actual = pooled(estimate_of(g[i], n[i]) for i in range(12))
    assert actual.count == 12
    np.testing.assert_allclose(
        [actual.grad_sq_norm_se, actual.noise_trace_se],
        np.std([g, n], axis=1, ddof=1) / math.sqrt(12),
    )


def test_pooled_adds_what_was_skipped_and_ignores_empty_windows():
    g, n = observations(0, 12)
    empty = estimate_of([math.nan] * 3, [1.0] * 3)
    actual = pooled([empty, estimate_of(g, n), empty])
    assert actual.num_skipped == 6
    assert actual.count == 12
    assert actual.grad_sq_norm == pytest.approx(g.mean())
    assert pooled([empty]).count == 0


def test_pooled_keeps_layers_and_the_correction():
    g, n = observations(0, 12)
    layers = {"a": estimate_of(g, n), "b": estimate_of(2 * g, n)}
    fields = {
        "per_layer": layers,
        "sampling": "shuffle",
        "num_examples": 50,
        "batch_size": 5,
    }
    corrected = estimate_of(g, n, **fields).corrected(((1, 0.1), (0, 0.98)))
    actual = pooled([corrected, corrected])
    assert actual.corrected_for_sampling
    assert (actual.sampling, actual.num_examples) == ("shuffle", 50)
    assert actual.per_layer["b"].grad_sq_norm == pytest.approx(
        2 * g.mean() + 0.1 * n.mean()
    )
    raw = estimate_of(g, n, **fields)
    assert not pooled([corrected, raw]).corrected_for_sampling


def test_pooled_refuses_other_batch_sizes():
    g, n = observations(0, 12)
    with pytest.raises(ValueError, match=r"of one batch size, .* got \[4, 8\]"):
        pooled([estimate_of(g, n, batch_size=b) for b in (4, 8)])


def test_state_is_strict_json_and_is_restored():
    g, n = observations(0, 12)
    estimate = estimate_of(
        g[:1], n[:1], batch_size=8, per_layer={"a": estimate_of(g, n)}
    )
    state = json.dumps(estimate.to_dict(), allow_nan=False)
    restored = NoiseEstimate.from_dict(json.loads(state))
    assert repr(restored) == repr(estimate)


def test_degrees_of_freedom_of_probes_add_up():
    g, n = observations(0, 12)
    probe = dataclasses.replace(
        estimate_of(g, n), degrees_of_freedom=4, num_examples_used=96
    )
    actual = pooled([probe, probe, probe])
    assert (actual.degrees_of_freedom, actual.num_examples_used) == (12, 288)
    assert pooled([estimate_of(g, n)]).degrees_of_freedom is None


def test_observations_since_an_earlier_estimate_are_those_that_came_after():
    g, n = observations(0, 50)
    g[[10, 40]] = math.nan
    layers = [
        {
            "a": estimate_of(g[:end], n[:end]),
            "b": estimate_of(2 * g[:end], n[:end]),
        }
        for end in (20, 50)
    ]
    earlier, whole = (
        estimate_of(g[:end], n[:end], batch_size=8, per_layer=of_layers)
        for end, of_layers in zip((20, 50), layers, strict=True)
    )
    matrix = ((1, 0.1), (0, 0.98))
    for correction in (((1, 0), (0, 1)), matrix):
        actual = observed_since(
            whole.corrected(correction), earlier.corrected(correction)
        )
        expected = estimate_of(g[20:], n[20:]).corrected(correction)
        np.testing.assert_allclose(
            dataclasses.astuple(actual)[:6], dataclasses.astuple(expected)[:6]
        )
        assert (actual.count, actual.num_skipped) == (29, 1)
        layer = estimate_of(2 * g[20:], n[20:]).corrected(correction)
        assert actual.per_layer["b"].grad_sq_norm == pytest.approx(
            layer.grad_sq_norm
        )


def test_sums_are_added_and_taken_apart():
    sums, more = (PairSums.of(*observations(i, 9)) for i in range(2))
    for whole, part in zip(
        dataclasses.astuple(sums + more - more),
        dataclasses.astuple(sums),
        strict=True,
    ):
        assert whole == pytest.approx(part)
    with pytest.raises(TypeError):
        sums - 1

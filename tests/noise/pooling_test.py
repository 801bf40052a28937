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


def test_errors_of_windows_are_those_between_them():
    windows = [observations(i, 30, (1.0 + i % 3, 5.0)) for i in range(24)]
    actual = pooled(estimate_of(*w, batch_size=8) for w in windows)
    means = np.mean(windows, axis=2)
    assert actual.count == 720
    np.testing.assert_allclose(
        [actual.grad_sq_norm, actual.noise_trace], means.mean(0)
    )
    np.testing.assert_allclose(
        actual.covariance_matrix, np.cov(means.T) / 24, rtol=1e-9
    )


def ar1(seed, count, runs, correlation=0.9):
    """Series of G and N with one correlation time, of variance 1."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(count, 2, runs))
    values = np.empty_like(noise)
    values[0] = noise[0]
    for i in range(1, count):
        values[i] = correlation * values[i - 1] + (
            (1 - correlation**2) ** 0.5 * noise[i]
        )
    return np.moveaxis(values, 0, -1)


def with_blocks(g, n, length):
    """The estimate that keeps the sums of blocks of so many observations."""
    starts = np.arange(0, len(g), length)
    sums = np.add.reduceat([np.ones_like(g), g, n], starts, axis=1)
    return estimate_of(g, n, blocks=tuple(map(tuple, sums.T)))


def test_blocks_are_longer_than_the_correlation():
    # The sum of autocorrelations multiplies the variance of a mean, by
    # (1 + 0.9) / (1 - 0.9) = 19: alone, single blocks of 2 miss most of it.
    count, runs = 960, 200
    series = ar1(0, count, runs)
    merged = [
        pooled([with_blocks(g, n, 15)]) for g, n in zip(*series, strict=True)
    ]
    variance = np.mean([e.covariance_matrix[0, 0] for e in merged])
    # What correlation is left between few blocks is taken to be large.
    assert 19 / count < variance < 1.75 * 19 / count
    assert np.median([len(e.blocks) for e in merged]) <= 32


def probes(g, n):
    return pooled(estimate_of([a], [b]) for a, b in zip(g, n, strict=True))


def test_sets_hold_the_mean_of_few_correlated_probes():
    # Too few to be merged, and their own spread is too small a measure.
    series = 10 + np.moveaxis(ar1(0, 10, 500, correlation=0.45), 1, 0)
    wrong = 0
    for g, n in series:
        low, high = probes(g, n).interval()
        wrong += not low <= 1 <= high
    # Nominal 5% is 25, with a standard deviation of 5; alone it is 53.
    assert wrong <= 25 + 3 * 5


def test_two_probes_do_not_tell_their_correlation():
    g = np.array([1.0, 2.0])
    variance = probes(g, 5 * g).covariance_matrix[0, 0]
    assert variance == pytest.approx(1.6 / 0.4 * np.var(g, ddof=1) / 2)


def test_correlation_of_few_probes_is_that_of_a_long_series():
    count, correlation = 12, 0.3
    series = ar1(0, count, 400, correlation)[0]
    growth = np.array(
        [
            probes(g, g).covariance_matrix[0, 0] / (np.var(g, ddof=1) / count)
            for g in series
        ]
    )
    assert growth.min() == pytest.approx(1)
    assert growth.max() == pytest.approx(1.6 / 0.4)
    # Uncorrected it would be 0.3 - (1 + 4 * 0.3) / 12 = 0.12.
    found = np.median((growth - 1) / (growth + 1))
    assert found == pytest.approx(correlation, abs=0.06)


def test_sets_hold_the_mean_of_probes_that_move():
    # Each probe knows its own mean to 0.05, but the means spread by 1.
    rng = np.random.default_rng(0)
    wrong = 0
    for means in 10 + rng.normal(size=(300, 10, 2)):
        estimate = pooled(
            NoiseEstimate(*mean, 0.05, 0.05, 0.0, count=32) for mean in means
        )
        low, high = estimate.interval()
        wrong += not low <= 1 <= high
    # Nominal 5% is 15, with a standard deviation of 4.
    assert wrong <= 15 + 3 * 4


def test_bursts_cost_degrees_of_freedom():
    g, n = 1 + observations(0, 64)
    calm = pooled([with_blocks(g, n, 1)])
    assert calm.degrees_of_freedom > 30
    assert not calm.has_few_effective_observations
    n[5] += 200
    burst = pooled([with_blocks(g, n, 1)])
    # One value of M has a skewness near sqrt(M): 0.25 / (1 + 1 / M)² < 1.
    assert burst.degrees_of_freedom == 1
    assert burst.has_few_effective_observations
    # Another mean or unit changes nothing.
    scaled = pooled([with_blocks(g, 1e6 * n, 1)])
    assert scaled.degrees_of_freedom == 1


def test_blocks_of_any_lengths_become_equally_long():
    ones = [(1.0, 1.0, 2.0)] * 100
    windows = [ones, [(50.0, 50.0, 100.0)], ones]
    actual = pooled(
        NoiseEstimate(
            1.0, 2.0, 0.1, 0.1, 0.0, int(sum(b[0] for b in blocks)), blocks=b
        )
        for blocks in windows
        for b in [tuple(blocks)]
    )
    assert [block[0] for block in actual.blocks] == [50.0] * 5


def test_few_windows_are_not_surer_than_each_is():
    same = dataclasses.replace(estimate_of(*observations(0, 30)), count=30)
    actual = pooled([same, same, same])
    np.testing.assert_allclose(
        actual.covariance_matrix, same.covariance_matrix / 3
    )
    assert actual.degrees_of_freedom == pytest.approx(2)


def test_a_single_probe_keeps_its_own_errors():
    probe = dataclasses.replace(
        estimate_of(*observations(0, 12)),
        degrees_of_freedom=4,
        num_examples_used=96,
    )
    assert pooled([probe]) == probe
    assert pooled([probe, probe, probe]).num_examples_used == 288


def test_pooled_windows_of_one_observation_show_their_spread():
    g, n = observations(0, 24)
    actual = probes(g, n)
    assert actual.count == 24
    np.testing.assert_allclose(
        [actual.grad_sq_norm_se, actual.noise_trace_se],
        np.std([g, n], axis=1, ddof=1) / math.sqrt(24),
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

import dataclasses
import itertools
import math

import numpy as np
import pytest
from scipy import stats

from keras_svag.noise.diagnostics import effective_sample_size, largest_share
from keras_svag.noise.estimate import Interval, NoiseEstimate
from keras_svag.noise.ratio import block_means, covariance_of_mean


def estimate(g=1.0, s=41.0, g_se=0.1, s_se=0.5, count=200, **fields):
    """Stated at a batch size of 1, where N is S."""
    fields = {"covariance": 0.0, "batch_size": 1} | fields
    return NoiseEstimate(g, s, g_se, s_se, count=count, **fields)


def observations(seed=0, count=50):
    rng = np.random.default_rng(seed)
    return rng.normal([[1.0], [40.0]], [[3.0], [5.0]], (2, count))


def observed(values, **fields):
    return NoiseEstimate.from_observations(*values, batch_size=8, **fields)


def moments_of(result):
    means = result.grad_sq_norm, result.example_noise
    return [*means, *result.covariance_matrix.ravel()]


def test_observations_give_means_and_their_long_run_covariance():
    z = observations()
    gaps = [[math.nan, 1, 1], [1, math.inf, -math.inf]]
    covariance, cosines = covariance_of_mean(z.T)
    for values, num_skipped in ((z, 0), (np.insert(z, [2, 7, 30], gaps, 1), 3)):
        result = observed(values)
        np.testing.assert_allclose(
            moments_of(result), [*z.mean(1), *covariance.ravel()]
        )
        assert (result.count, result.num_skipped) == (50, num_skipped)
        assert result.degrees_of_freedom == cosines
        np.testing.assert_array_equal(result.blocks, block_means(z.T))
        size = effective_sample_size(z.T)
        assert result.effective_sample_size == pytest.approx(size)
        assert result.largest_share == pytest.approx(largest_share(z.T))


def test_shuffled_data_of_known_number_are_corrected():
    g, s = observations()
    plain, corrected = observed((g, s)), observed((g + s / 20, s * 19 / 20))
    for sampling, n, expected, is_unbiased in (
        ("shuffle", 20, corrected, True),
        ("independent", 20, plain, True),
        ("shuffle", None, plain, False),
        (None, 20, plain, False),
    ):
        result = observed((g, s), sampling=sampling, num_examples=n)
        np.testing.assert_allclose(moments_of(result), moments_of(expected))
        np.testing.assert_allclose(result.blocks, expected.blocks)
        assert result.corrected_for_sampling == is_unbiased


def test_too_few_observations_give_no_interval():
    for count, words in enumerate(("no observations", "too few observations")):
        result = observed(np.full((2, count), 3.0))
        assert result.count == count
        assert math.isnan(result.grad_sq_norm_se)
        assert result.interval() == Interval(0.0, math.inf)
        assert result.grad_sq_norm_sign() == "unknown"
        assert words in result.describe()
        assert NoiseEstimate.from_dict(result.to_dict()) == result


def test_ratio_and_noise_scale():
    result = estimate(g=2.0, s=60.0, s_se=3.0, batch_size=10)
    assert result.noise_scale == 30.0
    assert (result.noise_trace, result.noise_trace_se) == (6.0, 0.3)
    assert result.noise_to_signal == 3.0
    # Of a ratio of uncorrelated means the relative variances add up.
    assert result.noise_to_signal_se == pytest.approx(
        3 * math.hypot(0.1 / 2, 3 / 60)
    )
    assert estimate(g=-2.0, s=6.0).noise_to_signal == -3.0
    assert estimate(g=0.0, s=6.0).noise_to_signal == math.inf
    assert math.isnan(estimate(g=0.0, s=0.0).noise_to_signal)
    unstated = estimate(batch_size=None)
    assert math.isnan(unstated.noise_to_signal)
    assert unstated.interval() == Interval(0.0, math.inf)


def test_another_batch_size_restates_n_and_nothing_else():
    z = observations()
    probe = estimate(count=50, batch_size=8, probe=(0.05, 2.0), covariance=-0.1)
    for one in (observed(z, per_layer={"a": observed(z)}), probe):
        other = one.at(32)
        assert moments_of(other) == moments_of(one)
        assert other.noise_to_signal == pytest.approx(one.noise_to_signal / 4)
        quarter = [end / 4 for end in one.interval()]
        assert other.interval() == pytest.approx(quarter)
        assert other.at(8).interval() == one.interval()
        assert all(e.batch_size == 32 for e in (other.per_layer or {}).values())
    # What a probe shows of its batches counts at the low end, of its own size.
    of_a_run = dataclasses.replace(probe, probe=None)
    assert probe.interval().low < 0.99 * of_a_run.interval().low
    assert probe.interval().high == of_a_run.interval().high
    other = dataclasses.replace(probe, probe_batch_size=2)
    assert other.interval() != probe.interval()


def test_interval_has_the_degrees_of_freedom_of_the_errors():
    # G is exact: the set is N's, over G.
    for count, dof in ((10, None), (10, 3)):
        result = estimate(g_se=0.0, count=count, degrees_of_freedom=dof)
        reach = stats.t.ppf(0.95, dof or count - 1) * 0.5
        assert result.interval(0.9) == pytest.approx((41 - reach, 41 + reach))


def test_sign_of_g_says_where_the_interval_ends():
    noise = np.random.default_rng(0).exponential(size=(2, 60)) - 1
    for g, sign in itertools.product((3.0, 0.3, 0.0, -0.3, -3.0), (1, -1)):
        result = observed((g + sign * noise[0], 40 + noise[1]))
        for level in (0.5, 0.95, 0.999):
            is_positive = result.grad_sq_norm_sign(level) == "positive"
            assert is_positive == math.isfinite(result.interval(level).high)
        if abs(g) == 3:
            expected = "positive" if g > 0 else "negative"
            assert result.grad_sq_norm_sign() == expected


def test_words_for_every_case():
    zero = dict.fromkeys(("g", "s", "g_se", "s_se"), 0.0)
    for one, words in (
        (estimate(), "N/G = 41 ["),
        (estimate(batch_size=None), "S/G = 41 ["),
        (estimate(g_se=1.0), "no upper bound: G is not told apart from 0"),
        (estimate(g=-0.1), "not told apart from 0"),
        (estimate(g=-1.0), "significantly below 0"),
        (estimate(**zero), "undefined: every gradient was exactly zero"),
        (observed(np.full((2, 9), 1e308)), "too large"),
    ):
        assert words in one.describe()
    assert estimate(g=-1.0).interval() == (0.0, math.inf)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"num_examples": 2000, "sampling": "shuffle"}, None),
        ({"num_examples": 1999, "sampling": "shuffle"}, "is corrected"),
        ({"num_examples": 1999}, "not corrected"),
        (
            {"num_examples": 2000, "sampling": "shuffle", "g": -0.1},
            "cannot be told",
        ),
        ({"num_examples": 10, "sampling": "independent"}, None),
        ({}, None),
    ],
)
def test_warning_begins_at_a_twentieth_of_the_data_set(fields, words):
    warning = estimate(s=100.0, **fields).noise_scale_warning
    assert warning is None if words is None else words in warning


def test_json_has_what_follows_from_the_fields():
    saved = estimate(g_se=1.0, batch_size=2).to_dict()
    expected = {
        "noise_to_signal": 20.5,
        "noise_trace": 20.5,
        "noise_scale": 41.0,
        "noise_to_signal_high": None,
        "grad_sq_norm_sign": "not told apart from 0",
    }
    assert expected.items() <= saved.items()


def test_summary_and_frame_have_what_is_known():
    z = observations()
    layers = {"kernel": observed(z), "bias": observed(z[:, :0])}
    result = observed(
        z,
        sampling="shuffle",
        num_examples=50,
        assumptions=("coupled_loss", "batch_normalization"),
        loss_difference=0.02,
        per_layer=layers,
    )
    rows = dict(result.summary())
    for name, words in {
        "Noise-to-signal ratio": "N/G = ",
        "Squared gradient norm G": "±",
        "Noise N at batch size 8": "±",
        "Observations": "50",
        "Effective sample size": f"{result.effective_sample_size:.0f}",
        "In the largest 1% of them": "of G, ",
        "Assumptions": "coupled_loss, batch_normalization",
        "Loss of a batch against its halves'": "2.00%",
        "Warning": "is corrected",
    }.items():
        assert words in rows[name]
    few = dict(estimate(num_skipped=2, batch_size=None).summary())
    assert few["Observations"] == "200, 2 not finite and left out"
    assert not few.keys() & {"Effective sample size", "Warning", "Assumptions"}

    frame = result.to_frame(level=0.8)
    assert list(frame.index) == ["all", "kernel", "bias"]
    for name, one in {"all": result, **layers}.items():
        row, (low, high) = frame.loc[name], one.interval(0.8)
        ours = one.diagnostics | {
            "noise_scale": one.noise_scale,
            "noise_to_signal_low": low,
            "noise_to_signal_high": high,
        }
        if not one.count:
            ours["effective_sample_size"] = math.nan
        np.testing.assert_equal(row[list(ours)].to_dict(), ours)


def test_mean_of_estimates_has_the_errors_between_them():
    z = observations(count=12)
    common = {"sampling": "shuffle", "num_examples": 50, "num_skipped": 1}
    result = NoiseEstimate.mean_of(
        estimate(g, s, per_layer={"a": estimate(2 * g, s)}, **common)
        for g, s in z.T
    )
    # They were corrected for sampling, each of them.
    expected = NoiseEstimate.from_observations(*z, batch_size=1)
    assert moments_of(result) == moments_of(expected)
    assert result.blocks == expected.blocks
    assert result.interval() == expected.interval()
    assert (result.count, result.num_skipped) == (12, 12)
    assert (result.sampling, result.num_examples) == ("shuffle", 50)
    layer = observed((2 * z[0], z[1]))
    assert moments_of(result.per_layer["a"]) == moments_of(layer)


def test_independent_runs_weigh_as_much_as_they_have_observations():
    values = [observations(0, 300), observations(1, 100)]
    runs = [observed(z) for z in values]
    result = NoiseEstimate.over_runs(runs)
    assert result.count == 400
    variances = [run.covariance_matrix for run in runs]
    covariance = 0.75**2 * variances[0] + 0.25**2 * variances[1]
    np.testing.assert_allclose(
        moments_of(result), [*np.hstack(values).mean(1), *covariance.ravel()]
    )
    blocks = [block_means(runs[0].blocks, 24), block_means(runs[1].blocks, 8)]
    np.testing.assert_array_equal(result.blocks, np.concatenate(blocks))
    # Welch's and Satterthwaite's, of S - q G.
    direction = np.array([-result.noise_scale, 1])
    a, b = (
        weight**2 * direction @ variance @ direction
        for weight, variance in zip((0.75, 0.25), variances, strict=True)
    )
    assert result.degrees_of_freedom == pytest.approx(
        (a + b) ** 2 / (a**2 / 16 + b**2 / 16)
    )


def test_runs_keep_what_they_have_in_common():
    runs = [
        observed(
            observations(seed, count),
            assumptions=(code,),
            loss_difference=difference,
            sampling="independent",
            per_layer={"w": observed(observations(seed, count))},
        )
        for seed, (count, code, difference) in enumerate(
            ((50, "b", 0.01), (50, "a", -0.02), (0, "b", None))
        )
    ]
    result = NoiseEstimate.over_runs(runs)
    assert result.count == 100
    assert result.assumptions == ("b", "a")
    assert result.loss_difference == -0.02
    assert result.sampling == "independent"
    assert moments_of(result.per_layer["w"]) == moments_of(result)
    for pool in (NoiseEstimate.mean_of, NoiseEstimate.over_runs):
        with pytest.raises(ValueError, match=r"one batch size, got \[4, 8\]"):
            pool([estimate(batch_size=8), estimate(batch_size=4)])

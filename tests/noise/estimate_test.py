import dataclasses
import itertools
import math
import re

import numpy as np
import pytest

from keras_svag.noise.diagnostics import effective_sample_size, largest_share
from keras_svag.noise.estimate import Interval, NoiseEstimate
from keras_svag.noise.ratio import (
    block_means,
    covariance_of_mean,
    student_t_quantile,
)


def estimate(g=1.0, s=41.0, g_se=0.1, s_se=0.5, count=200, **fields):
    """Stated at a batch size of 1, where N is S."""
    fields = {"covariance": 0.0, "batch_size": 1} | fields
    return NoiseEstimate(g, s, g_se, s_se, count=count, **fields)


def observations(seed=0, count=50, mean=(1.0, 40.0)):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(2, count)) * [[3.0], [5.0]] + (np.array(mean)[:, None])
    )


def moments_of(result):
    return [
        result.grad_sq_norm,
        result.example_noise,
        result.grad_sq_norm_se**2,
        result.example_noise_se**2,
        result.covariance,
    ]


def test_observations_give_means_and_their_long_run_covariance():
    z = observations()
    result = NoiseEstimate.from_observations(*z)
    covariance, cosines = covariance_of_mean(z.T)
    np.testing.assert_allclose(
        moments_of(result),
        [*z.mean(1), covariance[0, 0], covariance[1, 1], covariance[0, 1]],
    )
    assert (result.count, result.degrees_of_freedom) == (50, cosines)
    np.testing.assert_array_equal(result.blocks, block_means(z.T))
    size = effective_sample_size(z.T)
    assert result.effective_sample_size == pytest.approx(size)
    assert result.largest_share == pytest.approx(largest_share(z.T))


def test_what_is_not_finite_is_left_out_and_counted():
    z = observations()
    gaps = np.insert(
        z, [2, 7, 30], [[math.nan, 1, 1], [1, math.inf, -math.inf]], 1
    )
    result = NoiseEstimate.from_observations(*gaps)
    assert result.num_skipped == 3
    assert result == dataclasses.replace(
        NoiseEstimate.from_observations(*z), num_skipped=3
    )


def test_shuffled_data_are_corrected_in_means_errors_and_blocks():
    z, n = observations(), 20
    result = NoiseEstimate.from_observations(
        *z, sampling="shuffle", num_examples=n
    )
    by_hand = NoiseEstimate.from_observations(
        z[0] + z[1] / n, z[1] * (n - 1) / n
    )
    np.testing.assert_allclose(moments_of(result), moments_of(by_hand))
    np.testing.assert_allclose(result.blocks, by_hand.blocks)
    assert result.corrected_for_sampling


def test_nothing_is_corrected_where_nothing_is_to_or_can_be():
    z = observations()
    plain = moments_of(NoiseEstimate.from_observations(*z))
    for sampling, n in (("independent", 20), ("shuffle", None), (None, 20)):
        result = NoiseEstimate.from_observations(
            *z, sampling=sampling, num_examples=n
        )
        assert moments_of(result) == plain
        assert result.corrected_for_sampling == (sampling == "independent")


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_observations_give_no_interval(count):
    result = NoiseEstimate.from_observations(
        np.ones(count), np.full(count, 3.0), batch_size=4
    )
    assert result.count == count
    assert math.isnan(result.grad_sq_norm_se)
    assert result.interval() == Interval(0.0, math.inf)
    assert result.grad_sq_norm_sign() == "unknown"
    words = "no observations" if count == 0 else "too few observations"
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
    assert math.isnan(estimate(batch_size=None).noise_to_signal)
    assert estimate(batch_size=None).interval() == Interval(0.0, math.inf)


def test_another_batch_size_restates_n_and_nothing_else():
    z = observations()
    layers = {"a": NoiseEstimate.from_observations(*z, batch_size=8)}
    for one in (
        NoiseEstimate.from_observations(*z, batch_size=8, per_layer=layers),
        estimate(count=50, batch_size=8, probe=(0.01, 2.0), covariance=-0.01),
    ):
        other = one.at(32)
        assert moments_of(other) == moments_of(one)
        assert other.noise_to_signal == pytest.approx(one.noise_to_signal / 4)
        assert other.interval() == pytest.approx(
            [end / 4 for end in one.interval()]
        )
        assert other.at(8).interval() == one.interval()
        assert all(e.batch_size == 32 for e in (other.per_layer or {}).values())


def test_low_end_of_a_probe_is_below_that_of_its_own_variance():
    own = estimate(count=50, batch_size=8)
    probe = dataclasses.replace(own, probe=(0.05, 2.0))
    assert probe.interval().low < 0.99 * own.interval().low
    assert probe.interval().high == own.interval().high
    assert dataclasses.replace(probe, probe_batch_size=2).interval() != (
        probe.interval()
    )


def test_interval_has_the_degrees_of_freedom_of_the_errors():
    # G is exact: the set is N's, over G.
    for count, dof in ((10, None), (10, 3)):
        result = estimate(g_se=0.0, count=count, degrees_of_freedom=dof)
        reach = student_t_quantile(0.9, dof or count - 1) * 0.5
        assert result.interval(0.9) == pytest.approx((41 - reach, 41 + reach))


def test_sign_of_g_says_where_the_interval_ends():
    noise = np.random.default_rng(0).exponential(size=(2, 60)) - 1
    for g, sign in itertools.product((3.0, 0.3, 0.0, -0.3, -3.0), (1, -1)):
        result = NoiseEstimate.from_observations(
            g + sign * noise[0], 40 + noise[1], batch_size=1
        )
        for level in (0.5, 0.95, 0.999):
            is_positive = result.grad_sq_norm_sign(level) == "positive"
            assert is_positive == math.isfinite(result.interval(level).high)
        if abs(g) == 3:
            expected = "positive" if g > 0 else "negative"
            assert result.grad_sq_norm_sign() == expected


def test_words_for_every_case():
    assert estimate().describe().startswith("N/G = 41 [")
    assert estimate(batch_size=None).describe().startswith("S/G = 41 [")
    assert "not told apart from 0" in estimate(g_se=1.0).describe()
    assert "no upper bound" in estimate(g_se=1.0).describe()
    negative = estimate(g=-1.0)
    assert negative.grad_sq_norm_sign() == "negative"
    assert "significantly below 0" in negative.describe()
    assert negative.interval() == (0.0, math.inf)
    assert estimate(g=-0.1).grad_sq_norm_sign() == "not told apart from 0"
    zero = estimate(g=0.0, s=0.0, g_se=0.0, s_se=0.0)
    assert "undefined: every gradient was exactly zero" in zero.describe()
    large = NoiseEstimate.from_observations([1e308] * 9, [1e308] * 9)
    assert "too large" in large.describe()


def test_warning_begins_at_a_twentieth_of_the_data_set():
    shuffled = {"sampling": "shuffle", "s": 100.0}
    below = estimate(num_examples=2000, **shuffled)
    above = estimate(num_examples=1999, **shuffled)
    assert below.noise_scale_warning is None
    assert "is corrected" in above.noise_scale_warning
    unknown = estimate(s=100.0, num_examples=1999)
    assert "not corrected" in unknown.noise_scale_warning
    unmeasured = estimate(g=-0.1, num_examples=2000, **shuffled)
    assert "cannot be told" in unmeasured.noise_scale_warning
    for fields in ({"sampling": "independent", "num_examples": 10}, {}):
        assert estimate(s=1e4, **fields).noise_scale_warning is None


def layered():
    z = observations()
    layers = {
        "dense/kernel": NoiseEstimate.from_observations(*z, batch_size=8),
        "dense/bias": NoiseEstimate.from_observations([], [], batch_size=8),
    }
    return NoiseEstimate.from_observations(
        *z,
        batch_size=8,
        sampling="shuffle",
        num_examples=50,
        assumptions=("coupled_loss", "batch_normalization"),
        loss_difference=0.02,
        per_layer=layers,
    )


def test_json_says_what_follows_from_the_fields():
    saved = estimate(g_se=1.0, batch_size=2).to_dict()
    assert saved["noise_to_signal"] == 20.5
    assert saved["noise_trace"] == 20.5
    assert saved["noise_scale"] == 41.0
    assert saved["noise_to_signal_high"] is None
    assert saved["grad_sq_norm_sign"] == "not told apart from 0"


def test_summary_names_what_is_known():
    rows = dict(layered().summary())
    assert rows["Noise-to-signal ratio"].startswith("N/G = ")
    assert "±" in rows["Squared gradient norm G"]
    assert "Noise N at batch size 8" in rows
    assert rows["Observations"] == "50"
    assert int(rows["Effective sample size"]) > 0
    assert re.fullmatch(
        r"\d+% of G, \d+% of S", rows["In the largest 1% of them"]
    )
    assert rows["Assumptions"] == "coupled_loss, batch_normalization"
    assert rows["Loss of a batch against its halves'"] == "2.00%"
    assert "is corrected" in rows["Warning"]
    few = dict(estimate(num_skipped=2, batch_size=None).summary())
    assert few["Observations"] == "200, 2 not finite and left out"
    assert "Effective sample size" not in few
    assert "Warning" not in few and "Noise N at batch size 1" not in few


def test_frame_has_a_row_for_the_sum_and_for_each_layer():
    result = layered()
    frame = result.to_frame(level=0.8)
    assert list(frame.index) == ["all", "dense/kernel", "dense/bias"]
    for name, one in {"all": result, **result.per_layer}.items():
        row = frame.loc[name]
        assert row["count"] == one.count
        if one.count:
            assert row["effective_sample_size"] == one.effective_sample_size
            share = row["example_noise_largest_share"]
            assert share == one.largest_share[1]
        np.testing.assert_equal(row["noise_scale"], one.noise_scale)
        ends = row["noise_to_signal_low"], row["noise_to_signal_high"]
        assert ends == one.interval(0.8)


def test_mean_of_estimates_has_the_errors_between_them():
    z = observations(count=12)
    probes = [
        estimate(
            g,
            s,
            batch_size=8,
            sampling="shuffle",
            num_examples=50,
            num_skipped=1,
            per_layer={"a": estimate(2 * g, s)},
        )
        for g, s in z.T
    ]
    result = NoiseEstimate.mean_of(probes)
    # They were corrected for sampling, each of them.
    expected = NoiseEstimate.from_observations(*z, batch_size=8)
    assert moments_of(result) == moments_of(expected)
    assert result.blocks == expected.blocks
    assert result.interval() == expected.interval()
    assert (result.count, result.num_skipped) == (12, 12)
    assert (result.sampling, result.num_examples) == ("shuffle", 50)
    layer = NoiseEstimate.from_observations(2 * z[0], z[1])
    assert moments_of(result.per_layer["a"]) == moments_of(layer)


def runs_of(counts):
    return [
        NoiseEstimate.from_observations(
            *observations(seed, count), batch_size=8
        )
        for seed, count in enumerate(counts)
    ]


def test_independent_runs_weigh_as_much_as_they_have_observations():
    runs = runs_of([300, 100])
    result = NoiseEstimate.over_runs(runs)
    assert result.count == 400
    whole = np.hstack([observations(0, 300), observations(1, 100)])
    np.testing.assert_allclose(moments_of(result)[:2], whole.mean(1))
    variances = [run.covariance_matrix for run in runs]
    covariance = 0.75**2 * variances[0] + 0.25**2 * variances[1]
    np.testing.assert_allclose(result.covariance_matrix, covariance)
    blocks = [
        block_means(run.blocks, count)
        for run, count in zip(runs, (24, 8), strict=True)
    ]
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
        dataclasses.replace(
            run,
            assumptions=(code,),
            loss_difference=difference,
            num_skipped=2,
            sampling="independent",
            per_layer={"w": run},
        )
        for run, code, difference in zip(
            runs_of([50, 50, 0]),
            ("b", "a", "b"),
            (0.01, -0.02, None),
            strict=True,
        )
    ]
    result = NoiseEstimate.over_runs(runs)
    assert result.count == 100
    assert result.num_skipped == 6
    assert result.assumptions == ("b", "a")
    assert result.loss_difference == -0.02
    assert result.sampling == "independent"
    assert moments_of(result.per_layer["w"]) == moments_of(result)


def test_pooling_refuses_other_batch_sizes():
    runs = [estimate(batch_size=8), estimate(batch_size=4)]
    for pool in (NoiseEstimate.mean_of, NoiseEstimate.over_runs):
        with pytest.raises(ValueError, match=r"one batch size, got \[4, 8\]"):
            pool(runs)

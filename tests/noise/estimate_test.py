import math

import numpy as np
import pytest
from scipy import fft, signal

from keras_svag.noise.estimate import Interval, NoiseEstimate


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


@pytest.mark.parametrize(("length", "cosines"), [(400, 16), (47, 15), (2, 1)])
def test_observations_give_means_and_their_long_run_covariance(length, cosines):
    z = np.random.default_rng(0).normal(size=(2, length)).cumsum(axis=1)
    # Of the second kind: cosines of (t + 1/2) / T.
    waves = fft.dct(z, type=2)[:, 1 : cosines + 1] / math.sqrt(2) / length
    moments = [*z.mean(1), *(waves @ waves.T / cosines).ravel()]
    blocks = [part.mean(1) for part in np.array_split(z, min(32, length), 1)]
    gaps = [[math.nan, 1, 1], [1, math.inf, -math.inf]]
    for values, num_skipped in ((z, 0), (np.insert(z, [0, 1, 2], gaps, 1), 3)):
        result = observed(values)
        np.testing.assert_allclose(moments_of(result), moments)
        np.testing.assert_allclose(result.blocks, blocks)
        assert (result.count, result.num_skipped) == (length, num_skipped)
        assert result.degrees_of_freedom == cosines


def test_batches_that_come_again_are_rows_of_one():
    z = observations(count=60)
    for once in (np.arange(60.0), np.full(60, np.nan)):
        assert observed(z, batches=once).blocks == observed(z).blocks
    # Later epochs that say the same add nothing.
    ids = np.tile(np.arange(60.0)[::-1], 5)
    again = observed(np.tile(z, 5), batches=ids)
    assert moments_of(again) == pytest.approx(moments_of(observed(z)))
    assert (again.count, again.num_batches) == (300, 60)
    # However often each comes: the mean is kept, and the deviations of a
    # batch add up.
    ids = np.random.default_rng(1).integers(0, 9, 60) / 2
    order = ids[np.sort(np.unique(ids, return_index=True)[1])]
    mean = z.mean(1, keepdims=True)
    sums = [(z - mean)[:, ids == number].sum(1) for number in order]
    expected = observed(mean + np.transpose(sums) * len(order) / 60)
    actual = observed(z, batches=ids)
    assert moments_of(actual) == pytest.approx(moments_of(expected))
    np.testing.assert_allclose(actual.blocks, expected.blocks)


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


RUNS = 400


def autoregressive(rng, correlation):
    """Stationary series of 1,000 observations, one a run."""
    noise = rng.normal(size=(RUNS, 1000))
    noise[:, 0] /= (1 - correlation**2) ** 0.5
    return signal.lfilter([1], [1, -correlation], noise, axis=1)


@pytest.mark.parametrize("correlation", [-0.5, 0.0, 0.8])
@pytest.mark.parametrize("g_follows", [False, True])
def test_sample_size_is_that_of_independent_observations(
    correlation, g_follows
):
    rng = np.random.default_rng(0)
    g, s = np.ones((RUNS, 1000)), autoregressive(rng, correlation)
    if g_follows:
        # They wander together: what is left of S - q G does not.
        g = 5 + autoregressive(rng, 0.95)
        s += 3 * g
    sizes = [observed(z).effective_sample_size for z in zip(g, s, strict=True)]
    # The variance of a mean, T / size times that of independent ones, by the
    # sum of the autocorrelations. Each has an error of √(2 / 16), and 1% for
    # what the highest of 16 cosines misses of the lowest frequencies.
    expected = (1 + correlation) / (1 - correlation)
    error = 3 * math.sqrt(2 / 16 / RUNS) + 0.01
    inflation = np.mean(1000 / np.array(sizes))
    assert inflation == pytest.approx(expected, rel=error)
    if g_follows:
        # Where G is not above 0 it is that of G.
        assert observed((-g[0], s[0])).effective_sample_size < 1000 / 10


def test_share_is_that_of_the_largest_hundredth_part():
    z = np.random.default_rng(3).normal(size=(2, 101))
    for count, largest in ((2, 1), (100, 1), (101, 2)):
        sizes = np.sort(np.abs(z[:, :count]))
        expected = sizes[:, -largest:].sum(1) / sizes.sum(1)
        share = observed(z[:, :count]).largest_share
        assert share == pytest.approx(tuple(expected))
    # That of one burst is all, however small the others.
    z = np.full((2, 50), 1e-9)
    z[:, 17] = 1e200, 1e-300
    assert observed(z).largest_share[0] == pytest.approx(1)
    pair = np.ones((2, 50))
    for z in (pair[:, :1], pair * [[1], [0]]):
        assert observed(z).largest_share is None
    # Neither have what does not vary, and what cannot be summed, a size.
    for z in (pair[:, :0], pair[:, :1], pair, 0 * pair, 1e308 * pair[:, :9]):
        assert observed(z).effective_sample_size is None


@pytest.mark.parametrize(
    ("fields", "scale", "ratio", "error"),
    [
        # Of a ratio of uncorrelated means the relative variances add up.
        ({}, 30.0, 3.0, 3 * math.hypot(0.1 / 2, 3 / 60)),
        ({"g": -2.0}, -30.0, -3.0, math.nan),
        ({"g": 0.0}, math.inf, math.inf, math.nan),
        ({"g": 0.0, "s": 0.0}, math.nan, math.nan, math.nan),
        ({"batch_size": None}, 30.0, math.nan, math.nan),
    ],
)
def test_ratio_and_noise_scale(fields, scale, ratio, error):
    given = {"g": 2.0, "s": 60.0, "s_se": 3.0, "batch_size": 10} | fields
    result = estimate(**given)
    found = (
        *(result.noise_scale, result.noise_to_signal),
        result.noise_to_signal_se,
    )
    assert found == pytest.approx((scale, ratio, error), nan_ok=True)
    if given["batch_size"]:
        assert result.noise_trace == given["s"] / 10
        assert result.noise_trace_se == 0.3
    else:
        assert result.interval() == Interval(0.0, math.inf)


def test_another_batch_size_restates_n_and_nothing_else():
    z = observations()
    one = observed(z, per_layer={"a": observed(z)})
    other = one.at(32)
    assert moments_of(other) == moments_of(one)
    assert other.noise_to_signal == pytest.approx(one.noise_to_signal / 4)
    quarter = [end / 4 for end in one.interval()]
    assert other.interval() == pytest.approx(quarter)
    assert other.at(8) == one
    assert other.per_layer["a"].batch_size == 32


def test_words_for_every_case():
    zero = dict.fromkeys(("g", "s", "g_se", "s_se"), 0.0)
    for one, words, sign in (
        (estimate(), "N/G = 41 [", "positive"),
        (estimate(batch_size=None), "S/G = 41 [", "positive"),
        (estimate(g_se=1.0), "no upper bound: G is not told apart from 0", ""),
        (estimate(g=-0.1), "not told apart from 0", ""),
        (estimate(g=-1.0), "significantly below 0", "negative"),
        (estimate(**zero), "undefined: every gradient was exactly zero", ""),
        (observed(np.full((2, 9), 1e308)), "too large", "unknown"),
        (observed([[], []]), "no observations", "unknown"),
        (observed([[3.0], [3.0]]), "too few observations", "unknown"),
    ):
        assert words in one.describe()
        assert one.grad_sq_norm_sign() == (sign or "not told apart from 0")
        if sign in ("unknown", "negative"):
            assert one.interval() == Interval(0.0, math.inf)
        assert NoiseEstimate.from_dict(one.to_dict()) == one


def test_warning_begins_at_a_twentieth_of_the_data_set():
    shuffled = {"num_examples": 1999, "sampling": "shuffle"}
    for fields, words in (
        (shuffled, "is corrected"),
        (shuffled | {"num_examples": 2000}, None),
        (shuffled | {"num_examples": 2000, "g": -0.1}, "cannot be told"),
        (shuffled | {"sampling": None}, "not corrected"),
        (shuffled | {"sampling": "independent"}, None),
        ({}, None),
    ):
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
        row, ends = frame.loc[name], one.interval(0.8)
        ours = one.diagnostics | {"noise_scale": one.noise_scale}
        ours |= {f"noise_to_signal_{e}": getattr(ends, e) for e in ends._fields}
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
    weights = np.array([0.75, 0.25])
    result = NoiseEstimate.over_runs(runs)
    assert result.count == 400
    variances = [run.covariance_matrix for run in runs]
    covariance = np.tensordot(weights**2, variances, 1)
    np.testing.assert_allclose(
        moments_of(result), [*np.hstack(values).mean(1), *covariance.ravel()]
    )
    blocks = [
        part.mean(0)
        for run, count in zip(runs, (24, 8), strict=True)
        for part in np.array_split(run.blocks, count)
    ]
    np.testing.assert_allclose(result.blocks, blocks)
    shares = [run.largest_share for run in runs]
    assert result.largest_share == pytest.approx(tuple(weights @ shares))
    # Of S - q G: Welch's and Satterthwaite's degrees of freedom, and of how
    # many independent observations the error is.
    direction = np.array([-result.noise_scale, 1])
    of_each = np.array([direction @ one @ direction for one in variances])
    parts = weights**2 * of_each
    assert result.degrees_of_freedom == pytest.approx(
        parts.sum() ** 2 / np.sum(parts**2 / 16)
    )
    sizes = [run.effective_sample_size for run in runs]
    assert result.effective_sample_size == pytest.approx(
        weights @ (sizes * of_each) / parts.sum()
    )
    exact = [estimate(count=9, g_se=0.0, s_se=0.0, effective_sample_size=9.0)]
    for unknown in ([estimate()], exact):
        pooled = NoiseEstimate.over_runs([*unknown, *unknown])
        assert pooled.effective_sample_size is None


def test_runs_keep_what_they_have_in_common():
    runs = []
    for seed, (count, code, difference) in enumerate(
        ((50, "b", 0.01), (50, "a", -0.02), (0, "b", None))
    ):
        z = observations(seed, count)
        fields = {"assumptions": (code,), "loss_difference": difference}
        fields |= {"sampling": "independent", "per_layer": {"w": observed(z)}}
        runs.append(observed(z, **fields))
    result = NoiseEstimate.over_runs(runs)
    assert result.count == 100
    assert result.assumptions == ("b", "a")
    assert result.loss_difference == -0.02
    assert result.sampling == "independent"
    assert moments_of(result.per_layer["w"]) == moments_of(result)
    for pool in (NoiseEstimate.mean_of, NoiseEstimate.over_runs):
        with pytest.raises(ValueError, match=r"one batch size, got \[4, 8\]"):
            pool([estimate(batch_size=8), estimate(batch_size=4)])

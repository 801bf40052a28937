import itertools
import json
import math

import numpy as np
import pytest
from scipy import special

from keras_svag.noise.estimate import NoiseEstimate, PairSums
from keras_svag.noise.intervals import fieller_interval, student_t_quantile
from keras_svag.noise.sampling import sampling_correction


def estimate(g=1.0, n=41.0, g_se=0.1, n_se=0.5, count=200, **fields):
    cross = fields.pop("covariance", 0.0)
    return NoiseEstimate(g, n, g_se, n_se, cross, count, **fields)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.99, 0.999])
def test_student_t_is_within_its_quantile_with_the_level_s_probability(level):
    for dof in (1, 2, 5, 39, 1000, 10**7):
        t = student_t_quantile(level, dof)
        # Abramowitz and Stegun 26.7.1, by the incomplete beta function.
        outside = special.betainc(dof / 2, 0.5, dof / (dof + t**2))
        assert outside == pytest.approx(1 - level, rel=1e-9)


@pytest.mark.parametrize(
    "g, n, g_se, n_se, cross, bounded",
    [
        (1.0, 5.0, 0.2, 0.5, -0.05, True),
        (1.0, 5.0, 0.2, 0.5, 0.09, True),
        (1.0, 0.5, 0.2, 0.5, -0.05, True),
        (0.3, 5.0, 0.2, 0.5, -0.05, False),
        (-0.1, 5.0, 0.2, 0.5, -0.05, False),
        (-0.3, 5.0, 0.2, 0.5, 0.09, False),
        (0.4, 5.0, 0.2, 0.5, 0.0, False),
    ],
)
def test_fieller_interval_inverts_the_test_of_every_ratio(
    g, n, g_se, n_se, cross, bounded
):
    quantile = 2.0
    low, high = fieller_interval(n, g, n_se**2, cross, g_se**2, quantile)
    assert math.isfinite(high) == bounded
    q = np.linspace(0, 200, 200_001)
    variance = n_se**2 - 2 * q * cross + q**2 * g_se**2
    accepted = (n - q * g) ** 2 <= quantile**2 * variance
    near_an_end = (np.abs(q - low) < 2e-3) | (np.abs(q - high) < 2e-3)
    inside = (low <= q) & (q <= high)
    np.testing.assert_array_equal(accepted[~near_an_end], inside[~near_an_end])
    if bounded:
        assert low <= n / g <= high


def test_fieller_interval_says_nothing_where_nothing_is_known():
    # Neither mean is told apart from 0; then a significantly negative one.
    assert fieller_interval(0.5, 0.3, 0.25, 0.0, 0.04, 2.0) == (0.0, math.inf)
    assert fieller_interval(5.0, -1.0, 0.25, 0.0, 0.04, 2.0) == (0.0, math.inf)


def test_fieller_interval_of_exact_means_is_their_ratio():
    assert fieller_interval(6.0, 2.0, 0.0, 0.0, 0.0, 2.0) == (3.0, 3.0)
    # Noise without any signal.
    assert fieller_interval(6.0, 0.0, 0.0, 0.0, 0.0, 2.0) == (
        math.inf,
        math.inf,
    )


def test_from_sums_gives_means_and_their_covariance():
    rng = np.random.default_rng(0)
    g, n = rng.normal(1, 3, 50), rng.normal(40, 5, 50)
    result = NoiseEstimate.from_sums(
        50, g.sum(), n.sum(), (g * g).sum(), (g * n).sum(), (n * n).sum()
    )
    expected = np.cov(g, n, ddof=1) / 50
    np.testing.assert_allclose(
        [
            result.grad_sq_norm,
            result.noise_trace,
            result.grad_sq_norm_se**2,
            result.noise_trace_se**2,
            result.covariance,
        ],
        [g.mean(), n.mean(), expected[0, 0], expected[1, 1], expected[0, 1]],
        rtol=1e-10,
    )


def test_sums_of_windows_add_up_and_survive_json():
    rng = np.random.default_rng(1)
    g, n = rng.normal(1, 3, 30), rng.normal(40, 5, 30)
    g[4] = math.nan
    parts = PairSums.of(g[:10], n[:10]) + PairSums.of(g[10:], n[10:])
    whole = PairSums.of(g, n)
    np.testing.assert_allclose(
        list(parts.to_dict().values()), list(whole.to_dict().values())
    )
    assert (whole.count, whole.num_skipped) == (29, 1)
    assert PairSums(**json.loads(json.dumps(whole.to_dict()))) == whole


def test_rounding_makes_no_negative_variance():
    same = PairSums.of(np.full(7, 0.1), np.full(7, 1e8 / 3))
    result = NoiseEstimate.from_sums(**same.to_dict())
    assert 0 <= result.grad_sq_norm_se < 1e-7
    assert 0 <= result.noise_trace_se < 1


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_observations_give_no_interval(count):
    sums = PairSums.of(np.ones(count), np.full(count, 3.0))
    result = NoiseEstimate.from_sums(**sums.to_dict(), batch_size=4)
    assert math.isnan(result.grad_sq_norm_se)
    assert result.interval() == (0.0, math.inf)
    assert result.grad_sq_norm_sign() == "unknown"
    words = "no observations" if count == 0 else "too few observations"
    assert words in result.describe()
    json.dumps(result.to_dict(), allow_nan=False)


def all_pairs_of_subsets(sampling, n, b):
    subsets = [list(s) for s in itertools.combinations(range(n), b)]
    if sampling == "with_replacement":
        subsets = [list(s) for s in itertools.product(range(n), repeat=b)]
    for first in subsets:
        for second in subsets:
            if sampling != "shuffle" or not set(first) & set(second):
                yield first, second


@pytest.mark.parametrize(
    "sampling", ["with_replacement", "without_replacement", "shuffle"]
)
@pytest.mark.parametrize("batch_size", [2, 4])
def test_sampling_correction_is_exact_by_enumeration(sampling, batch_size):
    n, b = 6, 2
    examples = np.random.default_rng(2).normal(0.3, 1, (n, 3))
    mean = examples.mean(0)
    true_g = mean @ mean
    true_n = np.mean(np.sum((examples - mean) ** 2, 1)) / batch_size
    pairs = [
        (examples[i].mean(0), examples[j].mean(0))
        for i, j in all_pairs_of_subsets(sampling, n, b)
    ]
    g_hat = np.array([g1 @ g2 for g1, g2 in pairs])
    n_hat = np.array(
        [b / batch_size * np.sum((g1 - g2) ** 2) / 2 for g1, g2 in pairs]
    )
    raw = NoiseEstimate.from_sums(
        **PairSums.of(g_hat, n_hat).to_dict(),
        batch_size=batch_size,
        sampling=sampling,
        num_examples=n,
    )
    matrix = sampling_correction(sampling, n, batch_size, b)
    result = raw.corrected(matrix)
    np.testing.assert_allclose(result.grad_sq_norm, true_g, rtol=1e-12)
    np.testing.assert_allclose(result.noise_trace, true_n, rtol=1e-12)
    assert result.corrected_for_sampling
    if sampling != "with_replacement":
        assert abs(raw.noise_to_signal / result.noise_to_signal - 1) > 0.1

    corrected_pairs = np.array(matrix) @ np.stack([g_hat, n_hat])
    expected = np.cov(corrected_pairs, ddof=1) / len(pairs)
    np.testing.assert_allclose(result.grad_sq_norm_se**2, expected[0, 0])
    np.testing.assert_allclose(result.noise_trace_se**2, expected[1, 1])
    np.testing.assert_allclose(
        result.covariance, expected[0, 1], atol=1e-12 * expected[1, 1]
    )


def test_corrected_takes_layers_along_once():
    layer = estimate(sampling="shuffle", num_examples=50, batch_size=5)
    matrix = sampling_correction("shuffle", 50, 5)
    for given in (layer, layer.corrected(matrix)):
        whole = estimate(
            sampling="shuffle",
            num_examples=50,
            batch_size=5,
            per_layer={"a": given},
        )
        assert whole.corrected(matrix).per_layer == {
            "a": layer.corrected(matrix)
        }


def test_nothing_is_corrected_while_a_size_is_unknown():
    identity = ((1.0, 0.0), (0.0, 1.0))
    assert sampling_correction("shuffle") == identity
    assert sampling_correction("shuffle", 100) == identity
    assert sampling_correction("without_replacement", 100, 8) == identity
    result = estimate(sampling="shuffle").corrected(identity)
    assert not result.corrected_for_sampling


def test_ratio_of_averages_is_neither_clamped_nor_averaged():
    # Effective dimension 200, N/G = 100, isotropic Gaussian noise.
    rng = np.random.default_rng(3)
    dimension, truth, pairs = 200, 100.0, 40_000
    signal = np.zeros(dimension)
    signal[0] = 1
    g, n = [], []
    for _ in range(pairs // 2000):
        noise = rng.normal(0, (truth / dimension) ** 0.5, (2, 2000, dimension))
        first, second = signal + noise
        g.append(np.sum(first * second, 1))
        n.append(np.sum((first - second) ** 2, 1) / 2)
    g, n = np.concatenate(g), np.concatenate(n)
    result = NoiseEstimate.from_sums(**PairSums.of(g, n).to_dict())
    error = result.noise_to_signal_se
    assert error < 6
    assert abs(result.noise_to_signal - truth) < 3 * error
    clamped = n.mean() / np.maximum(g, 0).mean()
    assert 25 < clamped < 35
    assert abs(np.mean(n / g) - truth) > 3 * error


def test_ratio_and_noise_scale():
    assert estimate(g=2.0, n=6.0).noise_to_signal == 3.0
    assert estimate(g=-2.0, n=6.0).noise_to_signal == -3.0
    assert estimate(g=0.0, n=6.0).noise_to_signal == math.inf
    assert math.isnan(estimate(g=0.0, n=0.0).noise_to_signal)
    assert estimate(g=2.0, n=6.0).noise_scale is None
    assert estimate(g=2.0, n=6.0, batch_size=10).noise_scale == 30.0


def test_words_for_every_case():
    assert estimate().describe().startswith("N/G = 41 [")
    assert "not told apart from 0" in estimate(g_se=1.0).describe()
    assert "no upper bound" in estimate(g_se=1.0).describe()
    negative = estimate(g=-1.0)
    assert negative.grad_sq_norm_sign() == "negative"
    assert "significantly below 0" in negative.describe()
    assert negative.interval() == (0.0, math.inf)
    zero = estimate(g=0.0, n=0.0, g_se=0.0, n_se=0.0)
    assert "undefined: every gradient was exactly zero" in zero.describe()


def test_warning_begins_at_a_twentieth_of_the_data_set():
    shuffled = {"sampling": "shuffle", "batch_size": 10}
    below = estimate(n=10.0, num_examples=2000, **shuffled)
    above = estimate(n=10.0, num_examples=1999, **shuffled)
    assert below.noise_scale_warning is None
    assert "not corrected" in above.noise_scale_warning
    corrected = above.corrected(sampling_correction("shuffle", 1999, 10))
    assert (
        "is corrected"
        in estimate(
            n=100.0, num_examples=1999, corrected_for_sampling=True, **shuffled
        ).noise_scale_warning
    )
    # The correction itself takes the bias away, here to just below.
    assert corrected.noise_scale < 0.05 * 1999
    unmeasured = estimate(g=-0.1, n=10.0, num_examples=2000, **shuffled)
    assert "cannot be told" in unmeasured.noise_scale_warning
    independent = estimate(
        n=1e4, sampling="with_replacement", num_examples=10, batch_size=10
    )
    assert independent.noise_scale_warning is None


def test_to_dict_is_strict_json():
    result = estimate(g_se=1.0, per_layer={"dense/kernel": estimate()})
    saved = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert saved["noise_to_signal_high"] is None
    assert saved["noise_to_signal"] == 41.0
    assert saved["per_layer"]["dense/kernel"]["noise_to_signal_high"] > 41

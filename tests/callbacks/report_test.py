import json
import math

import numpy as np
import pytest

from keras_svag.callbacks.report import NoiseEpoch, scaling_report
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.scaling.conditions import RunConditions

BATCH_SIZE = 128
RATE = 0.8
DECAY = 5e-4
SGD = RunConditions("SGD", weight_decay=DECAY, scale_invariant=True)


def noise(g=1.0, n=41.0, **fields):
    defaults = {
        "grad_sq_norm_se": 0.05 * abs(g),
        "noise_trace_se": 0.02 * n,
        "covariance": 0.0,
        "count": 400,
        "batch_size": BATCH_SIZE,
        "sampling": "with_replacement",
        "corrected_for_sampling": True,
    }
    fields = defaults | fields
    spread = fields["grad_sq_norm_se"], fields["noise_trace_se"]
    fields.setdefault("blocks", blocks((g, n), spread, fields["count"]))
    return NoiseEstimate(g, n, **fields)


def blocks(means, errors, count, num_blocks=20):
    """Uncorrelated blocks, whose spread says what the errors are."""
    pattern = [[1, 1, -1, -1], [1, -1, 1, -1]] * np.array([[1.0], [-1.0]])
    spread = np.tile(pattern, num_blocks // 4) * (num_blocks - 1) ** 0.5
    values = np.array(means)[:, None] + np.array(errors)[:, None] * spread
    length = count / num_blocks
    return tuple((length, *length * values[:, i]) for i in range(num_blocks))


def equilibrium_sq_norm(g, n, rate=RATE, decay=DECAY):
    return rate * (g + n) / ((2 - rate * decay) * decay)


def epoch(number, g=1.0, n=41.0, rate=RATE, last_rate=None, **fields):
    sq_norm = fields.pop("weight_sq_norm", equilibrium_sq_norm(g, n))
    return NoiseEpoch(
        number, noise(g, n, **fields), (g, n), sq_norm, rate, last_rate or rate
    )


def report(epochs, conditions=SGD, **settings):
    return scaling_report(epochs, conditions, batch_size=BATCH_SIZE, **settings)


def test_report_averages_g_and_n_apart_over_the_window():
    epochs = [epoch(1, g=100.0), epoch(2, g=1.0), epoch(3, g=3.0, n=79.0)]
    actual = report(epochs, window=2)
    # The mean of the ratios would be 33.7.
    assert actual.verdict.noise_to_signal == pytest.approx((41 + 79) / (1 + 3))
    assert (actual.first_epoch, actual.last_epoch) == (2, 3)
    assert actual.estimate.count == 800


def test_report_names_the_largest_batch_in_its_first_line():
    actual = report([epoch(1), epoch(2)], window=2)
    q, u = 41.0, RATE * DECAY
    largest = BATCH_SIZE * (4 * (1 + q) - q * (2 - u)) / (2 - u + 2 * u * 42)
    first_line = str(actual).splitlines()[0]
    assert actual.verdict.max_batch_size == pytest.approx(largest)
    assert "batch 128, learning rate 0.8: N/G = 41 [38, 44]" in first_line
    assert f"point estimate {float(f'{largest:.2g}'):,.0f}" in first_line
    assert first_line.endswith("at equilibrium: yes (balance 1.00)")
    assert "heuristic" not in str(actual)


def test_report_has_a_line_for_every_kappa():
    text = str(report([epoch(1)], kappas=(4, 100)))
    assert "  SGD at (κB, κη) against this run of SGD:\n  ×4: " in text
    assert "  ×4: batch 512, learning rate 3.2: not ruled out (C at" in text
    # √((κ + q) / (ρ (1 + q))), ρ = (2 - κu) / (2 - u).
    least = ((100 + 41) / 42 * (2 - 4e-4) / (2 - 0.04)) ** 0.5
    assert "  ×100: batch 12,800, learning rate 80: ruled out (C at least " in (
        text
    )
    assert f"C at least {least:.3g} [" in text


def test_default_window_is_the_last_quarter_and_at_least_one_epoch():
    epochs = [epoch(i) for i in range(1, 41)]
    assert report(epochs).first_epoch == 31
    assert report(epochs[:3]).first_epoch == 3


def test_window_does_not_reach_over_a_change_of_the_learning_rate():
    before = [epoch(i, n=10.0) for i in range(1, 9)]
    after = [epoch(i, n=90.0, rate=0.08) for i in range(9, 11)]
    actual = report(before + after, window=5)
    assert (actual.first_epoch, actual.last_epoch) == (9, 10)
    assert actual.verdict.learning_rate == pytest.approx(0.08)
    assert actual.verdict.noise_to_signal == pytest.approx(90)


def test_earlier_learning_rates_are_judged_too():
    before = [epoch(i, n=10.0) for i in range(1, 9)]
    after = [epoch(i, n=90.0, rate=0.08) for i in range(9, 11)]
    actual = report(before + after, window=5)
    (earlier,) = actual.earlier
    assert (earlier.first_epoch, earlier.last_epoch) == (4, 8)
    assert earlier.verdict.noise_to_signal == pytest.approx(10)
    assert "Before, epochs 4 to 8: batch 128, learning rate 0.8: N/G = 10" in (
        str(actual)
    )


def test_a_rate_that_changes_all_the_time_leaves_the_last_epoch():
    rates = [0.8 - 0.05 * i for i in range(11)]
    epochs = [
        epoch(i + 1, rate=rates[i], last_rate=rates[i + 1]) for i in range(10)
    ]
    actual = report(epochs, window=5)
    assert (actual.first_epoch, actual.last_epoch) == (10, 10)
    assert actual.earlier == ()
    assert actual.verdict.learning_rate == pytest.approx(0.325)
    assert "the learning rate changes within the window" in str(actual)


def test_balance_uses_what_the_steps_saw_not_the_corrected_means():
    sq_norm = equilibrium_sq_norm(0.8, 42.0)
    epochs = [NoiseEpoch(1, noise(3.0, 41.0), (0.8, 42.0), sq_norm, RATE, RATE)]
    assert report(epochs).verdict.balance == pytest.approx(1)


def test_balance_is_that_of_the_optimizer():
    ell, g, n = 4, 30.0, 41.0
    sq_norm = RATE * (n + g / ell) / ((2 - RATE * DECAY / ell) * DECAY)
    svag = RunConditions(
        "SVAG", weight_decay=DECAY, ell=ell, scale_invariant=True
    )
    epochs = [epoch(i, g, n, weight_sq_norm=sq_norm) for i in (1, 2)]
    actual = report(epochs, svag, window=2)
    assert actual.verdict.balance == pytest.approx(1)
    assert not actual.verdict.heuristic


def test_a_run_of_svag_is_judged_by_the_identity_of_svag():
    ell, g, n = 4, 1.0, 3.21
    sq_norm = RATE * (n + g / ell) / ((2 - RATE * DECAY / ell) * DECAY)
    svag = RunConditions(
        "SVAG", weight_decay=DECAY, ell=ell, scale_invariant=True
    )
    epochs = [epoch(i, g, n, weight_sq_norm=sq_norm) for i in (1, 2)]
    actual = report(epochs, svag, window=2)
    # κ + q <= C²ρ (q + 1/ell) is 2/4 + 3.21 without decay; of SGD's own N/G
    # it would be 2 + 3.21.
    assert actual.verdict.max_multiplier == pytest.approx(3.71, abs=0.01)
    assert actual.verdict.multiplier_verdicts[4] == "ruled out"
    text = str(actual)
    assert "SGD at (κB, κη) against this run of SVAG with ell 4" in text
    # (1/4) / (C² - 1), not 1.
    assert "SVAG with ell 4 within a factor 1.41 of its SDE" in text
    assert "needs N/G of at least 0.25" in text
    assert actual.to_dict()["compared"] == actual.verdict.compared


@pytest.mark.parametrize("balance", [0.93, 1.07])
def test_the_balance_is_in_the_bound_where_it_is_near_1(balance):
    def judged(balance):
        sq_norm = balance * equilibrium_sq_norm(1.0, 41.0)
        epochs = [epoch(i, weight_sq_norm=sq_norm) for i in (1, 2)]
        return report(epochs, window=2).verdict

    exact, off = judged(1.0), judged(balance)
    q, u = 41.0, RATE * DECAY
    # κ + q <= 2 b (2 - κu) / (2 - u) (1 + q), solved.
    a = 2 * balance * (1 + q) / (2 - u)
    assert off.max_multiplier == pytest.approx((2 * a - q) / (1 + a * u))
    # A low balance cannot rule out, nor a high one allow, what 1 does not.
    if balance > 1:
        assert off.max_multiplier_low == exact.max_multiplier_low
        assert off.max_multiplier_high > off.max_multiplier
    else:
        assert off.max_multiplier_high == exact.max_multiplier_high
        assert off.max_multiplier_low < off.max_multiplier
    assert judged(2.0).max_multiplier == exact.max_multiplier
    low, value, high = off.min_closeness[2]
    # Linear scaling by 2 is C-close to 1 for some balance within.
    assert low == (1 if balance > 1 else exact.min_closeness[2][0])
    assert low <= value <= high


def test_g_and_n_have_to_rest_too():
    # R is that of equilibrium throughout; N falls, and R follows later.
    def judged(*noise_traces, **fields):
        mean = sum(noise_traces) / len(noise_traces)
        sq_norm = equilibrium_sq_norm(1.0, mean)
        epochs = [
            epoch(i, n=n, weight_sq_norm=sq_norm, **fields)
            for i, n in enumerate(noise_traces, 1)
        ]
        return report(epochs, window=len(epochs)).verdict

    moving = judged(50.0, 48.0, 34.0, 32.0)
    assert moving.balance == pytest.approx(1)
    assert moving.at_equilibrium is False
    assert "at equilibrium: no (balance 1.00; N moves by the factor 0.67" in (
        moving.headline
    )
    assert any("not at equilibrium" in r for r in moving.heuristic_reasons)
    assert judged(41.0, 43.0, 40.0, 41.0).at_equilibrium
    # What the errors do not tell apart moves no one knows how far.
    assert judged(50.0, 48.0, 34.0, 32.0, noise_trace_se=20.0).at_equilibrium
    assert judged(41.0).at_equilibrium is None


def test_far_from_equilibrium_the_report_says_no_and_how_long_it_takes():
    far = [epoch(1, weight_sq_norm=2 * equilibrium_sq_norm(1, 41))]
    text = str(report(far))
    assert "at equilibrium: no (balance 2.00)" in text
    assert f"{1 / (2 * RATE * DECAY):,.0f} SGD steps" in text
    assert "- the run is not at equilibrium" in text


@pytest.mark.parametrize(
    "conditions, reason",
    [
        ({"scale_invariant": None}, "not known to be scale-invariant"),
        ({"scale_invariant": False}, "the loss is not scale-invariant"),
        ({"weight_decay": 0.0}, "there is no weight decay"),
        ({"momentum": 0.9}, "momentum is 0.9"),
        ({"all_weights_decayed": False}, "some trainable weights are not"),
        ({"batch_norm_halves": True}, "batch normalization saw halves"),
        ({"other_reasons": ("gradients are clipped",)}, "are clipped"),
    ],
)
def test_a_failed_assumption_makes_the_verdict_a_heuristic(conditions, reason):
    fields = {"weight_decay": DECAY, "scale_invariant": True} | conditions
    actual = report([epoch(1)], RunConditions("SGD", **fields))
    assert actual.verdict.heuristic
    assert any(reason in r for r in actual.verdict.heuristic_reasons)
    assert reason in str(actual).split("Only a heuristic, because")[1]
    if "batch_norm_halves" not in conditions:
        assert actual.verdict.balance is None


def test_adaptive_optimizers_are_pointed_to_the_square_root_rule():
    text = str(report([epoch(1)], RunConditions("Adam", weight_decay=0.01)))
    assert "square_root_scaling_rule" in text
    assert "×2" not in text


def test_a_decay_with_which_weights_diverge_gets_no_verdict():
    conditions = RunConditions("SGD", weight_decay=4.0, scale_invariant=True)
    actual = report([epoch(1, weight_sq_norm=1.0)], conditions)
    assert "no verdict. The weights diverge: learning rate times weight" in (
        str(actual)
    )
    assert actual.verdict.weight_decay == 4.0


def test_skipped_steps_are_reported():
    text = str(report([epoch(1, num_skipped=7)]))
    assert "7 observations were not finite and left out" in text


def test_epochs_without_observations_leave_the_averages_alone():
    nan = math.nan
    empty = NoiseEpoch(
        2,
        NoiseEstimate(nan, nan, nan, nan, nan, 0, BATCH_SIZE, num_skipped=9),
        (nan, nan),
        nan,
        RATE,
        RATE,
    )
    actual = report([epoch(1), empty], window=2)
    assert actual.verdict.balance == pytest.approx(1)
    assert actual.estimate.num_skipped == 9
    assert "N/G is not measured" in str(report([empty], window=1))


def test_gradients_of_zero_have_no_ratio():
    zero = epoch(1, 0.0, 0.0, weight_sq_norm=1.0)
    assert "N/G is undefined: every gradient was exactly zero" in (
        str(report([zero]))
    )


def test_report_as_dict_is_strict_json():
    unbounded = epoch(2, g=0.1, grad_sq_norm_se=1.0, rate=0.5)
    actual = report([epoch(1), epoch(1.5), unbounded]).to_dict()
    restored = json.loads(json.dumps(actual, allow_nan=False))
    assert restored["noise_to_signal_high"] is None
    assert restored["multiplier_verdicts"]["2"] == "not ruled out"
    assert restored["gradient_noise"]["count"] == 400
    assert len(restored["earlier"]) == 1


def test_epoch_state_is_strict_json_and_is_restored():
    one = epoch(3, count=1, grad_sq_norm_se=math.nan)
    state = json.loads(json.dumps(one.to_state(), allow_nan=False))
    assert repr(NoiseEpoch.from_state(state)) == repr(one)

import json
import math
import re

import keras
import pytest

from keras_svag import SVAGAdam
from keras_svag.reporting.report import LOG_KEYS
from keras_svag.scaling.conditions import conditions_of
from keras_svag.scaling.reasons import Reason
from tests.helpers.noise_runs import (
    DECAY,
    RATE,
    SGD,
    equilibrium_sq_norm,
    report,
    run,
)


def first_cells(report, count):
    """The first words of every line."""
    return [line.split()[:count] for line in str(report).splitlines()]


def test_g_and_n_are_averaged_apart_over_the_window():
    series = run({"g": 100.0}, {"g": 1.0}, {"g": 3.0, "n": 79.0})
    actual = report(series, window=2)
    # The mean of the ratios would be 33.7.
    assert actual.verdict.noise_to_signal == pytest.approx((41 + 79) / (1 + 3))
    assert (actual.first_epoch, actual.last_epoch) == (2, 3)
    assert actual.estimate.count == 80


def test_default_window_is_the_last_quarter_and_at_least_one_epoch():
    series = run(*[{"count": 8}] * 40)
    assert report(series).first_epoch == 31
    assert report(series.before(3 * 8 * 4)).first_epoch == 3
    # Of 12 epochs the last three were not observed.
    assert report(series.before(9 * 8 * 4), epochs=12).first_epoch == 7


def test_window_in_steps():
    actual = report(run({"count": 100}), window_steps=80)
    # Steps 4, 8, ..., 400 were observed: from 324 on 20 of them.
    assert (actual.first_step, actual.last_step) == (324, 400)
    assert actual.estimate.count == 20
    assert ["324", "to", "400", "20"] in first_cells(actual, 4)
    assert actual.to_dict()["first_step"] == 324
    assert repr(actual).startswith("<ScalingReport of steps 324 to 400: ")


def test_a_change_of_the_learning_rate_begins_another_stretch():
    before, after = {"n": 10.0}, {"n": 90.0, "rate": 0.08}
    actual = report(run(*[before] * 8, *[after] * 2), window=5)
    (earlier,) = actual.earlier
    for one, first, last, n in ((earlier, 4, 8, 10), (actual, 9, 10, 90)):
        assert (one.first_epoch, one.last_epoch) == (first, last)
        assert one.verdict.noise_to_signal == pytest.approx(n)
    assert actual.verdict.learning_rate == 0.08
    assert actual.first_step is actual.last_step is None
    rows = first_cells(actual, 99)
    (row,) = (row for row in rows if row[:5] == "4 to 8 0.8 10".split())
    assert row[-1] == f"{math.floor(earlier.verdict.ruled_out_beyond):,}"


def test_the_longest_of_many_earlier_stretches_are_judged():
    for counts, expected in (
        ([7, 9, 12, 8, 30, 4, 10, 8], [12, 30, 10]),
        # A stretch of less than eight observations says nothing.
        ([7, 40, 20], [40]),
    ):
        epochs = [{"count": c, "rate": 2.0**-i} for i, c in enumerate(counts)]
        earlier = report(run(*epochs)).earlier
        assert [one.estimate.count for one in earlier] == expected


def test_a_rate_that_moves_at_every_step_is_averaged_over_the_window():
    firsts = (0.8, 0.7, 0.6, 0.5)
    series = run(*({"rate": f, "last_rate": f - 0.099} for f in firsts))
    actual = report(series, window=2)
    assert (actual.first_epoch, actual.last_epoch) == (3, 4)
    rates = series["learning_rate"][-80:]
    assert actual.verdict.learning_rate == pytest.approx(rates.mean())
    assert actual.earlier == ()
    assert actual.verdict.balance is None
    assert Reason("rate_changes") in actual.verdict.reasons


def test_balance_uses_what_the_steps_saw_not_the_corrected_means():
    n = 1000
    fields = {"sampling": "shuffle", "num_examples": n}
    actual = report(run({"g": 2.0}, **fields))
    assert actual.estimate.grad_sq_norm == pytest.approx(2 + 128 * 41 / n)
    assert actual.verdict.balance == pytest.approx(1)


def test_far_from_equilibrium_the_report_says_how_long_it_takes():
    far = {"weight_sq_norm": 2 * equilibrium_sq_norm(1, 41)}
    text = " ".join(str(report(run(far))).split())
    assert "At equilibrium: no (balance 2; " in text
    assert f"{1 / (2 * RATE * DECAY):,.0f} SGD steps" in text
    assert text.startswith("Only a heuristic: the linear rule is not ruled out")
    assert "Only a heuristic, because - the run is not at" in text


def test_adaptive_optimizers_are_judged_in_their_norm():
    epoch = {"count": 300, "preconditioned": (2.0, 12.0)}
    adam = conditions_of(keras.optimizers.Adam(beta_2=0.99))
    actual = report(run(epoch, epoch), adam, preconditioned=True)
    assert actual.verdict.noise_to_signal == pytest.approx(6)
    # The window's first observation is that of step 1,204; a step of four is
    # observed, 300 of them.
    adaptive = actual.verdict.conditions.adaptive
    assert adaptive.second_moment_steps == 1203
    assert adaptive.window_steps == 4 * 299
    assert actual.verdict.reasons == ()
    young = report(run(epoch), adam, preconditioned=True).verdict
    (reason,) = young.reasons
    assert reason.code == "second_moment_is_young"
    rows = first_cells(actual, 5)
    assert ["×4", "512", "0.6", "0.96", "5e-08"] in rows
    # 1 - 16 (1 - β₁) is below 0.
    assert ["×16", "2,048", "–", "–", "–"] in rows


def test_the_compared_runs_are_named():
    svag = conditions_of(SVAGAdam(ell=4))
    for conditions, words in (
        (SGD, "SGD at (κB, κη) against this run of SGD"),
        (svag, "Adam at κB by the square-root rule against this run of SVAGAd"),
    ):
        text = " ".join(str(report(run({}), conditions)).split())
        assert words in text
    assert "against this run of SVAGAdam with ell 4" in text


def test_logs_have_the_same_keys_always():
    unbounded = report(run({"g": -0.01, "g_spread": 100.0})).to_logs()
    assert tuple(unbounded) == LOG_KEYS
    assert math.isnan(unbounded["max_batch_size"])
    assert math.isinf(unbounded["noise_to_signal_high"])


def test_observations_that_are_not_finite_leave_the_averages_alone():
    series = run({})
    for value in (math.inf, math.nan):
        lost = {"grad_sq_norm": value, "weight_sq_norm": math.nan}
        series.append(step=200, epoch=1, learning_rate=RATE, rows=128, **lost)
    actual = report(series)
    assert actual.verdict.balance == pytest.approx(1)
    assert actual.weight_sq_norm == pytest.approx(equilibrium_sq_norm(1, 41))
    assert Reason("weights_not_finite") in actual.verdict.reasons
    text = " ".join(str(actual).split())
    assert "2 observations were not finite and left out: the loss" in text
    nothing = report(series[-2:])
    assert "N/G is not measured" in str(nothing)
    assert math.isnan(nothing.weight_sq_norm)
    json.dumps(nothing.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("epoch", "every", "line"),
    [
        ({"g_spread": 5.0}, 40, "{times} times: every={every}"),
        ({"g_spread": 5.0}, 2, "{times} times: every=1 and more steps"),
        ({"g_spread": 5.0}, 1, "{times} times: more steps"),
        ({"g_spread": 300.0}, 4, "many: every=1 and more steps"),
        ({"g": -0.1, "g_spread": 50.0}, 4, "many: every=1 and more steps"),
    ],
)
def test_without_an_upper_end_the_report_names_what_would_give_one(
    epoch, every, line
):
    actual = report(run(epoch, every=every))
    assert math.isinf(actual.verdict.interval.high)
    found = actual.upper_end_line
    assert found in " ".join(str(actual).split())
    estimate = actual.estimate
    relative = estimate.grad_sq_norm_se / estimate.grad_sq_norm
    # Student's t with 13 degrees of freedom, for 40 observations.
    times = ((2.160 + 0.84) * relative) ** 2
    line = line.format(times=math.ceil(times), every=math.floor(every / times))
    words = re.sub("about | as many observations| more observations", "", found)
    assert words == f"An upper end of N/G would likely take {line}"
    assert report(run({})).upper_end_line is None

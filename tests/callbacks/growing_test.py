"""Batches that grow within one fit, and what decides on it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_svag import ScalingRuleCheck, fit_growing
from keras_svag.callbacks import growing
from keras_svag.reporting.report import scaling_report
from keras_svag.scaling import max_batch_multiplier
from keras_svag.scaling.conditions import RunConditions
from tests.helpers.bits import assert_same_bits, bits_of
from tests.helpers.noise_runs import BATCH_SIZE, DECAY, RATE, run
from tests.helpers.small_problems import compiled, regression

ROWS = 64
HALVED = keras.optimizers.schedules.ExponentialDecay


def grown(optimizer=None, epochs=4, model=None, **settings):
    """A model and the history of its fit, in batches of 4 first."""
    model = model or compiled(optimizer=optimizer)
    settings = {"batch_size": 4, "max_batch_size": 64, "verbose": 0} | settings
    data = regression(ROWS)
    return model, fit_growing(model, *data, epochs=epochs, **settings)


class Judged(ScalingRuleCheck):
    """A check that has measured N / G = n at `BATCH_SIZE`, after less."""

    batch_size = BATCH_SIZE
    report = series = None

    def __init__(self, n, g_spread=0.5, first_rows=BATCH_SIZE, **conditions):
        super().__init__(verbose=0)
        conditions = RunConditions(
            learning_rate=RATE, weight_decay=DECAY, **conditions
        )
        self.series = run(
            {"n": n, "count": 1, "g_spread": 0.0, "rows": first_rows},
            {"n": n, "count": 400, "g_spread": g_spread},
        )
        self.report = scaling_report(
            self.series, conditions, batch_size=BATCH_SIZE
        )


def test_progress_bar_has_the_steps_of_each_epoch(capsys):
    grown(mode={1: 16}, epochs=2, verbose=1)
    lines = capsys.readouterr().out
    assert "16/16" in lines and "4/4" in lines


@pytest.mark.parametrize("batch_size", [3, 100])
def test_an_epoch_is_a_permutation_of_the_data(batch_size):
    rows = growing._data_of(np.arange(10), None, None, batch_size)

    def epoch(number):
        rows.begin(number, batch_size)
        parts = [np.ravel(rows[i]) for i in range(rows.num_batches)]
        assert all(len(part) == batch_size for part in parts[:-1])
        return np.concatenate(parts)

    first, second = epoch(0), epoch(1)
    assert sorted(first) == sorted(second) == [*range(10)]
    assert [*first] != [*second]
    assert_same_bits(epoch(0), first)


@pytest.mark.parametrize("q", [1.0, 40.0, 1000.0])
def test_the_condition_is_asked_of_the_run_with_the_first_batch(q):
    # Exact: G and N do not vary. N / G at a quarter of the batch is 4 times
    # that at the batch.
    first = BATCH_SIZE // 4
    check = Judged(q, g_spread=0.0, first_rows=first, scale_invariant=True)
    growth = growing.BatchGrowth(first, 10**6, check, "measured", "grow")
    low, high = check.report.verdict.interval
    assert high - low < 1e-3 * low or q < high
    rates = {"learning_rate": RATE / 4, "weight_decay": DECAY}
    largest = first * max_batch_multiplier(4 * low, closeness=2**0.5, **rates)
    for size in first * 2 ** np.arange(1, 12):
        assert growth._is_allowed(size) == (size <= largest), (size, largest)


# As often as is allowed, before the first epoch.
@pytest.mark.parametrize(("on_heuristic", "size"), [("stay", 4), ("grow", 64)])
def test_a_heuristic_allows_nothing_unless_it_may(on_heuristic, size):
    check = Judged(1e4, g_spread=0.01)
    assert check.report.verdict.heuristic
    _, history = grown(check=check, on_heuristic=on_heuristic)
    assert history.history["batch_size"] == [size] * 4


def test_a_check_measures_what_it_decides_by():
    check = ScalingRuleCheck(every=1, verbose=0)
    way = {"check": check, "on_heuristic": "grow", "max_batch_size": 16}
    model, history = grown(keras.optimizers.SGD(0.01), epochs=6, **way)
    sizes = history.history["batch_size"]
    assert sizes[0] == 4 and sizes[-1] > 4
    assert check.report.verdict.batch_size == sizes[-1]
    # A stretch of each batch size, at its own.
    stretches = [r.verdict.batch_size for r in check.report.stretches]
    assert stretches == sorted({*sizes})
    assert "max_batch_size" in history.history
    rate = 0.01 * sizes[-1] / 4
    assert float(model.optimizer.learning_rate) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("make", "factor"),
    [(keras.optimizers.SGD, 1.0), (keras.optimizers.Adam, 0.5**0.5)],
)
def test_seesaw_grows_where_the_rate_is_halved(make, factor):
    # Every epoch has 16 steps of 4.
    schedule = HALVED(0.01, 16, 0.5, staircase=True)
    model, history = grown(make(schedule), mode="seesaw", max_batch_size=16)
    assert history.history["batch_size"] == [4, 8, 16, 16]
    # Of the last epoch, which halves without growth.
    expected = 0.01 * factor**2 * 0.5**2
    assert float(model.optimizer.learning_rate) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rates", "sizes"),
    [
        # A warm-up is no decay, nor is the start from 0.
        ([0.01, 0.1, 0.05, 0.05], [4, 4, 8, 8]),
        ([0.0, 0.1, 0.1, 0.025], [4, 4, 4, 16]),
        # What comes back to a rate comes back to the batch of it.
        ([0.1, 0.05, 0.1, 0.05], [4, 8, 8, 8]),
    ],
)
def test_seesaw_goes_by_the_highest_rate(rates, sizes):
    growth = growing.BatchGrowth(4, 64, None, "seesaw", "stay")
    # An epoch a step; the rule multiplies what is given by the batch.
    model = compiled(optimizer=keras.optimizers.SGD(0.0))
    size, seen = 4, []
    for epoch, rate in enumerate(rates):
        model.optimizer.learning_rate = rate * size / 4
        size = growth.grow(model, epoch, size)
        seen.append(size)
    assert seen == sizes


def test_a_check_may_forbid_seesaw():
    optimizer = keras.optimizers.SGD(HALVED(0.01, 16, 0.5, staircase=True))
    _, history = grown(optimizer, mode="seesaw", check=Judged(10.0))
    assert history.history["batch_size"] == [4] * 4


def test_it_goes_on_from_a_saved_model(tmp_path):
    settings = {"epochs": 3, "on_heuristic": "grow", "max_batch_size": 32}
    states = []

    class Keep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.save(tmp_path / f"{epoch}.keras")
            states.append(check.state_dict())

    def begun():
        keras.utils.set_random_seed(0)
        return ScalingRuleCheck(every=1, verbose=0)

    model = compiled(optimizer=keras.optimizers.Adam(0.003))
    check = begun()
    _, whole = grown(model=model, check=check, callbacks=[Keep()], **settings)
    first, *sizes = whole.history["batch_size"]
    assert first < sizes[0]
    resumed = keras.models.load_model(tmp_path / "0.keras")
    check = begun()
    check.load_state_dict(states[0])
    settings |= {"initial_epoch": 1, "batch_size": first}
    _, rest = grown(model=resumed, check=check, **settings)
    assert rest.history["batch_size"] == sizes
    assert_same_bits(rest.history["loss"], whole.history["loss"][1:])
    assert_same_bits(bits_of(resumed)["optimizer"], bits_of(model)["optimizer"])


def test_a_check_among_the_callbacks_is_there_once():
    # `fit` takes a callback that stands alone, too.
    for given in (lambda check: [check], lambda check: check):
        check = ScalingRuleCheck(every=1, verbose=0)
        grown(check=check, callbacks=given(check), epochs=1)
        assert len(check.series) == 16 - 1  # The first step is traced.


def test_a_function_makes_the_batches_of_each_size():
    x, y = regression(ROWS)
    data = tf.data.Dataset.from_tensor_slices((x, y))
    settings = {"batch_size": 4, "max_batch_size": 64, "verbose": 0}
    model = compiled()
    history = fit_growing(model, data.batch, epochs=3, mode={1: 16}, **settings)
    assert history.history["batch_size"] == [4, 16, 16]
    assert model.optimizer.iterations == 16 + 4 + 4
    with pytest.raises(
        ValueError, match=r"data sets with a len\(\), got .*for"
    ):
        fit_growing(model, lambda size: data.repeat().batch(size), **settings)
    with pytest.raises(ValueError, match="`y` must be None where `x` is"):
        fit_growing(model, data.batch, y, **settings)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"shuffle": True}, "`shuffle` must be left out"),
        ({"steps_per_epoch": 3}, "`steps_per_epoch` must be left out"),
        ({"validation_split": 0.2}, "left out: give `validation_data`"),
        ({"mode": {1: 12}}, "`mode` must be of sizes that are 4 times a power"),
        ({"optimizer": keras.optimizers.Lion()}, "`optimizer` must be one"),
    ],
)
def test_what_it_refuses(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        grown(**settings)


def test_no_batch_grows_to_where_the_rule_ends():
    # 1 - β₁ = 0.1 is doubled three times, and not to 1.6.
    make = keras.optimizers.Adam
    schedule = HALVED(0.01, 1, 0.5)
    _, history = grown(make(schedule), mode="seesaw", epochs=3)
    assert history.history["batch_size"] == [4, 32, 32]
    with pytest.raises(ValueError, match="keep kappa below 10"):
        grown(make(), mode={2: 64})

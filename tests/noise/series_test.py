import json
import math

import numpy as np
import pytest

from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.noise.series import NoiseSeries


class Short(NoiseSeries):
    """A series that is short already, of a sixteenth of the rows."""

    _MOST_ROWS = 1024


def series_of(rates=(0.1,) * 60, kind=NoiseSeries, **fields):
    """A row of every third step, ten steps an epoch; G and S are drawn."""
    rng = np.random.default_rng(0)
    series = kind(**fields)
    for row, rate in enumerate(rates):
        kernel, bias = rng.normal([[1, 40], [2, 10]], 3)
        series.append(
            {"kernel": kernel, "bias": bias},
            step=3 * row,
            epoch=3 * row // 10,
            iteration=1000 + 3 * row,
            learning_rate=rate,
            rows=32 - row % 2,
            batch=row,
            weight_sq_norm=rng.normal(25, 1),
            grad_sq_norm=kernel[0] + bias[0],
            example_noise=kernel[1] + bias[1],
            preconditioned_grad_sq_norm=rng.normal(2, 3),
            preconditioned_example_noise=rng.normal(80, 5),
        )
    return series


def test_rows_are_kept_in_their_order_and_what_is_missing_is_nan():
    series = NoiseSeries()
    for g in [*range(40), math.inf]:
        series.append(step=len(series), grad_sq_norm=np.float32(g / 8))
    np.testing.assert_array_equal(series["step"], np.arange(41))
    # Not finite is not known.
    expected = [*np.arange(40) / 8, math.nan]
    np.testing.assert_array_equal(series["grad_sq_norm"], expected)
    assert np.isnan(series["example_noise"]).all()
    for wrong in (lambda: series["loss"], lambda: series.append(loss=1.0)):
        with pytest.raises(KeyError, match="loss"):
            wrong()
    with pytest.raises(TypeError, match="column or a slice, got 3"):
        series[3]
    assert len(series) == 41


def test_many_rows_at_once_are_as_one_after_the_other():
    rates = (0.1,) * 3000
    rows = series_of(rates)
    series = Short()
    for part in (rows[i : i + 300] for i in range(0, len(rows), 300)):
        moments = {name: part.layer(name) for name in part.layers}
        series.append(
            moments, **{c: part[c] for c in rows.COLUMNS if c != "observations"}
        )
    assert series == series_of(rates, Short)


def test_parts_grow_apart_and_share_what_is_known_of_the_loss():
    series = series_of()
    part = series[10:20]
    np.testing.assert_array_equal(part["step"], np.arange(30, 60, 3))
    part.append(step=-1)
    series.append(step=-2)
    assert len(part) == 11 and part["step"][-1] == -1
    assert series["step"][20] == 60 and series["step"][-1] == -2
    part = series.window(epochs=1).tail(2)
    series.couplings.append((0, 0.02))
    part.codes.add("batch_normalization")
    assert part.couplings == [(0, 0.02)]
    assert series.codes == {"batch_normalization"}


@pytest.mark.parametrize(
    ("settings", "first", "length"),
    [
        ({"epochs": 1}, 171, 3),
        ({"epochs": 2}, 162, 6),
        ({"steps": 7}, 171, 3),
        ({"steps": 6}, 174, 2),
        ({"epochs": 1, "steps": 6}, 174, 2),
        ({}, 0, 60),
        ({"epochs": 99}, 0, 60),
    ],
)
def test_windows_end_with_the_last_row(settings, first, length):
    # Steps 0, 3, …, 177; epochs of 10 steps.
    series = series_of()
    part = series.window(**settings)
    assert (part["step"][0], len(part)) == (first, length)
    # So do tails.
    tail = series.tail(length)
    assert tail == part and len(series.tail(0)) == 0
    # What is before it is the rest.
    rest = series.before(1000 + first)
    assert [*rest["step"], *part["step"]] == [*series["step"]]
    assert len(NoiseSeries().window(epochs=1)) == 0


MOVING = [0.01 * i for i in range(1, 8)]


@pytest.mark.parametrize(
    ("rates", "lengths"),
    [
        ([0.1] * 5 + [0.01] * 3 + [0.1] * 2, [5, 3, 2]),
        ([0.1, 0.1 * (1 + 1e-7), 0.1], [3]),
        # What is too small to be seen between two rows adds up.
        ([0.1 * (1 + 4e-7 * i) for i in range(7)], [3, 3, 1]),
        ([], []),
        # Warm-up and decay at every step, with a constant rate between.
        (MOVING + [0.1] * 4 + MOVING[::-1], [7, 4, 7]),
        # A single row of its own stays one.
        ([0.1] * 3 + [0.2] + [0.3] * 3, [3, 1, 3]),
        ([math.nan] * 3, [3]),
    ],
)
def test_stretches_have_one_learning_rate_each(rates, lengths):
    stretches = series_of(rates).stretches()
    assert [len(stretch) for stretch in stretches] == lengths
    steps = [step for stretch in stretches for step in stretch["step"]]
    assert steps == [3 * row for row in range(len(rates))]


def test_estimate_is_that_of_the_rows():
    common = {"sampling": "shuffle", "num_examples": 500}
    series = series_of(**common)
    g, s, norm_g, norm_s = (series[name] for name in NoiseSeries.COLUMNS[6:10])
    for estimate, values, size in (
        (series.estimate(per_layer=False), (g, s), 32),
        (series[:9].estimate(8, per_layer=False), (g[:9], s[:9]), 8),
        (series.estimate(preconditioned=True), (norm_g, norm_s), 32),
    ):
        assert estimate == NoiseEstimate.from_observations(
            *values, np.arange(len(values[0])), batch_size=size, **common
        )
    empty = NoiseSeries().estimate()
    assert (empty.count, empty.batch_size) == (0, None)


def test_layers_have_estimates_of_their_own():
    series = series_of((0.1,) * 40)
    layers = series[5:].estimate(batch_size=8).per_layer
    for name in ("kernel", "bias"):
        assert layers[name] == NoiseEstimate.from_observations(
            *series.layer(name)[5:].T, np.arange(35), batch_size=8
        )
    assert series.estimate(preconditioned=True).per_layer is None
    # A row without them is left out of theirs; one that is trained from some
    # row on is not known before.
    series.append(step=140, grad_sq_norm=1.0, example_noise=1.0)
    series.append({"scale": (1.0, 2.0), "bias": (3.0, 4.0)}, step=141)
    layers = series.estimate().per_layer
    counts = {name: (e.count, e.num_skipped) for name, e in layers.items()}
    assert counts == {"kernel": (40, 2), "bias": (41, 1), "scale": (1, 41)}
    np.testing.assert_array_equal(series.layer("bias")[-1], [3, 4])
    assert layers["scale"].grad_sq_norm == 1

    frame = series.to_frame()
    assert list(frame.columns[:12]) == list(NoiseSeries.COLUMNS)
    np.testing.assert_array_equal(frame["grad_sq_norm"], series["grad_sq_norm"])
    columns = frame[["bias: grad_sq_norm", "bias: example_noise"]]
    np.testing.assert_array_equal(columns, series.layer("bias"))


def test_estimate_says_what_it_assumes():
    for codes, difference, expected in (
        ((), None, ()),
        ((), 0.009, ()),
        ((), -0.02, ("coupled_loss",)),
        (("masked_loss",), 0.02, ("masked_loss",)),
        (("x",), 0.02, ("coupled_loss", "x")),
    ):
        series = series_of()
        series.codes.update(codes)
        if difference is not None:
            # The last one counts: some show in a trained model only.
            series.couplings += [(0, 0.5 - difference), (90, difference)]
        # Losses that were not finite count in the epochs of the rows.
        series.lost_epochs.add(3)
        estimate = series.window(epochs=5).estimate()
        assert estimate.assumptions == expected
        assert estimate.loss_difference == difference
        assert "loss_not_finite" in series.estimate().assumptions


def test_long_series_keep_their_newest_rows_and_the_means_of_the_others():
    rates = (0.1,) * 5000
    series, whole = series_of(rates, Short), series_of(rates)
    assert 768 <= len(series) <= 1024 < len(whole) == 5000
    assert series["observations"].sum() == 5000
    # Windows of up to 512 observations are as they were.
    for name, size in (("steps", 3 * 512), ("epochs", 150), ("steps", 20)):
        part, expected = (s.window(**{name: size}) for s in (series, whole))
        assert part == expected
    # Of longer ones the count and the means are, but for rounding.
    actual, expected = series.estimate(), whole.estimate()
    assert actual.batch_size == expected.batch_size == 32
    for one, other in (
        (actual, expected),
        (actual.per_layer["kernel"], expected.per_layer["kernel"]),
    ):
        assert one.count == other.count == 5000
        assert one.grad_sq_norm == pytest.approx(other.grad_sq_norm, rel=1e-12)
        assert one.example_noise == pytest.approx(other.example_noise)
        ends = other.interval()
        error = 0.05 * np.ptp(ends)
        np.testing.assert_allclose(one.interval(), ends, 0, error)
    mean = series.repeated("weight_sq_norm").mean()
    assert mean == pytest.approx(whole["weight_sq_norm"].mean())
    assert np.all(np.diff(series["step"]) > 0)
    # The mean of several batches is none of them.
    is_mean = series["observations"] > 1
    np.testing.assert_array_equal(np.isnan(series["batch"]), is_mean)
    assert set(series["rows"][is_mean]) == {32}


def test_rows_of_two_stretches_never_become_one():
    series = series_of([0.1 * 0.5 ** (i // 333) for i in range(1500)], Short)
    assert len(series) < 1_100
    counts = [part["observations"].sum() for part in series.stretches()]
    assert counts == [333] * 4 + [1_500 - 4 * 333]
    assert all(part.has_constant_rate for part in series.stretches())


@pytest.mark.parametrize("rows", [0, 1_100])
def test_series_that_was_saved_goes_on_as_the_other(rows):
    series = series_of((0.1,) * rows, Short)
    series.append(step=7)
    series.couplings.append((3, 0.25))
    series.codes.add("masked_loss")
    saved = json.dumps(series.to_dict(), allow_nan=False)
    again = Short.from_dict(json.loads(saved))
    assert again == series
    for step in range(4_000, 5_000):
        again.append(step=step, epoch=12, grad_sq_norm=1.0)
        assert step > 4_000 or again != series
        series.append(step=step, epoch=12, grad_sq_norm=1.0)
    assert again == series
    assert again.estimate(8) == series.estimate(8)

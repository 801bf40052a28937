import dataclasses
import math

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.util import tensor_util

from keras_svag import GradientNoiseMonitor
from keras_svag.callbacks.tensorboard import NoiseSummaries
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.reporting.report import ScalingReport
from keras_svag.scaling.conditions import RunConditions
from keras_svag.scaling.verdict import scaling_verdict
from tests.helpers.refusals import check_sentence

CONDITIONS = RunConditions(
    learning_rate=0.5, weight_decay=1e-3, scale_invariant=True, balance=1.05
)
G = "gradient noise/squared gradient norm"
N = "gradient noise/noise"
RATIO = "gradient noise/noise-to-signal ratio"
MAX_BATCH_SIZE = "scaling rule/largest batch size"
BALANCE = "scaling rule/balance"


def noise(g, n, **fields):
    return NoiseEstimate(
        g, 32 * n, 0.1, 16.0, 0.0, 400, 32, degrees_of_freedom=16, **fields
    )


def report(epoch, estimate, conditions=CONDITIONS):
    verdict = scaling_verdict(estimate, conditions, kappas=(2, 64))
    return ScalingReport(verdict, epoch, epoch, weight_sq_norm=5000.0)


def test_directory_that_cannot_be_written_is_refused_before_the_first_step(
    tmp_path,
):
    file = tmp_path / "runs"
    file.write_text("")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    monitor = GradientNoiseMonitor(log_dir=str(file / "one"))
    with pytest.raises(ValueError) as caught:
        model.fit(np.ones((8, 2)), np.ones(8), verbose=0, callbacks=[monitor])
    check_sentence(str(caught.value), "log_dir", str(file))
    assert model.optimizer.iterations == 0


def events(log_dir):
    accumulator = event_accumulator.EventAccumulator(
        str(log_dir / "gradient_noise"), size_guidance={"tensors": 0}
    )
    return accumulator.Reload()


def scalars(accumulator):
    """`{tag: {step: value}}` of everything but the layout and the cards."""
    return {
        tag: {
            event.step: float(tensor_util.make_ndarray(event.tensor_proto))
            for event in accumulator.Tensors(tag)
        }
        for tag in accumulator.PluginTagToContent("scalars")
    }


def card(accumulator, tag):
    assert tag in accumulator.PluginTagToContent("text")
    (event,) = accumulator.Tensors(tag)
    return tensor_util.make_ndarray(event.tensor_proto).item().decode()


def charts(accumulator):
    """`{line: (lower, upper)}` of the charts of the layout that counts."""
    *_, event = accumulator.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(
        tensor_util.make_ndarray(event.tensor_proto).item()
    )
    (category,) = layout.category
    drawn = {}
    for chart in category.chart:
        # TensorBoard misses the tags of a chart of several in other runs.
        (series,) = chart.margin.series
        drawn[series.value] = series.lower, series.upper
    return drawn


@pytest.fixture
def written(tmp_path):
    def write(*reports):
        summaries = NoiseSummaries(tmp_path)
        for one in reports:
            summaries.write_scalars(one, one.last_epoch)
        summaries.write_report(reports[-1], reports[-1].last_epoch)
        summaries.close()
        return events(tmp_path)

    return write


def test_every_epoch_has_its_values_and_bands(written):
    reports = [report(1, noise(1.0, 20.0)), report(2, noise(2.0, 30.0))]
    accumulator = written(*reports)
    actual = scalars(accumulator)
    low, high = reports[1].estimate.interval()
    verdict = reports[0].verdict
    for tag, step, expected in (
        (G, 1, 1.0),
        (N, 2, 30.0),
        # Student's quantile for 16 degrees of freedom is 2.120.
        (f"{G} (low end)", 2, 2.0 - 2.120 * 0.1),
        (f"{N} (high end)", 2, 30.0 + 2.120 * 0.5),
        (RATIO, 2, 15.0),
        (f"{RATIO} (low end)", 2, low),
        (f"{RATIO} (high end)", 2, high),
        (MAX_BATCH_SIZE, 1, verdict.max_batch_size),
        (f"{MAX_BATCH_SIZE} (low end)", 1, verdict.not_ruled_out_up_to),
        (BALANCE, 1, 1.05),
    ):
        assert actual[tag][step] == pytest.approx(expected, rel=1e-3), tag
    # The layout has all that is written, the last one shown first.
    drawn = charts(accumulator)
    tags = {tag for line in drawn.items() for tag in (line[0], *line[1])}
    assert tags == set(actual)
    assert drawn[BALANCE] == (BALANCE, BALANCE)
    assert list(drawn) == [BALANCE, MAX_BATCH_SIZE, RATIO, N, G]


def test_a_band_without_an_upper_end_is_left_out(written):
    reports = [report(1, noise(1.0, 20.0)), report(2, noise(0.1, 30.0))]
    actual = scalars(written(*reports))
    for end in ("", " (low end)", " (high end)"):
        assert set(actual[f"{RATIO}{end}"]) == {1}
        assert set(actual[f"{MAX_BATCH_SIZE}{end}"]) == {1}
    assert set(actual[G]) == {1, 2}


@pytest.mark.parametrize("balance", [None, math.nan])
def test_layout_has_nothing_that_is_not_written(balance, tmp_path):
    without_balance = dataclasses.replace(CONDITIONS, balance=balance)
    summaries = NoiseSummaries(tmp_path)
    summaries.write_scalars(report(1, noise(0.1, 30.0), without_balance), 1)
    assert list(charts(events(tmp_path))) == [N, G]
    # The ratio comes later.
    summaries.write_scalars(report(2, noise(1.0, 30.0), without_balance), 2)
    summaries.close()
    assert list(charts(events(tmp_path))) == [MAX_BATCH_SIZE, RATIO, N, G]


def test_an_estimate_is_written_where_there_is_one(tmp_path):
    summaries = NoiseSummaries(tmp_path)
    for count in (0, 1):
        few = NoiseEstimate.from_observations([1.0] * count, [2.0] * count)
        summaries.write_estimate(few, count)
    assert events(tmp_path).Tags()["tensors"] == []
    summaries.write_estimate(noise(2.0, 20.0), 10, level=0.9)
    summaries.close()
    actual = scalars(events(tmp_path))
    assert len(actual) == 3 * 3
    # Student's quantile for 16 degrees of freedom is 1.746.
    end = actual[f"{G} (high end)"][10]
    assert end == pytest.approx(2 + 1.746 * 0.1, rel=1e-3)


def test_layers_are_in_the_card(written):
    order = np.random.default_rng(0).permutation(30)
    layers = {f"layer{i}/kernel": noise(1.0, float(i)) for i in order}
    layers["layer27/kernel"] = noise(-1.0, 27.0)
    layers["layer28/kernel"] = noise(0.05, 28.0)
    accumulator = written(report(1, noise(30.0, 435.0, per_layer=layers)))
    lines = card(accumulator, "linear rule").splitlines()
    rows = [line for line in lines if line.startswith("| layer")]
    names = [row.split("|")[1].strip() for row in rows]
    assert names == [f"layer{i}/kernel" for i in range(29, 19, -1)]
    assert "| 7% |" in rows[0]
    assert "∞)" in rows[1] and "– \\[0, ∞)" in rows[2]
    assert "The 10 layers of 30 with most noise:" in lines

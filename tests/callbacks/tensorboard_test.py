import dataclasses
import math

import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.util import tensor_util

from keras_svag import GradientNoiseMonitor, ScalingRuleCheck
from keras_svag.callbacks.tensorboard import NoiseSummaries
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.reporting.report import ScalingReport
from keras_svag.scaling.conditions import RunConditions
from keras_svag.scaling.verdict import scaling_verdict
from tests.helpers.refusals import check_sentence
from tests.helpers.small_problems import compiled, regression

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
    model = compiled()
    monitor = GradientNoiseMonitor(log_dir=str(file / "one"))
    with pytest.raises(ValueError) as caught:
        model.fit(*regression(8), verbose=0, callbacks=[monitor])
    check_sentence(str(caught.value), "log_dir", str(file))
    assert model.optimizer.iterations == 0


def read(log_dir, plugin):
    """`{tag: {step: value}}` of what a plugin of TensorBoard shows."""
    accumulator = event_accumulator.EventAccumulator(
        str(log_dir / "gradient_noise"), size_guidance={"tensors": 0}
    ).Reload()
    return {
        tag: {
            event.step: tensor_util.make_ndarray(event.tensor_proto).item()
            for event in accumulator.Tensors(tag)
        }
        for tag in accumulator.PluginTagToContent(plugin)
    }


def charts(log_dir):
    """`{line: (lower, upper)}` of the charts of the layout that counts."""
    [layouts] = read(log_dir, "custom_scalars").values()
    layout = layout_pb2.Layout.FromString([*layouts.values()][-1])
    (category,) = layout.category
    drawn = {}
    for chart in category.chart:
        # TensorBoard misses the tags of a chart of several in other runs.
        (series,) = chart.margin.series
        drawn[series.value] = series.lower, series.upper
    return drawn


@pytest.mark.parametrize(
    ("make", "settings", "places"),
    [
        (ScalingRuleCheck, {"verbose": 0}, [4, 8]),
        (GradientNoiseMonitor, {"update_freq": 3}, [3, 4, 7, 8]),
    ],
)
def test_a_fit_writes_at_epochs_or_after_so_many_steps(
    make, settings, places, tmp_path
):
    is_judged, steps = make is ScalingRuleCheck, 4
    one = make(every=1, log_dir=tmp_path, **settings)
    model, way = compiled(run_eagerly=True), {"epochs": 2, "verbose": 0}
    model.fit(*regression(8 * steps), 8, callbacks=[one], **way)
    expected = {}
    for place in places:
        seen = one.series[: np.sum(one.series["step"] <= place)]
        window = seen.window(epochs=1) if is_judged else seen
        step = place // steps if is_judged else place
        expected[step] = window.estimate().grad_sq_norm
    assert read(tmp_path, "scalars")[G] == pytest.approx(expected)
    if is_judged:
        assert "linear rule" in read(tmp_path, "text")


def write(log_dir, *reports):
    summaries = NoiseSummaries(log_dir)
    for one in reports:
        summaries.write_scalars(one, one.last_epoch)
    summaries.write_report(reports[-1], reports[-1].last_epoch)
    summaries.close()


def test_every_epoch_has_its_values_and_bands(tmp_path):
    reports = [report(1, noise(1.0, 20.0)), report(2, noise(2.0, 30.0))]
    write(tmp_path, *reports)
    actual = read(tmp_path, "scalars")
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
    drawn = charts(tmp_path)
    tags = {tag for line in drawn.items() for tag in (line[0], *line[1])}
    assert tags == set(actual)
    assert drawn[BALANCE] == (BALANCE, BALANCE)
    assert list(drawn) == [BALANCE, MAX_BATCH_SIZE, RATIO, N, G]


def test_what_is_not_known_is_left_out(tmp_path):
    conditions = dataclasses.replace(CONDITIONS, balance=math.nan)
    summaries = NoiseSummaries(tmp_path)
    # No upper end of the ratio; then it has one.
    for epoch, g, lines in (
        (1, 0.1, [N, G]),
        (2, 1.0, [MAX_BATCH_SIZE, RATIO, N, G]),
    ):
        one = report(epoch, noise(g, 30.0), conditions)
        summaries.write_scalars(one, epoch)
        assert list(charts(tmp_path)) == lines
    summaries.close()
    actual = read(tmp_path, "scalars")
    for end in ("", " (low end)", " (high end)"):
        assert set(actual[f"{RATIO}{end}"]) == {2}
        assert set(actual[f"{MAX_BATCH_SIZE}{end}"]) == {2}
    assert set(actual[G]) == {1, 2}


def test_layers_are_in_the_card(tmp_path):
    order = np.random.default_rng(0).permutation(30)
    layers = {f"layer{i}/kernel": noise(1.0, float(i)) for i in order}
    layers["layer27/kernel"] = noise(-1.0, 27.0)
    layers["layer28/kernel"] = noise(0.05, 28.0)
    write(tmp_path, report(1, noise(30.0, 435.0, per_layer=layers)))
    [card] = read(tmp_path, "text")["linear rule"].values()
    lines = card.decode().splitlines()
    rows = [line for line in lines if line.startswith("| layer")]
    names = [row.split("|")[1].strip() for row in rows]
    assert names == [f"layer{i}/kernel" for i in range(29, 19, -1)]
    assert "| 7% |" in rows[0]
    assert "∞)" in rows[1] and "– \\[0, ∞)" in rows[2]
    assert "The 10 layers of 30 with most noise:" in lines

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from keras_svag.callbacks.report import NoiseEpoch, scaling_report
from keras_svag.callbacks.tensorboard import NoiseSummaries, layers_markdown
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.scaling.conditions import RunConditions

CONDITIONS = RunConditions("SGD", weight_decay=1e-3, scale_invariant=True)


def noise(g, n, g_se=0.1, count=400, **fields):
    return NoiseEstimate(g, n, g_se, 0.5, 0.0, count, 32, **fields)


def report(number, estimate, conditions=CONDITIONS):
    moments = estimate.grad_sq_norm, estimate.noise_trace
    epoch = NoiseEpoch(number, estimate, moments, 5000.0, 0.5, 0.5)
    return scaling_report([epoch], conditions, batch_size=32, kappas=(2, 64))


def events(log_dir):
    accumulator = event_accumulator.EventAccumulator(
        str(log_dir / "linear_scaling"), size_guidance={"tensors": 0}
    )
    return accumulator.Reload()


def scalars(accumulator):
    """`{tag: {step: value}}` of everything but the layout and the cards."""
    return {
        tag: {
            event.step: float(tf.make_ndarray(event.tensor_proto))
            for event in accumulator.Tensors(tag)
        }
        for tag in accumulator.PluginTagToContent("scalars")
    }


def card(accumulator, tag):
    (event,) = accumulator.Tensors(tag)
    return event.tensor_proto.string_val[0].decode()


@pytest.fixture
def written(tmp_path):
    def write(*reports):
        summaries = NoiseSummaries(str(tmp_path))
        for one in reports:
            summaries.write_scalars(one, one.last_epoch)
        summaries.write_report(reports[-1], reports[-1].last_epoch)
        summaries.close()
        return events(tmp_path)

    return write


def test_bands_of_a_probe_have_its_own_degrees_of_freedom(written):
    # 32 batches know their errors as 10 independent observations do: Student's
    # quantile is 2.228, where 31 degrees of freedom would give 2.040.
    probe = noise(1.0, 20.0, count=32, degrees_of_freedom=10)
    actual = scalars(written(report(1, probe)))
    for tag, value, error in (
        ("gradient_noise/grad_sq_norm", 1.0, 0.1),
        ("gradient_noise/noise_trace", 20.0, 0.5),
    ):
        for end, sign in (("low", -1), ("high", 1)):
            assert actual[f"{tag}_{end}"][1] == pytest.approx(
                value + sign * 2.228139 * error, rel=1e-6
            )


def test_every_epoch_has_its_values_and_bands(written):
    reports = [report(1, noise(1.0, 20.0)), report(2, noise(2.0, 30.0))]
    actual = scalars(written(*reports))
    low, high = reports[1].estimate.interval()
    for tag, step, expected in (
        ("gradient_noise/grad_sq_norm", 1, 1.0),
        ("gradient_noise/noise_trace", 2, 30.0),
        # Student's quantile for 399 degrees of freedom is 1.966.
        ("gradient_noise/grad_sq_norm_low", 2, 2.0 - 1.966 * 0.1),
        ("gradient_noise/noise_trace_high", 2, 30.0 + 1.966 * 0.5),
        ("noise_to_signal/ratio", 2, 15.0),
        ("noise_to_signal/ratio_low", 2, low),
        ("noise_to_signal/ratio_high", 2, high),
        ("equilibrium/balance", 1, 1.9995e-3 * 5000 / (0.5 * 21)),
    ):
        assert actual[tag][step] == pytest.approx(expected, rel=1e-3), tag
    threshold = 1 / (2 * (1 - 0.5 * 1e-3 / 2) - 1)
    assert actual["noise_to_signal/threshold"][2] == pytest.approx(threshold)


def test_a_band_without_an_upper_end_is_left_out(written):
    reports = [report(1, noise(1.0, 20.0)), report(2, noise(0.1, 30.0))]
    actual = scalars(written(*reports))
    for end in ("", "_low", "_high"):
        assert set(actual[f"noise_to_signal/ratio{end}"]) == {1}
        assert set(actual[f"max_batch_multiplier/kappa_max{end}"]) == {1}
    assert set(actual["gradient_noise/grad_sq_norm"]) == {1, 2}


def test_layout_refers_to_what_is_written(written):
    accumulator = written(report(1, noise(1.0, 20.0)))
    (event,) = accumulator.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    (category,) = layout.category
    tags = set(scalars(accumulator))
    drawn = set()
    for chart in category.chart:
        for series in chart.margin.series:
            drawn |= {series.value, series.lower, series.upper}
    assert drawn == tags
    together = category.chart[-1].margin.series
    assert [s.value for s in together] == [
        "gradient_noise/grad_sq_norm",
        "gradient_noise/noise_trace",
    ]


def test_card_carries_verdicts_and_reasons(written):
    heuristic = RunConditions("SGD", weight_decay=1e-3, momentum=0.9)
    text = card(
        written(report(3, noise(1.0, 20.0), heuristic)), "linear_scaling_rule"
    )
    assert "N/G = 20 [" in text
    assert "| 64 | 1 | not ruled out |" in text
    assert "| 2,048 | 32 | ruled out |" in text
    assert "**Only a heuristic**" in text
    assert (
        "- momentum is 0.9: the bound is that of SGD at the effective rate"
        in text
    )


def test_card_of_a_refusal_judges_no_batch(written):
    adam = RunConditions("Adam")
    text = card(
        written(report(1, noise(1.0, 20.0), adam)), "linear_scaling_rule"
    )
    assert "square-root scaling rule" in text
    assert "| 64 |" not in text


def test_layers_are_a_table_sorted_by_their_noise(written):
    order = np.random.default_rng(0).permutation(30)
    layers = {f"layer{i}/kernel": noise(1.0, float(i)) for i in order}
    layers["layer7/kernel"] = noise(-1.0, 7.0)
    layers["layer8/kernel"] = noise(0.05, 8.0)
    accumulator = written(report(1, noise(30.0, 435.0, per_layer=layers)))
    rows = card(accumulator, "gradient_noise_per_layer").splitlines()[2:]
    assert len(rows) == 30
    names = [row.split("|")[1].strip() for row in rows]
    assert names == [f"layer{i}/kernel" for i in reversed(range(30))]
    assert f"{'█' * 12} {29 / 435:.1%} |" in rows[0]
    assert f" {'█' * 6} {14 / 435:.1%} |" in rows[names.index("layer14/kernel")]
    assert "– [" in rows[names.index("layer7/kernel")]
    assert "∞)" in rows[names.index("layer8/kernel")]


def test_layers_without_noise_have_no_shares():
    assert "0.0%" in layers_markdown({"a": noise(0.0, 0.0)})

"""The check within an epoch: windows in steps, and points between epochs."""

import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator

from keras_svag import LinearScalingRuleCheck, SVAGModel
from tests.helpers.small_problems import dense_network, regression

BATCH_SIZE = 8
STEPS = 24


def check(**kwargs):
    return LinearScalingRuleCheck(BATCH_SIZE, **{"verbose": 0} | kwargs)


def measuring_model(rate=0.05, **kwargs):
    model = SVAGModel(dense_network(), **kwargs)
    model.compile(keras.optimizers.SGD(rate), "mse")
    return model


def train(model, *callbacks, epochs=1, **kwargs):
    x, y = regression(STEPS * BATCH_SIZE)
    model.fit(
        x,
        y,
        BATCH_SIZE,
        epochs=epochs,
        callbacks=list(callbacks),
        verbose=0,
        **kwargs,
    )


class Observations(keras.callbacks.Callback):
    """G and N of every step, from what the metric's sums grow by."""

    def __init__(self):
        super().__init__()
        self.values = []

    def on_epoch_begin(self, epoch, logs=None):
        self._before = np.zeros(2)

    def on_train_batch_end(self, batch, logs=None):
        after = self.model.gradient_noise._sums.numpy()[1:3]
        self.values.append(after - self._before)
        self._before = after


def assert_is_of(estimate, observations):
    """An estimate's means and blocks are those of these observations."""
    values = np.array(observations)
    assert estimate.count == len(values)
    means = [estimate.grad_sq_norm, estimate.noise_trace]
    np.testing.assert_allclose(means, values.mean(0), rtol=1e-9)
    ends = np.cumsum([block[0] for block in estimate.blocks]).astype(int)
    parts = np.split(values, ends)[:-1]
    np.testing.assert_allclose(
        estimate.blocks,
        [(len(part), *part.sum(0)) for part in parts],
        rtol=1e-9,
        # A reading is the difference of two sums.
        atol=1e-9 * np.abs(values).sum(),
    )
    assert ends[-1] == len(values)


def test_window_of_steps_holds_the_last_observations_of_one_epoch():
    one, seen = check(window="10 steps"), Observations()
    train(measuring_model(), one, seen)
    assert_is_of(one.report.estimate, seen.values[-10:])
    assert (one.report.first_step, one.report.last_step) == (15, 24)
    assert (
        "Measured in steps 15 to 24, 10 observations in 5 blocks of 2"
        in str(one.report)
    )
    assert one.report.to_dict()["first_step"] == 15


def test_window_of_steps_reaches_over_the_end_of_an_epoch():
    one, seen = check(window="40 steps"), Observations()
    train(measuring_model(), one, seen, epochs=2)
    assert_is_of(one.report.estimate, seen.values[-40:])
    assert (one.report.first_epoch, one.report.last_epoch) == (1, 2)


def test_layers_are_those_of_the_window_too():
    one, seen = check(window="10 steps"), Observations()
    model = measuring_model(per_layer=True)
    train(model, one, seen)
    layers = one.report.estimate.per_layer.values()
    assert len(layers) == len(model.trainable_variables)
    assert sum(layer.grad_sq_norm for layer in layers) == pytest.approx(
        one.report.estimate.grad_sq_norm
    )
    assert {layer.count for layer in layers} == {10}


def test_report_is_there_within_the_epoch():
    reports, seen = {}, Observations()

    class Look(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            reports[batch] = one.report

    one = check(window="10 steps")
    train(measuring_model(), one, Look(), seen)
    assert reports[1] is None
    # Read every 2 steps, before the next one.
    assert_is_of(reports[3].estimate, seen.values[:2])
    assert_is_of(reports[20].estimate, seen.values[10:20])


def test_size_of_the_data_corrects_a_window_of_steps():
    one, raw = (
        check(window="10 steps", **k) for k in ({"num_examples": 192}, {})
    )
    train(measuring_model(), one, raw)
    corrected, estimate = one.report.estimate, raw.report.estimate
    assert corrected.grad_sq_norm == pytest.approx(
        estimate.grad_sq_norm + BATCH_SIZE / 192 * estimate.noise_trace
    )
    assert corrected.corrected_for_sampling


def test_window_of_steps_begins_after_a_warmup():
    schedule = keras.optimizers.schedules.PolynomialDecay(0.01, 10, 0.1)
    one, seen = check(window="20 steps"), Observations()
    train(measuring_model(schedule), one, seen)
    assert one.report.verdict.learning_rate == pytest.approx(0.1)
    # The tenth step is the last that is taken below 0.1.
    assert one.report.first_step == 11
    assert_is_of(one.report.estimate, seen.values[10:])
    assert "the learning rate changes" not in str(one.report)
    (warmup,) = one.report.earlier
    assert "the learning rate changes" in str(warmup)


@pytest.mark.parametrize("window", [4, 20])
def test_rate_that_moves_at_every_step_is_averaged_over_the_window(window):
    schedule = keras.optimizers.schedules.PolynomialDecay(0.1, STEPS, 0.0)
    one, seen = check(window=f"{window} steps"), Observations()
    train(measuring_model(schedule), one, seen)
    assert_is_of(one.report.estimate, seen.values[-window:])
    # From the first of them to the last, which is step 23 of 0 to 23.
    mean = 0.1 * (1 - (2 * STEPS - 1 - window) / 2 / STEPS)
    assert one.report.verdict.learning_rate == pytest.approx(mean, rel=1e-5)
    assert "the learning rate changes within the window" in str(one.report)


@pytest.mark.parametrize("stop", [3, 9, 10])
@pytest.mark.parametrize(
    "settings", [{"window": "10 steps"}, {"update_freq": 5}]
)
def test_state_within_an_epoch_goes_on_in_another_process(
    stop, settings, tmp_path
):
    folders = [str(tmp_path / name) for name in "ab"]
    whole, parted = (check(log_dir=f, **settings) for f in folders)
    model = measuring_model()
    data = tf.data.Dataset.from_tensor_slices(regression(STEPS * BATCH_SIZE))
    batches = iter(data.batch(BATCH_SIZE, drop_remainder=True))
    model.make_train_function()

    def begin(one):
        one.set_model(model)
        one.set_params({"epochs": 1, "steps": STEPS})
        one.on_train_begin()
        one.on_epoch_begin(0)

    begin(whole), begin(parted)
    for step in range(STEPS):
        if step == stop:
            state = json.dumps(parted.state_dict(), allow_nan=False)
            parted = check(log_dir=folders[1], **settings)
            begin(parted)
            parted.load_state_dict(json.loads(state))
        for one in (whole, parted):
            one.on_train_batch_begin(step)
        # As `fit` does, which keeps the metrics from step to step.
        model.train_function(batches)
    for one in (whole, parted):
        one.on_epoch_end(0, {})
        one.on_train_end()
    assert parted.report.to_dict() == whole.report.to_dict()
    # Scalars are written at the same steps, by one process or the other.
    points = [scalars(f)["gradient_noise/noise_trace"] for f in folders]
    assert points[0] == points[1]


def scalars(log_dir):
    """`{tag: {step: value}}` over the files of one process or of several."""
    values = {}
    for path in pathlib.Path(log_dir, "linear_scaling").iterdir():
        accumulator = event_accumulator.EventAccumulator(
            str(path), size_guidance={"tensors": 0}
        ).Reload()
        for tag in accumulator.PluginTagToContent("scalars"):
            values.setdefault(tag, {}).update(
                (event.step, float(tf.make_ndarray(event.tensor_proto)))
                for event in accumulator.Tensors(tag)
            )
    return values


def test_points_are_written_every_so_many_steps(tmp_path):
    one = check(log_dir=str(tmp_path), update_freq=10, window=1)
    seen = Observations()
    train(measuring_model(), one, seen, epochs=2)
    written = scalars(tmp_path)
    for tag, column in (
        ("gradient_noise/grad_sq_norm", 0),
        ("gradient_noise/noise_trace", 1),
    ):
        expected = {
            end: np.mean(seen.values[begin:end], axis=0)[column]
            for begin, end in (
                (0, 10),
                (0, 20),
                (0, 24),
                (24, 34),
                (24, 44),
                (24, 48),
            )
        }
        assert written[tag] == pytest.approx(expected, rel=1e-6)


def test_points_of_a_window_of_steps_are_its_means(tmp_path):
    one = check(log_dir=str(tmp_path), update_freq=8, window="10 steps")
    seen = Observations()
    train(measuring_model(), one, seen)
    expected = {
        end: np.mean(seen.values[max(end - 10, 0) : end], axis=0)[1]
        for end in (8, 16, 24)
    }
    actual = scalars(tmp_path)["gradient_noise/noise_trace"]
    assert actual == pytest.approx(expected, rel=1e-6)


def test_points_of_a_window_of_steps_are_epochs_unless_told(tmp_path):
    one = check(log_dir=str(tmp_path), window="10 steps")
    train(measuring_model(), one, epochs=2)
    assert set(scalars(tmp_path)["gradient_noise/noise_trace"]) == {1, 2}


def test_reading_within_epochs_leaves_training_and_the_report():
    reports, weights = [], []
    for settings in ({}, {"update_freq": 5}):
        one, model = check(window=2, **settings), measuring_model()
        train(model, one, epochs=3, shuffle=False)
        reports.append(one.report.to_dict())
        weights.append(model.get_weights())
    assert reports[0] == reports[1]
    for ours, theirs in zip(*weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_data_of_unknown_length_end_where_they_do():
    def batches():
        x, y = regression(STEPS * BATCH_SIZE)
        for step in range(STEPS):
            rows = slice(step * BATCH_SIZE, (step + 1) * BATCH_SIZE)
            yield x[rows], y[rows]

    data = tf.data.Dataset.from_generator(
        batches,
        output_signature=(
            tf.TensorSpec((BATCH_SIZE, 4)),
            tf.TensorSpec((BATCH_SIZE, 2)),
        ),
    )
    one, seen = check(window="30 steps"), Observations()
    model = measuring_model()
    model.fit(data, epochs=2, callbacks=[one, seen], verbose=0)
    assert one.report.last_step == 2 * STEPS
    # That the data end is noticed at the begin of a step that is none.
    for part in one.state_dict()["epochs"]:
        assert part["first_step"] <= part["last_step"]
    assert_is_of(one.report.estimate, seen.values[-30:])


def test_steps_of_one_call_are_read_together():
    model = measuring_model()
    model.compile(keras.optimizers.SGD(0.05), "mse", steps_per_execution=4)
    one = check(window="10 steps")
    train(model, one)
    # The last two calls: with a third it would be 12 steps.
    assert (one.report.first_step, one.report.last_step) == (17, 24)
    assert one.report.estimate.count == 8


@pytest.mark.parametrize(
    "window", ["500", "steps", "0 steps", "-1 steps", "1.5 steps", "2 epochs"]
)
def test_a_window_that_is_no_number_of_steps_is_refused(window):
    with pytest.raises(TypeError, match="`window` must be .*'500 steps'"):
        check(window=window)


@pytest.mark.parametrize("update_freq", ["batch", 0, -1, 1.5])
def test_a_bad_update_freq_is_refused(update_freq):
    with pytest.raises(ValueError, match="`update_freq` must be"):
        check(update_freq=update_freq)


@pytest.mark.parametrize(
    "settings", [{"window": "5 steps"}, {"update_freq": 5}]
)
def test_a_probe_does_not_measure_within_epochs(settings):
    with pytest.raises(ValueError, match="measures at the ends of epochs"):
        check(probe=regression(64), **settings)


def test_a_window_of_more_steps_than_the_run_has_is_refused():
    train(measuring_model(), check(window="24 steps"))
    with pytest.raises(ValueError, match="at most 24 steps, got '25 steps'"):
        train(measuring_model(), check(window="25 steps"))

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator

from keras_svag import (
    SVAG,
    LinearScalingRuleCheck,
    SVAGModel,
    applications,
)
from keras_svag.callbacks.report import LOG_KEYS
from tests.helpers.small_problems import (
    dense_network,
    largest_difference,
    regression,
)

ROWS = 64
BATCH_SIZE = 8


def check(batch_size=BATCH_SIZE, **kwargs):
    return LinearScalingRuleCheck(batch_size, **{"verbose": 0} | kwargs)


def measuring_model(optimizer="sgd", network=None, **kwargs):
    model = SVAGModel(network or dense_network(), **kwargs)
    model.compile(optimizer=optimizer, loss="mse")
    return model


def train(model, *callbacks, epochs=4, batch_size=BATCH_SIZE, **kwargs):
    x, y = regression(ROWS)
    return model.fit(
        x,
        y,
        batch_size,
        epochs=epochs,
        callbacks=list(callbacks),
        verbose=0,
        **kwargs,
    ).history


def sgd(**kwargs):
    return keras.optimizers.SGD(0.05, **kwargs)


def test_report_averages_the_logs_of_the_last_epochs():
    one = check(window=2)
    history = train(measuring_model(sgd()), one)
    grad_sq_norm, noise_trace, weight_sq_norm = (
        np.mean(history[key][-2:])
        for key in ("grad_sq_norm", "noise_trace", "weight_sq_norm")
    )
    estimate = one.report.estimate
    assert estimate.grad_sq_norm == pytest.approx(grad_sq_norm, rel=1e-5)
    assert estimate.noise_trace == pytest.approx(noise_trace, rel=1e-5)
    assert estimate.count == 2 * ROWS / BATCH_SIZE
    assert one.report.weight_sq_norm == pytest.approx(weight_sq_norm)
    assert one.report.verdict.noise_to_signal == pytest.approx(
        noise_trace / grad_sq_norm, rel=1e-5
    )


def test_the_check_leaves_training_and_logs_as_they_are():
    with_check, without = (
        measuring_model(sgd(), dense_network()) for _ in "ab"
    )
    seen = train(with_check, check(), shuffle=False)
    expected = train(without, shuffle=False)
    assert {key: seen[key] for key in expected} == expected
    assert set(seen) - set(expected) == set(LOG_KEYS)
    assert largest_difference(with_check, without) == 0


def test_size_of_the_data_may_be_given_to_the_check_or_to_the_model():
    given_to_check = check(num_examples=ROWS, window=4)
    train(measuring_model(sgd()), given_to_check, shuffle=False)
    given_to_model = check(window=4)
    model = measuring_model(sgd(), num_examples=ROWS)
    train(model, given_to_model, shuffle=False)
    unknown = check(window=4)
    train(measuring_model(sgd()), unknown, shuffle=False)
    assert given_to_check.report == given_to_model.report
    reason = "the data are shuffled and their number is not known"
    assert reason in str(unknown.report)
    assert reason not in str(given_to_check.report)
    raw = unknown.report.estimate
    assert given_to_check.report.estimate.grad_sq_norm == pytest.approx(
        raw.grad_sq_norm + BATCH_SIZE / ROWS * raw.noise_trace
    )


def test_a_scale_invariant_run_is_seen_to_reach_equilibrium():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 6)).astype("float32")
    y = (x[:, 0] > 0) + (rng.uniform(size=256) < 0.3)
    network = applications.ScaleInvariantMLP((6,), 3, (8, 8), seed=0)
    model = SVAGModel(network, sampling="with_replacement")
    model.compile(
        SVAG(0.5, ell=2, weight_decay=0.1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=50,
    )
    one = check(window=80, scale_invariant=x[:16])
    drawn = rng.integers(0, 256, 16 * 8000)
    # 20 epochs, of 50 SGD steps, are long against 1 / (2 η λ) = 10 of them.
    model.fit(
        x[drawn][: 16 * 1000],
        y[drawn][: 16 * 1000],
        16,
        epochs=1,
        verbose=0,
        shuffle=False,
    )
    model.fit(
        x[drawn],
        y[drawn],
        16,
        steps_per_epoch=100,
        epochs=80,
        shuffle=False,
        callbacks=[one],
        verbose=0,
    )
    verdict = one.report.verdict
    assert verdict.at_equilibrium
    # Over 24 seeds a quarter as long a run has a standard deviation of 0.05.
    assert verdict.balance == pytest.approx(1, abs=4 * 0.05 / 4**0.5)
    assert verdict.heuristic_reasons == ()
    assert verdict.compared.endswith("SVAG with ell 2")


def test_steps_that_are_not_finite_are_counted_and_left_out():
    model = measuring_model(sgd())

    def spoil(batch, logs):
        if batch == 3:
            model.gradient_noise.update_state(np.nan, 1.0)

    one = check(window=4)
    train(model, keras.callbacks.LambdaCallback(on_train_batch_end=spoil), one)
    assert one.report.estimate.num_skipped == 4
    assert "4 observations were not finite" in str(one.report)
    assert np.isfinite(one.report.verdict.noise_to_signal)


def test_gradients_of_zero_leave_the_ratio_undefined():
    model = SVAGModel(dense_network())
    model.compile(sgd(), lambda y, prediction: 0.0 * prediction)
    one = check()
    train(model, one)
    assert "N/G is undefined: every gradient was exactly zero" in (
        str(one.report)
    )


def test_rate_set_by_a_later_callback_is_that_of_its_epoch():
    one = check(window=4)
    schedule = keras.callbacks.LearningRateScheduler(
        lambda epoch, rate: 0.1 if epoch < 2 else 0.01
    )
    train(measuring_model(sgd()), one, schedule, epochs=4)
    assert one.report.first_epoch == 3
    assert one.report.verdict.learning_rate == 0.01
    assert one.report.earlier[0].verdict.learning_rate == 0.1


def test_rate_that_an_earlier_callback_changes_is_that_of_the_steps():
    def decay(epoch, logs):
        if epoch == 2:
            model.optimizer.learning_rate = 0.01

    model = measuring_model(sgd())
    one = check(window=4)
    train(model, keras.callbacks.LambdaCallback(on_epoch_end=decay), one)
    assert one.report.earlier[0].last_epoch == 3
    assert (one.report.first_epoch, one.report.last_epoch) == (4, 4)
    assert one.report.verdict.learning_rate == 0.01


def test_rate_that_a_callback_changes_within_an_epoch_is_noticed():
    def decay(batch, logs):
        if batch == 5:
            model.optimizer.learning_rate = 0.01

    model = measuring_model(sgd())
    one = check()
    callback = keras.callbacks.LambdaCallback(on_train_batch_begin=decay)
    train(model, callback, one, epochs=1)
    assert "the learning rate changes within" in str(one.report)
    assert one.report.verdict.learning_rate == pytest.approx(0.03)


@pytest.mark.parametrize("ell", [None, 1, 2])
@pytest.mark.parametrize("boundary, first_epoch", [(16, 3), (19, 4)])
def test_schedule_that_changes_within_an_epoch_spoils_this_epoch(
    boundary, first_epoch, ell
):
    # Keras keeps a value up to and including its boundary.
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [boundary - 1 if ell != 2 else boundary // 2 - 1], [0.1, 0.01]
    )
    one = check(BATCH_SIZE if ell is None else BATCH_SIZE // 2, window=4)
    optimizer = (
        keras.optimizers.SGD(schedule) if ell is None else SVAG(schedule, ell)
    )
    train(measuring_model(optimizer), one, epochs=4)
    assert one.report.first_epoch == first_epoch
    assert one.report.verdict.learning_rate == 0.01
    assert one.report.earlier[0].last_epoch == 2


def test_optimizer_with_a_loss_scale_is_unwrapped():
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(2, dtype="mixed_float16"),
        ]
    )
    one = check()
    scaled = keras.optimizers.LossScaleOptimizer(
        sgd(momentum=0.9, weight_decay=0.01)
    )
    train(measuring_model(scaled, network), one)
    assert one.report.verdict.weight_decay == 0.01
    assert one.report.verdict.learning_rate == 0.05
    assert "momentum is 0.9" in str(one.report)


def test_adam_is_refused_and_pointed_to_the_square_root_rule():
    one = check()
    train(measuring_model("adam"), one)
    assert one.report.verdict.refusal
    assert "square_root_scaling_rule" in str(one.report)


@pytest.mark.parametrize(
    "optimizer, reason",
    [
        (lambda: sgd(clipnorm=1.0), "gradients are clipped"),
        (
            lambda: sgd(weight_decay=0.01),
            "the loss is not scale-invariant",
        ),
        (lambda: sgd(), "there is no weight decay"),
    ],
)
def test_reasons_for_a_heuristic_are_read_from_the_optimizer(optimizer, reason):
    one = check()
    train(measuring_model(optimizer()), one)
    assert reason in str(one.report).split("Only a heuristic, because")[1]


def test_weights_that_are_not_decayed_are_noticed():
    some, none = (sgd(weight_decay=0.01) for _ in "ab")
    some.exclude_from_weight_decay(var_names=["bias"])
    none.exclude_from_weight_decay(var_names=["bias", "kernel"])
    reports = []
    for optimizer in (some, none):
        one = check()
        train(measuring_model(optimizer), one)
        reports.append(str(one.report))
    assert "some trainable weights are not decayed" in reports[0]
    assert "weight decay excludes every trainable weight" in reports[1]
    assert "there is no weight decay" in reports[1]


def test_a_regularizer_is_no_weight_decay():
    network = dense_network(kernel_regularizer="l2")
    one = check(scale_invariant=True)
    train(measuring_model(sgd(weight_decay=0.01), network), one)
    assert "the loss contains a regularizer" in str(one.report)
    assert "the loss is not scale-invariant" in str(one.report)


@pytest.mark.filterwarnings("ignore:SVAGModel normalizes")
@pytest.mark.filterwarnings("ignore:pairing='halves'")
@pytest.mark.parametrize(
    "optimizer, halves",
    [
        (lambda: sgd(), True),
        (lambda: SVAG(0.05, ell=2, pairing="halves"), True),
        (lambda: SVAG(0.05, ell=2), False),
    ],
)
def test_halves_that_batch_normalization_saw_apart_are_named(optimizer, halves):
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(2),
        ]
    )
    model = measuring_model(optimizer(), network)
    one = check(BATCH_SIZE if halves else BATCH_SIZE // 2)
    train(model, one)
    assert ("batch normalization saw halves" in str(one.report)) == halves


def test_epochs_are_kept_through_another_fit():
    parted, whole = check(window=2), check(window=2)
    model = measuring_model(sgd(), dense_network())
    train(model, parted, epochs=2, shuffle=False)
    train(model, parted, epochs=3, initial_epoch=2, shuffle=False)
    other = measuring_model(sgd(), dense_network())
    train(other, whole, epochs=3, shuffle=False)
    assert (parted.report.first_epoch, parted.report.last_epoch) == (2, 3)
    assert str(parted.report) == str(whole.report)


def test_epochs_trained_anew_replace_what_was_known():
    one = check(window=4)
    model = measuring_model(sgd())
    train(model, one, epochs=4)
    train(model, one, epochs=4, initial_epoch=3)
    assert one.report.estimate.count == 4 * ROWS / BATCH_SIZE
    train(model, one, epochs=4)
    assert one.report.estimate.count == 4 * ROWS / BATCH_SIZE


def test_epochs_are_kept_through_backup_and_restore(tmp_path):
    class Crash(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise RuntimeError("crash")

    one = check(window=4)
    model = measuring_model(sgd())
    with pytest.raises(RuntimeError):
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        train(model, one, backup, Crash())
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    train(model, one, backup)
    assert one.report.num_epochs == 4


def test_state_goes_on_in_another_process():
    first = check(window=2)
    model = measuring_model(sgd())
    train(model, first, epochs=2)
    state = json.loads(json.dumps(first.state_dict(), allow_nan=False))
    second = check(window=2)
    second.load_state_dict(state)
    train(model, second, epochs=3, initial_epoch=2)
    assert (second.report.first_epoch, second.report.last_epoch) == (2, 3)
    with pytest.raises(ValueError, match="saved state, 8, got 4"):
        check(4).load_state_dict(state)


def test_state_within_an_epoch_keeps_its_first_learning_rate():
    one = check()

    class Resumed(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            one.load_state_dict({**one.state_dict(), "first_learning_rate": 7})

    train(measuring_model(sgd()), one, Resumed(), epochs=1)
    (epoch,) = one.state_dict()["epochs"]
    assert epoch["learning_rate"] == 7
    assert epoch["last_learning_rate"] != 7


def test_state_of_before_the_first_learning_rate_was_kept_is_read():
    one = check()
    one.load_state_dict({"batch_size": BATCH_SIZE, "epochs": []})
    assert one.state_dict()["first_learning_rate"] is None


def test_report_is_printed_unless_told_otherwise(capsys):
    loud = check(verbose=1)
    train(measuring_model(sgd()), check(), loud)
    assert capsys.readouterr().out == f"{loud.report}\n"


def test_a_run_without_epochs_has_no_report():
    one = check()
    train(measuring_model(sgd()), one, epochs=0)
    assert one.report is None


def test_tensorboard_gets_every_epoch_and_the_report(tmp_path):
    one = check(log_dir=str(tmp_path), window=3)
    train(measuring_model(sgd(), per_layer=True), one)
    events = event_accumulator.EventAccumulator(
        str(tmp_path / "linear_scaling")
    ).Reload()
    steps = [e.step for e in events.Tensors("gradient_noise/noise_trace")]
    assert steps == [1, 2, 3, 4]
    last = events.Tensors("gradient_noise/noise_trace")[-1].tensor_proto
    assert float(tf.make_ndarray(last)) == pytest.approx(
        one.report.estimate.noise_trace
    )
    assert events.Tensors("linear_scaling_rule")[0].step == 4
    assert events.Tensors("gradient_noise_per_layer")


def test_batch_size_other_than_the_measured_one_is_refused_early():
    model = measuring_model(sgd())
    with pytest.raises(ValueError, match="must be 8, .*got 16"):
        train(model, check(16))
    assert int(model.optimizer.iterations) == 1
    svag = measuring_model(SVAG(0.05))
    with pytest.raises(ValueError, match="must be 4, .*got 8; .*half of"):
        train(svag, check(8))


def test_sizes_of_the_data_that_differ_are_refused():
    model = measuring_model(sgd(), num_examples=ROWS)
    with pytest.raises(ValueError, match="`num_examples` must be 64.*got 100"):
        train(model, check(num_examples=100))


def test_a_window_longer_than_the_run_is_refused():
    with pytest.raises(ValueError, match="`window` must be .* <= 4, got 5"):
        train(measuring_model(sgd()), check(window=5))


@pytest.mark.parametrize("wrapped", [True, False])
def test_without_noise_to_read_the_model_must_be_wrapped(wrapped):
    model = dense_network()
    if wrapped:
        model = SVAGModel(model, measure_noise=False)
    model.compile(sgd(), "mse")
    with pytest.raises(ValueError, match="wrap the model in keras_svag.SVAG"):
        train(model, check())


def test_a_model_without_trainable_weights_is_refused():
    network = dense_network()
    network.trainable = False
    with pytest.raises(ValueError, match="no trainable weights"):
        train(measuring_model(sgd(), network), check())


def test_one_example_a_batch_has_no_pair():
    one = check(1)
    train(measuring_model(sgd()), one, batch_size=1)
    assert "there were no observations" in str(one.report)

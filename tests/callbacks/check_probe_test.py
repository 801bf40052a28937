"""LinearScalingRuleCheck on a plain model, measured by the probe."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_svag import (
    LinearScalingRuleCheck,
    SVAGModel,
    measure_gradient_noise,
)
from tests.helpers.small_problems import dense_network, regression

ROWS = 64
BATCH_SIZE = 8


def check(probe, **kwargs):
    defaults = {"verbose": 0, "probe_batches": 20}
    return LinearScalingRuleCheck(BATCH_SIZE, probe=probe, **defaults | kwargs)


def normalized_network():
    """Of everything that has a state besides its weights."""
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.GaussianNoise(0.1),
            keras.layers.Dense(6, use_bias=False),
            keras.layers.BatchNormalization(scale=False, center=False),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(2),
        ]
    )


def train(model, *callbacks, epochs=3, **kwargs):
    x, y = regression(ROWS)
    history = model.fit(
        x,
        y,
        BATCH_SIZE,
        epochs=epochs,
        callbacks=list(callbacks),
        verbose=0,
        **kwargs,
    )
    return history.history


def compiled(network, optimizer=None):
    network.compile(
        optimizer or keras.optimizers.SGD(0.05, momentum=0.5),
        "mse",
        metrics=["mae"],
    )
    return network


def state(model):
    variables = model.variables + model.optimizer.variables
    return [np.array(v) for v in variables]


def slices(data):
    return tf.data.Dataset.from_tensor_slices(data)


@pytest.mark.parametrize(
    "kind", [tuple, slices, lambda data: slices(data).shuffle(64).batch(7)]
)
def test_probing_changes_nothing_in_the_training(kind):
    data = kind(regression(ROWS, seed=5))
    plain, probed = compiled(normalized_network()), None
    validation = regression(16, seed=6)
    expected = train(plain, validation_data=validation)
    probed = compiled(normalized_network())
    one = check(data, per_layer=True)
    seen = train(probed, one, validation_data=validation)
    assert {key: seen[key] for key in expected} == expected
    for ours, theirs in zip(state(probed), state(plain), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert one.report.estimate.count == 20
    assert len(one.report.estimate.per_layer) == 3


def test_report_is_that_of_the_probe_at_the_last_weights():
    model = compiled(dense_network(), keras.optimizers.SGD(0.05))
    data = regression(ROWS)
    one = check(data, window=1)
    train(model, one, epochs=1)
    expected = measure_gradient_noise(
        model, data, BATCH_SIZE, 20, seed=0, verbose=0
    )
    actual = one.report.estimate
    assert actual.grad_sq_norm == pytest.approx(expected.grad_sq_norm)
    assert actual.noise_trace == pytest.approx(expected.noise_trace)
    assert actual.interval() == pytest.approx(expected.interval())
    assert "shuffled" not in str(one.report)
    weights = [np.array(v) for v in model.trainable_variables]
    assert one.report.weight_sq_norm == pytest.approx(
        sum(np.sum(w**2) for w in weights)
    )


@pytest.mark.parametrize(
    "every, epochs, probed", [(1, 3, 3), (2, 4, 2), (3, 4, 2), (9, 4, 1)]
)
def test_probe_is_run_every_few_epochs_and_after_the_last(
    every, epochs, probed
):
    one = check(regression(ROWS), window=epochs, probe_every=every)
    train(compiled(dense_network()), one, epochs=epochs)
    assert one.report.num_epochs == probed
    assert one.report.last_epoch == epochs
    assert one.report.estimate.num_examples_used == probed * 20 * BATCH_SIZE


def test_a_run_that_stops_between_two_probes_is_probed_at_its_end():
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 2

    one = check(regression(ROWS), probe_every=5)
    train(compiled(dense_network()), one, Stop(), epochs=9)
    assert one.report.last_epoch == 3


def test_probe_stops_at_the_tolerance():
    one = check(regression(ROWS), probe_batches=500, rtol=0.5, window=1)
    train(compiled(dense_network()), one)
    assert 20 <= one.report.estimate.count < 500


def test_scale_invariance_is_measured_on_the_data_of_the_probe():
    norm = {"epsilon": 1e-12, "scale": False, "center": False}
    invariant = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(6, use_bias=False),
            keras.layers.BatchNormalization(**norm),
        ]
    )
    reports = []
    for network in (invariant, dense_network(num_outputs=6)):
        x, y = regression(ROWS, num_outputs=6)
        sgd = keras.optimizers.SGD(0.05, weight_decay=0.01)
        one = check((x, y))
        network.compile(sgd, "mse")
        network.fit(x, y, 8, epochs=2, callbacks=[one], verbose=0)
        reports.append(one.report)
    assert reports[0].verdict.at_equilibrium is not None
    assert not any(
        "scale-invariant" in r for r in reports[0].verdict.heuristic_reasons
    )
    assert "the loss is not scale-invariant" in str(reports[1])


@pytest.mark.filterwarnings("ignore:SVAGModel normalizes")
def test_probe_of_a_wrapped_model_normalizes_whole_batches():
    model = SVAGModel(normalized_network())
    compiled(model)
    one = check(regression(ROWS))
    train(model, one)
    assert one.report.estimate.sampling == "with_replacement"
    assert "halves of a batch apart" not in str(one.report)


def test_what_is_trained_on_can_be_probed():
    data = regression(ROWS)
    batches = slices(data).filter(lambda x, y: True).batch(7)
    reports = []
    for probe in (data, batches, lambda: batches.as_numpy_iterator()):
        model = compiled(dense_network(), keras.optimizers.SGD(0.05))
        one = check(probe, window=3)
        model.fit(batches, epochs=3, callbacks=[one], verbose=0)
        reports.append(one.report)
    expected, *others = reports
    for report in others:
        assert report.estimate == expected.estimate
        assert str(report) == str(expected)


def test_examples_are_counted_once():
    starts = []

    def batches():
        starts.append(1)
        yield regression(ROWS)

    one = check(batches)
    train(compiled(dense_network()), one, epochs=4)
    # The count, the inputs for the invariance and the size of an example;
    # in each epoch an example to build from and what is drawn.
    assert len(starts) <= 2 + 1 + 2 * 4


def test_a_model_without_call_is_refused_before_training():
    class Model(keras.Model):
        steps = 0

        def train_step(self, data):
            self.steps += 1
            return {}

    model = compiled(Model())
    with pytest.raises(ValueError, match="must have a `call`"):
        train(model, check(regression(ROWS)))
    assert not model.steps


def test_a_probe_with_fewer_examples_than_a_batch_is_refused():
    model = compiled(dense_network())
    with pytest.raises(ValueError, match="at least 8 examples.*got 5"):
        train(model, check(regression(5)))
    assert int(model.optimizer.iterations) == 0


def test_a_probe_that_is_no_data_is_refused():
    with pytest.raises(TypeError, match="must be data as fit takes"):
        train(compiled(dense_network()), check("x"))

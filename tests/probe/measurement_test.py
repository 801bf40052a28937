import math
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_svag.models.svag_model import SVAGModel
from keras_svag.noise.sampling import sampling_correction, sub_batch_indices
from keras_svag.probe import examples as examples_module
from keras_svag.probe.invariance import is_scale_invariant
from keras_svag.probe.measurement import measure_gradient_noise


def regression(n=60, features=5, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, features)).astype("float32")
    y = (x @ rng.normal(size=(features, 1)) + rng.normal(size=(n, 1))).astype(
        "float32"
    )
    return x, y


def linear_model(features=5, loss="mse", **kwargs):
    model = keras.Sequential(
        [keras.Input((features,)), keras.layers.Dense(1, use_bias=False)],
    )
    model.layers[0].set_weights([np.full((features, 1), 0.1, "float32")])
    model.compile("sgd", loss, **kwargs)
    return model


def example_gradients(x, y):
    """Of the squared error at weights of 0.1."""
    x, y = x.astype("float64"), y.astype("float64")
    return 2 * (x @ np.full((x.shape[1], 1), 0.1) - y) * x


def true_noise(x, y, batch_size):
    """G, and N for draws with replacement."""
    gradients = example_gradients(x, y)
    mean = gradients.mean(0)
    return mean @ mean, np.sum((gradients - mean) ** 2) / len(x) / batch_size


def network(seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((5,))
    x = keras.layers.Dense(
        8, activation="tanh", kernel_regularizer=keras.regularizers.L2(0.1)
    )(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(0.4)(x)
    return keras.Model(
        inputs,
        {
            "value": keras.layers.Dense(1, name="value")(x),
            "sign": keras.layers.Dense(2, name="sign")(x),
        },
    )


def compiled_network(seed=0):
    model = network(seed)
    model.compile(
        keras.optimizers.Adam(0.01),
        loss={
            "value": "mse",
            "sign": keras.losses.SparseCategoricalCrossentropy(True),
        },
        metrics={"sign": ["accuracy"]},
    )
    return model


def two_targets(y):
    return {"value": y, "sign": (y[:, 0] > 0).astype("int32")}


def state(model):
    variables = [
        *model.variables,
        *model.metrics_variables,
        *model.optimizer.variables,
    ]
    return [keras.ops.convert_to_numpy(v) for v in variables]


def assert_same(before, after):
    assert len(before) == len(after)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def measure(model, dataset, batch_size=8, num_batches=30, **kwargs):
    kwargs = {"seed": 0, "verbose": 0, **kwargs}
    return measure_gradient_noise(
        model, dataset, batch_size, num_batches, **kwargs
    )


def test_linear_regression_has_its_known_noise():
    x, y = regression()
    g, n = true_noise(x, y, 8)
    estimate = measure(linear_model(), (x, y), 8, 400)
    assert abs(estimate.grad_sq_norm - g) < 3.5 * estimate.grad_sq_norm_se
    assert abs(estimate.noise_trace - n) < 3.5 * estimate.noise_trace_se
    # The errors are small enough to tell N at 8 from N at 7 or 9.
    assert estimate.noise_trace_se < 0.05 * n
    low, high = estimate.interval()
    assert low < n / g < high < 1.5 * n / g
    assert estimate.noise_scale == 8 * estimate.noise_to_signal


@pytest.mark.parametrize(
    "sampling", ["with_replacement", "without_replacement", "shuffle"]
)
def test_estimate_is_that_over_all_pairs_of_the_drawn_batches(sampling):
    x, y = regression()
    estimate = measure(linear_model(), (x, y), 6, 10, sampling=sampling)
    batches = np.array(
        [
            example_gradients(x, y)[
                sub_batch_indices(sampling, 0, index, len(x), 6).numpy()
            ].mean(0)
            for index in range(10)
        ]
    )
    gram = batches @ batches.T
    g = (gram.sum() - np.trace(gram)) / 90
    corrected = np.array(sampling_correction(sampling, 60, 6, 6)) @ [
        g,
        np.trace(gram) / 10 - g,
    ]
    np.testing.assert_allclose(
        [estimate.grad_sq_norm, estimate.noise_trace], corrected, rtol=1e-5
    )
    assert estimate.corrected_for_sampling
    assert estimate.sampling == sampling


def test_agrees_with_the_pair_estimator():
    x, y = regression(n=300, seed=1)
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(16, activation="tanh"),
            keras.layers.Dense(1),
        ]
    )
    model.compile("sgd", "mse")
    probe = measure(model, (x, y), 16, 200)

    rows = np.random.default_rng(2).integers(300, size=400 * 16)
    pairs = SVAGModel(model, sampling="with_replacement")
    pairs.compile(keras.optimizers.SGD(0.0), "mse")
    pairs.fit(x[rows], y[rows], batch_size=16, shuffle=False, verbose=0)
    pair = pairs.gradient_noise.estimate()
    assert pair.count == 400
    for name in ("grad_sq_norm", "noise_trace"):
        error = math.hypot(
            getattr(probe, f"{name}_se"), getattr(pair, f"{name}_se")
        )
        assert abs(getattr(probe, name) - getattr(pair, name)) < 3.5 * error
        assert error < 0.2 * getattr(pair, name)
    # The wrapper is measured as the model in it.
    wrapped = measure(pairs, (x, y), 16, 200)
    assert wrapped.noise_to_signal == pytest.approx(probe.noise_to_signal)


def test_state_is_left_as_it_was_to_the_bit():
    x, y = regression()
    data = (x, two_targets(y))
    model = compiled_network()
    model.fit(*data, epochs=1, verbose=0)
    before, losses = state(model), len(model.losses)
    noise = measure(model, data, num_batches=5, per_layer=True)
    assert noise.count == 5
    assert_same(before, state(model))
    assert len(model.losses) == losses
    float(sum(model.losses))


def test_metrics_of_a_model_that_was_never_fed_stay_empty():
    x, y = regression()
    model = compiled_network()
    measure(model, (x, two_targets(y)), num_batches=2)
    assert any("value_loss" in m.name for m in model.metrics)
    assert all(not np.any(v.numpy()) for v in model.metrics_variables)


class AddingLoss(keras.layers.Layer):
    def call(self, inputs):
        self.add_loss(keras.ops.mean(keras.ops.square(inputs)))
        return inputs


def test_losses_that_layers_added_stay_and_count():
    x, y = regression()
    model = keras.Sequential([keras.Input((5,)), linear_model(), AddingLoss()])
    model.compile("sgd", "mse")
    model(x)
    losses = [float(loss) for loss in model.losses]
    estimate = measure(model, (x, y), 8, 400)
    assert [float(loss) for loss in model.losses] == losses
    # (p - y)² + p² has the gradient of 2 (p - y / 2)².
    gradients = 2 * example_gradients(x, y / 2)
    g = np.sum(gradients.mean(0) ** 2)
    assert abs(estimate.grad_sq_norm - g) < 3.5 * estimate.grad_sq_norm_se


def test_batch_normalization_is_in_training_mode():
    x, y = regression()
    model = batch_normalized_model()
    expected = measure(model, (x, y))
    model.layers[0].moving_mean.assign(np.full(5, 100.0))
    model.layers[0].moving_variance.assign(np.full(5, 1e4))
    assert measure(model, (x, y)) == expected


def test_training_goes_on_as_if_nothing_had_been_measured():
    x, y = regression()
    data = (x, two_targets(y))

    def train(probes):
        model = compiled_network()
        if probes:
            measure(model, data, num_batches=3, seed=None)
        for _ in range(2):
            model.fit(*data, verbose=0)
            if probes:
                measure(model, data, num_batches=3, seed=None)
        return state(model)

    assert_same(train(False), train(True))


class Interrupting(keras.layers.Layer):
    calls = 0

    def call(self, inputs):
        if inputs.shape[0] is not None:
            self.calls += 1
            if self.calls == 4:
                raise KeyboardInterrupt
        return inputs


def test_state_is_restored_when_interrupted():
    x, y = regression()
    inputs = keras.Input((5,))
    hidden = keras.layers.BatchNormalization()(inputs)
    hidden = keras.layers.Dropout(0.5)(hidden)
    interrupting = Interrupting()
    outputs = keras.layers.Dense(1)(interrupting(hidden))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse", run_eagerly=True)
    interrupting.calls = -1
    model.train_on_batch(x[:8], y[:8])
    interrupting.calls = 0
    before = state(model)
    with pytest.raises(KeyboardInterrupt):
        measure(model, (x, y))
    assert interrupting.calls == 4
    assert_same(before, state(model))


def test_global_random_states_are_left_alone():
    def draws(probes):
        keras.utils.set_random_seed(5)
        model = linear_model()
        if probes:
            measure(model, regression(), num_batches=3, seed=None)
            measure(
                model,
                tf.data.Dataset.from_tensor_slices(regression()),
                num_batches=3,
            )
        return (
            random.random(),
            np.random.random(),
            float(tf.random.normal(())),
            float(keras.random.normal(())),
        )

    assert draws(False) == draws(True)


class Noisy(keras.layers.Layer):
    def call(self, inputs):
        return inputs + keras.random.normal(keras.ops.shape(inputs))


def test_global_seed_of_keras_is_restored():
    keras.utils.set_random_seed(6)
    keras.random.normal(())
    model = keras.Sequential([keras.Input((5,)), Noisy(), linear_model()])
    model.compile("sgd", "mse")

    def next_draw(probes):
        keras.utils.set_random_seed(6)
        keras.random.normal(())
        if probes:
            measure(model, regression(), num_batches=3)
        return float(keras.random.normal(()))

    assert next_draw(False) == next_draw(True)


def test_is_traced_once():
    traces = []

    def loss(y_true, y_pred):
        traces.append(1)
        return keras.losses.mean_squared_error(y_true, y_pred)

    measure(linear_model(loss=loss), regression(), num_batches=20)
    assert len(traces) == 1


def test_layers_add_up_to_the_whole():
    x, y = regression()
    model = compiled_network()
    estimate = measure(model, (x, two_targets(y)), per_layer=True)
    layers = estimate.per_layer
    assert list(layers) == [v.path for v in model.trainable_weights]
    for name in ("grad_sq_norm", "noise_trace"):
        np.testing.assert_allclose(
            sum(getattr(layer, name) for layer in layers.values()),
            getattr(estimate, name),
        )
    assert all(layer.count == 30 for layer in layers.values())
    assert measure(model, (x, two_targets(y))).per_layer is None


def test_regularizer_is_part_of_the_loss():
    x, y = regression()
    model = linear_model()
    plain = measure(model, (x, y), num_batches=100)
    model.layers[0].kernel_regularizer = keras.regularizers.L2(10.0)
    model.layers[0].kernel.regularizer = keras.regularizers.L2(10.0)
    decayed = measure(model, (x, y), num_batches=100)
    rows = [
        sub_batch_indices("with_replacement", 0, i, 60, 8).numpy()
        for i in range(100)
    ]
    mean = np.mean([example_gradients(x, y)[r].mean(0) for r in rows], 0)
    # N is the same; the mean gradient moves by 2 * 10 * 0.1.
    np.testing.assert_allclose(
        decayed.noise_trace, plain.noise_trace, rtol=1e-4
    )
    np.testing.assert_allclose(
        decayed.grad_sq_norm - plain.grad_sq_norm,
        2 * 2.0 * mean.sum() + 5 * 2.0**2,
        rtol=1e-4,
    )


def test_given_loss_replaces_the_compiled_one():
    x, y = regression()
    compiled = measure(linear_model(), (x, y))
    uncompiled = keras.Sequential(linear_model().layers)
    assert not uncompiled.compiled
    assert measure(uncompiled, (x, y), loss="mse") == compiled
    assert measure(linear_model(loss="mae"), (x, y), loss="mse") == compiled


def test_sample_weights_count():
    x, y = regression()
    model = linear_model()
    double = measure(model, (x, y, np.full(60, 2.0)))
    single = measure(model, (x, y))
    np.testing.assert_allclose(double.noise_trace, 4 * single.noise_trace)


def test_mixed_float16_is_unscaled():
    x, y = regression()
    keras.utils.set_random_seed(7)
    policy = keras.mixed_precision.DTypePolicy("mixed_float16")
    models = []
    for dtype in (policy, "float32"):
        inputs = keras.Input((5,))
        hidden = keras.layers.Dense(8, "tanh", dtype=dtype)(inputs)
        outputs = keras.layers.Dense(1, dtype=dtype)(hidden)
        models.append(keras.Model(inputs, outputs))
    mixed, single = models
    mixed.compile(
        keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(), initial_scale=2.0**10
        ),
        "mse",
    )
    single.compile("sgd", "mse")
    single.set_weights(mixed.get_weights())
    measured, expected = measure(mixed, (x, y)), measure(single, (x, y))
    np.testing.assert_allclose(
        [measured.grad_sq_norm, measured.noise_trace],
        [expected.grad_sq_norm, expected.noise_trace],
        rtol=0.02,
    )


def test_batches_that_are_not_finite_are_left_out_and_counted():
    x, y = regression()
    y[7] = np.inf
    estimate = measure(linear_model(), (x, y))
    hit = sum(
        7 in sub_batch_indices("with_replacement", 0, i, 60, 8).numpy()
        for i in range(30)
    )
    assert 0 < hit < 30
    assert (estimate.num_skipped, estimate.count) == (hit, 30 - hit)
    assert math.isfinite(estimate.noise_to_signal)
    assert estimate.num_examples_used == 240
    nothing = measure(linear_model(), (x, np.full_like(y, np.inf)))
    assert (nothing.num_skipped, nothing.count) == (30, 0)
    assert "not measured" in nothing.describe()


def test_stops_at_the_relative_error_asked_for():
    x, y = regression()
    model = linear_model()
    estimate = measure(model, (x, y), num_batches=500, rtol=0.07)
    assert 20 < estimate.count < 400
    assert estimate.num_examples_used == 8 * estimate.count
    error = estimate.noise_to_signal_se / estimate.noise_to_signal
    assert error <= 0.07
    one_less = measure(model, (x, y), num_batches=estimate.count - 1)
    assert one_less.noise_to_signal_se / one_less.noise_to_signal > 0.07
    assert measure(model, (x, y), num_batches=9, rtol=9.0).count == 9


def test_says_what_it_took(capsys):
    measure(linear_model(), regression(), verbose=2)
    printed = capsys.readouterr().out
    assert "30/30" in printed
    assert "at batch size 8, from 240 examples" in printed
    measure(linear_model(), regression(), verbose=0)
    assert capsys.readouterr().out == ""


def test_zero_gradients_are_said_in_words():
    x, _ = regression()
    model = linear_model()
    estimate = measure(model, (x, model(x).numpy()))
    assert (estimate.grad_sq_norm, estimate.noise_trace) == (0, 0)
    assert math.isnan(estimate.noise_to_signal)
    assert "exactly zero" in estimate.describe()


def test_two_batches_give_means_without_errors():
    estimate = measure(linear_model(), regression(), num_batches=2)
    assert estimate.count == 2
    assert math.isnan(estimate.grad_sq_norm_se)
    assert estimate.interval() == (0.0, math.inf)


class Batches(keras.utils.PyDataset):
    def __init__(self, *data, size=7):
        super().__init__()
        self.data = data
        self.size = size

    @property
    def num_batches(self):
        return -(-len(self.data[0]) // self.size)

    def __getitem__(self, index):
        rows = slice(index * self.size, (index + 1) * self.size)
        return tuple(part[rows] for part in self.data)


def examples(x, y):
    return tf.data.Dataset.from_tensor_slices((x, y))


AS_FIT_TAKES_THEM = {
    "list": lambda x, y: [x, y],
    "examples": examples,
    "batches": lambda x, y: examples(x, y).batch(7).prefetch(2),
    "remainder dropped": lambda x, y: examples(x, y).batch(6, True),
    "of unknown size": lambda x, y: (
        examples(x, y).filter(lambda x, y: True).batch(7)
    ),
    "PyDataset": Batches,
    "generator": lambda x, y: (
        lambda: (batch for batch in Batches(x, y))
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "sampling", ["with_replacement", "without_replacement", "shuffle"]
)
def test_what_fit_takes_gives_the_estimate_of_the_arrays(sampling):
    data = regression()
    model = linear_model()
    options = {"num_batches": 6, "sampling": sampling, "per_layer": True}
    expected = measure(model, data, **options)
    for name, kind in AS_FIT_TAKES_THEM.items():
        dataset = kind(*data)
        if name not in ("examples", "generator", "list"):
            model.fit(dataset, verbose=0)
            model.layers[0].set_weights([np.full((5, 1), 0.1, "float32")])
        assert measure(model, dataset, **options) == expected, name


def test_what_shuffles_anew_is_drawn_from_without_bias():
    x, y = regression()
    g, n = true_noise(x, y, 8)
    keras.utils.set_random_seed(2)
    dataset = examples(x, y).shuffle(60).batch(7)
    estimate = measure(linear_model(), dataset, 8, 400)
    assert abs(estimate.grad_sq_norm - g) < 3.5 * estimate.grad_sq_norm_se
    assert abs(estimate.noise_trace - n) < 3.5 * estimate.noise_trace_se


def test_examples_of_a_batch_are_distinct_in_what_shuffles_anew(monkeypatch):
    monkeypatch.setattr(examples_module, "_BYTES_PER_PASS", 1)
    drawn = []

    def loss(y, prediction):
        drawn.append(np.sort(np.ravel(y)))
        return keras.losses.mean_squared_error(y, prediction)

    x, _ = regression()
    y = np.arange(60.0, dtype="float32")
    model = linear_model(loss=loss, run_eagerly=True)
    dataset = examples(x, y).shuffle(60).batch(7)
    measure(model, dataset, 50, 3, sampling="without_replacement")
    assert len(drawn) == 3
    assert all(len(np.unique(rows)) == 50 for rows in drawn)
    assert any((rows != drawn[0]).any() for rows in drawn)


class LossWithoutTargets(keras.Model):
    """The loss of the linear model, of inputs and targets side by side."""

    def __init__(self, adds_loss):
        super().__init__()
        self.linear = keras.layers.Dense(1, use_bias=False)
        self.adds_loss = adds_loss

    def error(self, x):
        x, y = x[:, :5], x[:, 5:]
        return keras.ops.mean(keras.ops.square(self.linear(x) - y))

    def call(self, x):
        if self.adds_loss:
            self.add_loss(self.error(x))
        return self.linear(x[:, :5])

    def compute_loss(self, x=None, *args, **kwargs):
        if self.adds_loss:
            return super().compute_loss(x, *args, **kwargs)
        return self.error(x)


@pytest.mark.parametrize("adds_loss", [True, False])
def test_inputs_alone_suffice_where_the_loss_needs_no_targets(adds_loss):
    x, y = regression()
    both = np.concatenate([x, y], -1)
    expected = measure(linear_model(), (x, y))
    model = LossWithoutTargets(adds_loss)
    model.compile("sgd", None if adds_loss else "mse")
    model(both)
    model.linear.set_weights([np.full((5, 1), 0.1, "float32")])
    slices = tf.data.Dataset.from_tensor_slices(both)
    model.optimizer.learning_rate = 0.0
    model.fit(slices.batch(7), verbose=0)
    for dataset in (both, (both,), slices.batch(7), Batches(both)):
        estimate = measure(model, dataset)
        np.testing.assert_allclose(
            [estimate.grad_sq_norm, estimate.noise_trace],
            [expected.grad_sq_norm, expected.noise_trace],
            rtol=1e-6,
        )


def test_several_inputs_go_by_their_names():
    x, y = regression()
    inputs = {
        name: keras.Input((size,), name=name)
        for name, size in (("b", 2), ("a", 3))
    }
    both = keras.layers.Concatenate()([inputs["b"], inputs["a"]])
    outputs = keras.layers.Dense(1, use_bias=False)(both)
    model = keras.Model(inputs, outputs)
    model.layers[-1].set_weights([np.full((5, 1), 0.1, "float32")])
    model.compile("sgd", "mse")
    expected = measure(linear_model(), (x, y))
    named = {"b": x[:, :2], "a": x[:, 2:]}
    for dataset in (
        (named, y),
        examples(named, y),
        examples(named, y).batch(7),
    ):
        estimate = measure(model, dataset)
        np.testing.assert_allclose(
            estimate.noise_trace, expected.noise_trace, rtol=1e-6
        )


def test_says_that_it_counts(capsys):
    dataset = examples(*regression()).batch(7)
    measure(linear_model(), dataset, verbose=2)
    assert "Counting the examples" in capsys.readouterr().out
    measure(linear_model(), dataset.unbatch().take(-1), verbose=0)
    measure(linear_model(), regression(), verbose=2)
    assert "Counting" not in capsys.readouterr().out


class Adversarial(keras.Model):
    """Of the form of Keras's example of a GAN."""

    def __init__(self):
        super().__init__()
        self.generator = linear_model()

    def train_step(self, data):
        return {"loss": keras.ops.mean(self.generator(data))}


def frozen_model():
    model = linear_model()
    model.trainable = False
    return model


def batch_normalized_model():
    model = keras.Sequential(
        [keras.Input((5,)), keras.layers.BatchNormalization(), linear_model()]
    )
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"batch_size": 61}, "at least 61 examples"),
        ({"sampling": "shuffle"}, "at least 240 examples"),
        ({"model": linear_model(loss=None)}, "No loss"),
        ({"dataset": regression()[0]}, "must have targets y"),
        (
            {
                "dataset": regression()[0],
                "model": linear_model(loss=None),
                "loss": "mse",
            },
            "must have targets y",
        ),
        ({"model": frozen_model()}, "no trainable weights"),
        (
            {"model": batch_normalized_model(), "batch_size": 1},
            "at least 2 for a model with BatchNormalization",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, sentence):
    arguments = {"model": linear_model(), "dataset": regression(), **arguments}
    with pytest.raises(ValueError, match=sentence) as raised:
        measure(**arguments)
    assert "\n" not in str(raised.value)


def test_a_model_without_call_is_told_what_can_be_done():
    x, y = regression()
    model = Adversarial()
    model.compile("sgd", "mse")
    for call in (
        lambda: measure(model, (x, y)),
        lambda: is_scale_invariant(model, x),
    ):
        with pytest.raises(ValueError, match="must have a `call`") as raised:
            call()
        assert "Adversarial" in str(raised.value)
        assert "\n" not in str(raised.value)
    assert measure(model.generator, (x, y)) == measure(linear_model(), (x, y))

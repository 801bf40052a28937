"""Scripts that train, look at, save and load a model, before and after it is
wrapped: the wrapper is the model it wraps."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_svag import SVAG, NGDModel, SVAGModel
from keras_svag.models.batches import num_examples
from keras_svag.models.preprocessing import preprocessed_fit
from tests.helpers.noise_keys import NOISE, noise_keys
from tests.helpers.small_problems import classification, regression

X, Y = classification(64)


def network(dtype=None):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((X.shape[1],)),
            keras.layers.Dense(6, "relu", name="hidden", dtype=dtype),
            keras.layers.Dense(3, name="logits", dtype=dtype),
        ]
    )


def compiled(model, optimizer="adam", **kwargs):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    arguments = {"loss": loss, "metrics": ["accuracy"], **kwargs}
    model.compile(optimizer, **arguments)
    return model


def fit(model, **kwargs):
    kwargs = {"batch_size": 16, "verbose": 0, "shuffle": False, **kwargs}
    return model.fit(X, Y, **kwargs).history


def assert_same_weights(one, other, atol=1e-6):
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol)


def assert_same_logs(wrapped, plain):
    for key, values in plain.items():
        np.testing.assert_allclose(wrapped[key], values, rtol=1e-5, atol=1e-6)


def two_towers():
    keras.utils.set_random_seed(0)
    x = keras.Input((X.shape[1],), name="x")
    hidden = keras.layers.Dense(6, "tanh")(x)
    outputs = {
        "label": keras.layers.Dense(3, name="label")(hidden),
        "size": keras.layers.Dense(1, name="size")(hidden),
    }
    return keras.Model(x, outputs)


COMPILATIONS = {
    "metric objects": lambda: {
        "metrics": [keras.metrics.SparseCategoricalAccuracy("own")],
        "weighted_metrics": [
            keras.metrics.SparseCategoricalCrossentropy(
                "weighted", from_logits=True
            )
        ],
    },
    "eager": lambda: {"run_eagerly": True},
    "XLA": lambda: {"jit_compile": True},
    "two steps a call": lambda: {"steps_per_execution": 2},
    "schedule": lambda: {
        "optimizer": keras.optimizers.SGD(
            keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
        ),
    },
}


@pytest.mark.parametrize("name", COMPILATIONS)
def test_wrapping_a_compiled_model_is_the_only_new_line(name):
    weights = np.linspace(0.5, 1.5, len(X)).astype("float32")
    histories, models = [], []
    for wrap in (lambda model: model, SVAGModel):
        plain = compiled(network(), **COMPILATIONS[name]())
        model = wrap(plain)
        history = fit(
            model,
            sample_weight=weights,
            epochs=2,
            validation_data=(X, Y, weights),
        )
        histories.append(history)
        models.append(model)
        for key in (
            "optimizer",
            "run_eagerly",
            "jit_compile",
            "steps_per_execution",
        ):
            assert getattr(model, key) is getattr(plain, key)
    added = noise_keys(models[1].optimizer)
    assert set(histories[1]) - set(histories[0]) == added
    assert_same_logs(histories[1], histories[0])
    assert_same_weights(*models)


def test_losses_of_several_outputs_and_their_weights_are_kept():
    y = {"label": Y, "size": X[:, :1]}
    histories, models = [], []
    for wrap in (lambda model: model, SVAGModel):
        model = two_towers()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(
            "sgd",
            {"label": loss, "size": "mse"},
            loss_weights={"label": 1.0, "size": 0.1},
            metrics={"label": "accuracy"},
        )
        model = wrap(model)
        history = model.fit(X, y, batch_size=16, shuffle=False, verbose=0)
        histories.append(history.history)
        models.append(model)
    assert "label_accuracy" in histories[1] and "size_loss" in histories[1]
    assert_same_logs(histories[1], histories[0])
    assert_same_weights(*models)


def test_training_goes_on_where_the_plain_model_stopped():
    models = [compiled(network()) for _ in range(2)]
    for model in models:
        fit(model, epochs=2)
    wrapped = SVAGModel(models[1])
    # Adam's moments and its count of steps are not made anew.
    assert int(wrapped.optimizer.iterations) == 8
    assert_same_logs(fit(wrapped), fit(models[0]))
    assert_same_weights(wrapped, models[0])
    # And back: the script may go on with the plain model.
    fit(models[0])
    fit(wrapped.model)
    assert_same_weights(wrapped, models[0])


def test_metric_objects_count_every_example_once():
    metric = keras.metrics.SparseCategoricalAccuracy("own")
    wrapped = SVAGModel(compiled(network(), metrics=[metric]))
    fit(wrapped)
    assert float(metric.count) == len(X)
    names = [m.name for m in wrapped.metrics]
    assert len(names) == len(set(names)) and "loss" in names
    wrapped.evaluate(X, Y, batch_size=16, verbose=0)
    assert float(metric.count) == len(X)


def test_compiling_anew_replaces_the_compilation():
    model = compiled(network(), "sgd")
    wrapped = SVAGModel(model)
    fit(wrapped)
    compiled(wrapped, keras.optimizers.Adam(0.01))
    fit(wrapped)
    assert isinstance(wrapped.optimizer, keras.optimizers.Adam)
    assert int(wrapped.optimizer.iterations) == 4
    assert model.optimizer is wrapped.optimizer


@pytest.mark.parametrize("auto_scale_loss", [True, False])
def test_loss_scale_of_float16_is_kept(auto_scale_loss):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = compiled(network(), "sgd", auto_scale_loss=auto_scale_loss)
    finally:
        keras.config.set_dtype_policy("float32")
    wrapped = SVAGModel(model)
    scaled = keras.optimizers.LossScaleOptimizer
    assert isinstance(wrapped.optimizer, scaled) == auto_scale_loss
    assert np.isfinite(fit(wrapped)["loss"][0])


def test_model_compiled_with_svag_pairs_within_the_step():
    one = SVAGModel(compiled(network(), SVAG(0.1, ell=3)))
    other = compiled(SVAGModel(network()), SVAG(0.1, ell=3))
    assert_same_logs(fit(one), fit(other))
    assert_same_weights(one, other, atol=0)


def test_model_that_svag_trains_already_is_refused():
    model = compiled(network(), SVAG(0.1, ell=3))
    fit(model)
    with pytest.raises(ValueError, match="already trains a plain model"):
        SVAGModel(model)


def test_model_compiled_with_a_sum_is_refused():
    loss = keras.losses.MeanSquaredError(reduction="sum")
    with pytest.raises(ValueError, match="`loss` must be a mean"):
        SVAGModel(compiled(network(), "sgd", loss=loss, metrics=None))


def test_ngd_model_keeps_the_compilation():
    model = compiled(network(), "sgd")
    wrapped = NGDModel(model, batch_size=16, micro_batch_size=32)
    assert fit(wrapped, batch_size=len(X))["accuracy"]
    assert wrapped.optimizer is model.optimizer


def test_layers_are_those_of_the_model():
    x = keras.Input((X.shape[1],))
    hidden = keras.layers.Dense(6, name="hidden")(x)
    model = compiled(keras.Model(x, keras.layers.Dense(3)(hidden)))
    wrapped = SVAGModel(model)
    assert wrapped.get_layer("hidden") is model.get_layer("hidden")
    assert wrapped.get_layer(index=1) is model.layers[1]
    assert wrapped.layers == model.layers
    for name in ("input", "output", "inputs", "outputs"):
        assert getattr(wrapped, name) == getattr(model, name)
    assert wrapped.input_shape == model.input_shape
    features = keras.Model(wrapped.input, wrapped.get_layer("hidden").output)
    assert features.predict(X, verbose=0).shape == (len(X), 6)
    wrapped.layers[1].trainable = False
    assert len(wrapped.trainable_variables) == 2


def test_summary_is_that_of_the_model(capsys):
    def lines(model):
        text = []
        model.summary(print_fn=text.append)
        return text

    model = compiled(network())
    assert lines(SVAGModel(model)) == lines(model)


def test_attributes_and_methods_are_those_of_the_model():
    class Autoencoder(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.encoder = keras.layers.Dense(2)
            self.decoder = keras.layers.Dense(X.shape[1])

        def call(self, inputs):
            return self.decoder(self.encoder(inputs))

        def encode(self, inputs):
            return self.encoder(inputs)

    model = Autoencoder()
    model.compile("sgd", "mse")
    wrapped = SVAGModel(model)
    wrapped.fit(X, X, batch_size=16, verbose=0)
    assert wrapped.encode(X).shape == (len(X), 2)
    assert wrapped.encoder is model.encoder
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        wrapped.nothing  # noqa: B018


@pytest.mark.parametrize("trained", [False, True])
def test_export_serves_what_the_model_predicts(tmp_path, trained):
    wrapped = SVAGModel(compiled(network()))
    if trained:
        fit(wrapped)
    wrapped.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(
        served.serve(X), wrapped.predict(X, verbose=0), rtol=1e-5, atol=1e-6
    )


def test_weights_files_serve_the_model_and_the_wrapper(tmp_path):
    """Also the optimizer's state, which Keras writes into them."""
    path = tmp_path / "best.weights.h5"
    wrapped = SVAGModel(compiled(network()))
    fit(
        wrapped,
        callbacks=[
            keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
        ],
    )
    plain = compiled(network())
    fit(plain)
    plain.load_weights(path)
    assert_same_weights(plain, wrapped, atol=0)
    again = SVAGModel(compiled(network()))
    again.optimizer.build(again.trainable_variables)
    plain.save_weights(path)
    again.load_weights(path)
    assert_same_weights(again, wrapped, atol=0)
    for model in (plain, again, wrapped):
        fit(model)
        assert int(model.optimizer.iterations) == 8
    assert_same_weights(plain, wrapped)
    assert_same_weights(again, wrapped, atol=0)


def test_model_files_are_loaded_as_weights_too(tmp_path):
    wrapped = SVAGModel(compiled(network()))
    fit(wrapped)
    for model in (wrapped, wrapped.model):
        model.save(tmp_path / "model.keras")
        again = SVAGModel(compiled(network()))
        again.load_weights(tmp_path / "model.keras")
        assert_same_weights(again, wrapped, atol=0)


@pytest.mark.parametrize("make", [lambda: "adam", lambda: SVAG(0.1, ell=3)])
def test_saved_model_trains_on_as_the_one_that_was_not(tmp_path, make):
    wrapped = SVAGModel(compiled(network(), make(), weighted_metrics=[]))
    fit(wrapped)
    wrapped.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.model.optimizer is loaded.optimizer
    np.testing.assert_array_equal(
        loaded.optimizer.iterations, wrapped.optimizer.iterations
    )
    assert fit(loaded) == fit(wrapped)
    assert_same_weights(loaded, wrapped, atol=0)


class Interrupted(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize("wrap", [lambda model: model, SVAGModel])
def test_backup_goes_on_with_the_optimizers_state(tmp_path, wrap):
    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    model = wrap(compiled(network(), keras.optimizers.Adam(0.05)))
    with pytest.raises(KeyboardInterrupt):
        fit(model, epochs=4, callbacks=[backup(), Interrupted()])
    resumed = wrap(compiled(network(), keras.optimizers.Adam(0.05)))
    fit(resumed, epochs=4, callbacks=[backup()])
    in_peace = wrap(compiled(network(), keras.optimizers.Adam(0.05)))
    fit(in_peace, epochs=4)
    assert_same_weights(resumed, in_peace, atol=0)


def test_callbacks_that_set_the_model_work():
    def callbacks():
        return [
            keras.callbacks.EarlyStopping(
                "val_loss", patience=2, restore_best_weights=True
            ),
            keras.callbacks.ReduceLROnPlateau("val_loss", patience=1),
        ]

    models, histories = [], []
    for wrap in (lambda model: model, SVAGModel):
        model = wrap(compiled(network(), keras.optimizers.SGD(3.0)))
        histories.append(
            fit(
                model,
                epochs=8,
                validation_data=(X[::-1], Y),
                callbacks=callbacks(),
            )
        )
        models.append(model)
    plain, wrapped = histories
    assert len(plain["loss"]) < 8 and plain["learning_rate"][-1] < 3
    assert len(wrapped["loss"]) == len(plain["loss"])
    assert_same_logs(wrapped, plain)
    assert_same_weights(*models)
    assert models[1].stop_training and not SVAGModel(network()).stop_training


def test_float64_model_trains_in_float64():
    models = []
    for wrap in (lambda model: model, SVAGModel):
        model = wrap(compiled(network("float64")))
        fit(model)
        models.append(model)
    assert models[1].weights[0].dtype == "float64"
    for one, other in zip(*(m.get_weights() for m in models), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


def test_float64_everywhere_trains_in_float64():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        x, y = regression(32)
        models = []
        for wrap in (lambda model: model, SVAGModel):
            keras.utils.set_random_seed(0)
            model = keras.Sequential(
                [keras.Input(x.shape[1:]), keras.layers.Dense(y.shape[1])]
            )
            model.compile("adam", "mse")
            model = wrap(model)
            history = model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
            models.append(model)
        assert history.history["noise_trace"][0] > 0
        for one, other in zip(*(m.get_weights() for m in models), strict=True):
            assert one.dtype == "float64"
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")


def test_optimizers_for_groups_of_layers():
    def optimizer():
        return keras.optimizers.MultiOptimizer(
            keras.optimizers.OptimizerMap(
                keras.optimizers.SGD(0.1),
                {".*hidden.*": keras.optimizers.Adam(0.01)},
            )
        )

    models = []
    for wrap in (lambda model: model, SVAGModel):
        model = wrap(compiled(network(), optimizer()))
        fit(model)
        models.append(model)
    assert_same_weights(*models)


class OwnSteps(keras.Sequential):
    """Steps of evaluation and prediction of its own, and one more metric."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.margin = keras.metrics.Mean("margin")

    def test_step(self, data):
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        y_pred = self(x, training=False)
        loss = self.compute_loss(x, y, y_pred, weights)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(2 * loss)
        self.margin.update_state(tf.reduce_max(y_pred, 1))
        return self.compute_metrics(x, y, y_pred, weights)

    def predict_step(self, data):
        return tf.argmax(super().predict_step(data), axis=1)


class OwnMetrics(OwnSteps):
    test_step = keras.Model.test_step

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        self.margin.update_state(tf.reduce_max(y_pred, 1))
        return super().compute_metrics(x, y, y_pred, sample_weight)


@pytest.mark.parametrize("model_type", [OwnSteps, OwnMetrics])
def test_steps_of_the_models_own_are_taken(model_type):
    histories, scores, labels = [], [], []
    for wrap in (lambda model: model, SVAGModel):
        keras.utils.set_random_seed(0)
        inner = model_type([keras.Input((X.shape[1],)), keras.layers.Dense(3)])
        model = wrap(compiled(inner, "sgd"))
        histories.append(fit(model, validation_data=(X, Y), epochs=2))
        scores.append(model.evaluate(X, Y, verbose=0, return_dict=True))
        labels.append(model.predict(X, verbose=0))
    assert set(histories[1]) - set(histories[0]) == NOISE
    for key in histories[0]:
        np.testing.assert_allclose(
            histories[1][key], histories[0][key], rtol=1e-5
        )
    assert scores[1] == pytest.approx(scores[0], rel=1e-5)
    assert scores[1]["margin"] != 0
    np.testing.assert_array_equal(labels[1], labels[0])


class OwnCompile(keras.Sequential):
    def compile(self, learning_rate=0.1, smoothing=0.1, **kwargs):
        loss = keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=smoothing
        )
        super().compile(keras.optimizers.SGD(learning_rate), loss, **kwargs)


def test_compile_of_the_models_own_is_called():
    y = keras.utils.to_categorical(Y, 3)
    models = []
    for wrap in (lambda model: model, SVAGModel):
        keras.utils.set_random_seed(0)
        model = wrap(
            OwnCompile([keras.Input((X.shape[1],)), keras.layers.Dense(3)])
        )
        model.compile(smoothing=0.3)
        model.fit(X, y, batch_size=16, shuffle=False, verbose=0)
        models.append(model)
    assert_same_weights(*models)


def test_train_step_of_the_models_own_is_refused_and_told_of_the_probe():
    class OwnTrainStep(keras.Sequential):
        def train_step(self, data):
            return {}

    with pytest.raises(ValueError) as error:
        SVAGModel(OwnTrainStep())
    message = str(error.value)
    assert "`train_step`" in message
    assert "keras_svag.measure_gradient_noise" in message
    assert "ScalingRuleCheck(probe=" in message


class Task(keras.Sequential):
    """Preprocesses in methods of its own, as the models of KerasHub do."""

    def preprocess_samples(self, x, y=None, sample_weight=None):
        # Where TensorFlow selects rows, it forgets how many there were.
        x = tf.boolean_mask(2 * x, tf.ones_like(x[:, 0]) > 0)
        return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)

    def evaluate(self, x, y=None, **kwargs):
        if not kwargs.get("_use_cached_eval_dataset"):
            x = 2 * x
        return super().evaluate(x, y, **kwargs)

    def predict(self, x, **kwargs):
        return super().predict(2 * x, **kwargs)

    def test_on_batch(self, x, *args, **kwargs):
        return super().test_on_batch(2 * x, *args, **kwargs)

    def predict_on_batch(self, x):
        return super().predict_on_batch(2 * x)


def task(kind=Task):
    keras.utils.set_random_seed(0)
    return compiled(kind([keras.Input(X.shape[1:]), keras.layers.Dense(3)]))


def batches(x, y, size=16, **kwargs):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(size, **kwargs)


WEIGHTS = np.linspace(0.5, 1.5, len(X)).astype("float32")


@pytest.mark.parametrize(
    "arguments",
    [
        lambda x: {
            "x": x,
            "y": Y,
            "batch_size": 15,
            "sample_weight": WEIGHTS,
            "validation_split": 0.25,
        },
        lambda x: {"x": batches(x, Y), "validation_data": (x[:9], Y[:9])},
    ],
    ids=["arrays", "data set"],
)
def test_model_that_preprocesses_in_fit_trains_on_raw_data(arguments):
    wrapped, plain = SVAGModel(task()), task(keras.Sequential)
    raw = wrapped.fit(**arguments(X), epochs=2, verbose=0)
    doubled = plain.fit(**arguments(2 * X), epochs=2, verbose=0, shuffle=False)
    assert_same_weights(wrapped, plain)
    assert_same_logs(raw.history, doubled.history)
    assert "val_loss" in raw.history


def test_raw_data_reach_every_method_of_a_model_that_preprocesses():
    wrapped, plain = SVAGModel(task()), task(keras.Sequential)
    for name in ("train_on_batch", "test_on_batch", "evaluate"):
        ours, theirs = (getattr(model, name) for model in (wrapped, plain))
        kwargs = {"verbose": 0} if name == "evaluate" else {}
        np.testing.assert_allclose(
            ours(X, Y, **kwargs)[:2], theirs(2 * X, Y, **kwargs), rtol=1e-5
        )
        wrapped.reset_metrics()
        plain.reset_metrics()
    for name in ("predict", "predict_on_batch"):
        np.testing.assert_allclose(
            getattr(wrapped, name)(X),
            getattr(plain, name)(2 * X),
            rtol=1e-4,
            atol=1e-6,
        )


@pytest.mark.parametrize(
    ("arguments", "rows"),
    [
        ({"x": X, "batch_size": 16}, 16),
        ({"x": X, "batch_size": 15}, None),
        ({"x": batches(X, Y, 15, drop_remainder=True)}, 15),
    ],
)
def test_preprocessed_batches_keep_their_static_rows(arguments, rows):
    data = preprocessed_fit(task(), **arguments)["x"]
    assert tf.nest.flatten(data.element_spec)[0].shape == (rows, X.shape[1])


def test_list_of_strings_does_not_say_how_many_examples_it_has():
    # What `list` makes of an array of strings has a shape, of rank 0.
    assert num_examples(list(np.array(["good", "bad"]))) is None


def test_wrapping_outside_the_models_strategy_is_refused():
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    with strategy.scope():
        model = compiled(network())
    with pytest.raises(ValueError, match="strategy.scope"):
        SVAGModel(model)
    with strategy.scope():
        wrapped = SVAGModel(model)
    assert fit(wrapped)["noise_trace"]

"""What the monitor observes, against closed forms in NumPy's float64."""

import functools
import itertools
import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from keras.optimizers import SGD

from keras_svag import SVAG, GradientNoiseMonitor, ScalingRuleCheck, SVAGModel
from keras_svag.reporting.report import LOG_KEYS
from tests.helpers import public_models as models
from tests.helpers.pairs import observation
from tests.helpers.refusals import check_sentence
from tests.helpers.small_problems import dense_network, regression

# An epoch has 5 batches of 8 rows, and one of 3 with halves of 2 and of 1.
ROWS, BATCH_SIZE, STEPS = 43, 8, 6
RATE = 0.1
START = np.array([0.5, -0.3, 0.2])
X, Y = regression(ROWS, num_inputs=3, num_outputs=1)
SAMPLE_WEIGHTS = np.random.default_rng(1).uniform(0, 2, ROWS)
MOMENTS = ("grad_sq_norm", "example_noise")
NORM = tuple(f"preconditioned_{name}" for name in MOMENTS)


def gradient(w, rows, x=X, weights=None, l2=0.0):
    """That of a linear model's mean squared error with a penalty."""
    errors = x[rows] @ w - Y[rows, 0]
    if weights is not None:
        errors = errors * weights[rows]
    return 2 * errors @ x[rows] / len(errors) + 2 * l2 * w


def batches(epochs):
    """Every batch of `fit`: all its rows, and the rows of its halves."""
    for begin in [*range(0, ROWS, BATCH_SIZE)] * epochs:
        end = min(begin + BATCH_SIZE, ROWS)
        yield (
            np.arange(begin, end),
            slice(begin, end, 2),
            slice(begin + 1, end, 2),
        )


def by_hand(epochs, accumulated=1, **loss):
    """`(G, S, |w|²)` before each step of SGD."""
    w, expected, gradients = START, [], []
    for rows, *halves in batches(epochs):
        pair = (gradient(w, half, **loss) for half in halves)
        expected.append((*observation(pair, len(rows)), w @ w))
        gradients.append(gradient(w, rows, **loss))
        if len(gradients) == accumulated:
            w = w - RATE * np.mean(gradients, axis=0)
            gradients = []
    return np.array(expected)


class Adversary(keras.Sequential):
    """Has a loss and an optimizer that it was not compiled with."""

    def compile(self, optimizer, loss, **arguments):
        self.own = optimizer
        super().compile(**arguments)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = ops.mean(ops.square(self(x) - y))
        weights = self.trainable_variables
        self.own.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}


def linear_model(
    optimizer=None, loss="mse", make=keras.Sequential, l2=0.0, dtype=None, **way
):
    penalty = keras.regularizers.L2(l2) if l2 else None
    dense = keras.layers.Dense(
        1, use_bias=False, dtype=dtype, kernel_regularizer=penalty
    )
    model = make([keras.Input((3,)), dense])
    dense.kernel.assign(START[:, None])
    model.compile(optimizer or SGD(RATE), loss, **way)
    return model


eager = functools.partial(linear_model, run_eagerly=True)


def fit(model, *callbacks, x=X, y=Y, batch_size=BATCH_SIZE, **arguments):
    arguments = {"epochs": 2, "shuffle": False, "verbose": 0} | arguments
    return model.fit(
        x, y, batch_size, callbacks=list(callbacks), **arguments
    ).history


def observed(monitor, *columns):
    return np.stack([monitor.series[name] for name in columns], axis=1)


def steps_of(monitor):
    return monitor.series["step"].astype(int)


SCALED = keras.optimizers.LossScaleOptimizer(SGD(RATE), initial_scale=1024.0)


@pytest.mark.parametrize(
    "network",
    [
        {},
        {"weighted": True},
        {"run_eagerly": True},
        pytest.param({"jit_compile": True}, marks=pytest.mark.slow),
        {"steps_per_execution": 4},
        {"optimizer": SGD(RATE, gradient_accumulation_steps=4)},
        {"optimizer": SCALED, "dtype": "mixed_float16"},
        {"l2": 0.05},
        {"make": Adversary},
    ],
)
def test_observations_are_of_the_halves_before_the_step(network):
    network = dict(network)
    weights = SAMPLE_WEIGHTS if network.pop("weighted", False) else None
    model = linear_model(**network)
    is_own = "make" in network
    monitor = GradientNoiseMonitor(every=1, loss="mse" if is_own else None)
    fit(model, monitor, epochs=3, sample_weight=weights)
    steps = steps_of(monitor)
    accumulated = model.optimizer.gradient_accumulation_steps or 1
    loss = {"weights": weights, "l2": network.get("l2", 0.0)}
    expected = by_hand(3, accumulated, **loss)[steps - 1]
    actual = observed(monitor, *MOMENTS, "weight_sq_norm")
    scale = np.abs(expected).max(axis=0)
    error = 1e-2 if "dtype" in network else 1e-5
    np.testing.assert_allclose(actual / scale, expected / scale, 0, error)
    # The first call of a train function is left to it, which traces it.
    assert len(steps) == (5 if "steps_per_execution" in network else 17)
    assert monitor.batch_size == accumulated * BATCH_SIZE
    epochs, places = np.divmod(steps - 1, STEPS)
    rows = np.where(places == STEPS - 1, 3, BATCH_SIZE)
    np.testing.assert_array_equal(monitor.series["rows"], rows)
    np.testing.assert_array_equal(monitor.series["epoch"], epochs + 1)
    done = np.floor(monitor.series["iteration"])
    expected = 0 if is_own else (steps - 1) // accumulated
    np.testing.assert_array_equal(done, expected)


ORDERS = itertools.permutations(range(4))


@pytest.mark.parametrize(
    ("drawn", "num_examples"),
    [
        ([*itertools.product(range(4), repeat=2)], None),
        ([*itertools.product(range(4), repeat=3)], None),
        ([half for order in ORDERS for half in (order[:2], order[2:])], 4),
    ],
    ids=["all pairs", "all triples", "all permutations"],
)
def test_moments_are_exact_over_all_that_can_be_drawn(drawn, num_examples):
    """At fixed weights, against G and S of a data set of four rows."""
    monitor = GradientNoiseMonitor(every=1, num_examples=num_examples)
    # The first batch is not measured.
    data = ((X[list(b)], Y[list(b)]) for b in [drawn[0], *drawn])
    linear_model(SGD(0.0)).fit(data, callbacks=[monitor], verbose=0)
    assert len(monitor.series) == len(drawn)
    estimate = monitor.series.estimate()
    assert estimate.sampling == ("shuffle" if num_examples else "independent")
    each = np.array([gradient(START, [row]) for row in range(4)])
    mean = each.mean(axis=0)
    exact = mean @ mean, np.sum((each - mean) ** 2) / len(each)
    actual = estimate.grad_sq_norm, estimate.example_noise
    assert actual == pytest.approx(exact, rel=1e-5)


# The norm of an adaptive optimizer

EPSILON, BETA = 0.1, 0.8
# The second moment of an entry is 0 until the fourth step has begun.
RARE = np.where((np.arange(ROWS) < 24)[:, None] & (np.arange(3) == 2), 0, X)


def average(values):
    weights = (1 - BETA) * BETA ** np.arange(len(values))[::-1]
    return np.tensordot(weights, values, 1)


def largest_average(g):
    return np.max([average(g[: k + 1] ** 2) for k in range(len(g))], axis=0)


def largest(g):
    decay = BETA ** np.arange(len(g))[::-1, None]
    return np.max(decay * np.abs(g), axis=0)


SECOND, AMSGRAD = {"beta_2": BETA}, {"beta_2": BETA, "amsgrad": True}
CENTERED = {"rho": BETA, "centered": True}


@pytest.mark.parametrize(
    ("name", "arguments", "root"),
    [
        ("Adam", SECOND, lambda g: average(g**2) ** 0.5 + EPSILON),
        ("Adam", AMSGRAD, lambda g: largest_average(g) ** 0.5 + EPSILON),
        ("Adamax", SECOND, lambda g: largest(g) + EPSILON),
        ("RMSprop", {"rho": BETA}, lambda g: (average(g**2) + EPSILON) ** 0.5),
        (
            "RMSprop",
            CENTERED,
            lambda g: (average(g**2) - average(g) ** 2 + EPSILON) ** 0.5,
        ),
        # Keras begins with 0.1, so that no entry is unknown.
        ("Adagrad", {}, lambda g: (0.1 + np.sum(g**2, 0) + EPSILON) ** 0.5),
    ],
)
def test_norm_is_that_of_the_moments_before_the_step(name, arguments, root):
    monitor = GradientNoiseMonitor(every=1)
    make = getattr(keras.optimizers, name)
    model = eager(make(0.0, epsilon=EPSILON, **arguments))
    logs = fit(model, monitor, x=RARE, epochs=1)
    expected, seen = [], np.zeros((0, 3))
    for rows, *halves in batches(1):
        if len(seen):
            known = (seen != 0).any(axis=0) | (name == "Adagrad")
            scale = known / root(seen)
            pair = (scale * gradient(START, half, RARE) for half in halves)
            expected.append(observation(pair, len(rows)))
        seen = np.vstack([seen, gradient(START, rows, RARE)])
    np.testing.assert_allclose(observed(monitor, *NORM), expected, 1e-4, 1e-7)
    g, s = np.mean(expected, axis=0)
    ratio = s * (1 - 1 / ROWS) / (g + s / ROWS) / BATCH_SIZE
    assert logs["preconditioned_noise_to_signal"] == pytest.approx([ratio])


def test_masks_of_dropout_are_drawn_anew_for_each_half():
    layers = [keras.layers.Dropout(0.5, seed=1), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((50,)), *layers])
    model.compile(SGD(0.0), "mse")
    monitor = GradientNoiseMonitor(every=1)
    fit(model, monitor, x=np.ones((48, 50)), y=np.ones((48, 1)), epochs=1)
    # Of equal rows they are all of the noise.
    assert (monitor.series["example_noise"] > 0).all()


def test_only_decayed_weights_are_in_their_norm():
    model = dense_network(3, 1)
    model.set_weights([values + 1 for values in model.get_weights()])
    optimizer = SGD(0.0, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    model.compile(optimizer, "mse", run_eagerly=True)
    logs = fit(model, GradientNoiseMonitor(every=1), epochs=1)
    kernels = sum(np.sum(kernel**2) for kernel in model.get_weights()[::2])
    assert logs["weight_sq_norm"] == pytest.approx([kernels])


# Learning rates


class SetsRate(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        self.model.optimizer.learning_rate = 0.4 / (batch + 1)


@pytest.mark.parametrize(
    ("rate", "callback", "expected"),
    [
        (
            # A boundary is the last iteration, from 0, of its rate.
            keras.optimizers.schedules.PiecewiseConstantDecay([7], [0.4, 0.1]),
            keras.callbacks.Callback(),
            lambda step, epoch: np.where(step <= 8, 0.4, 0.1),
        ),
        (1.0, SetsRate(), lambda step, epoch: 0.4 / ((step - 1) % STEPS + 1)),
    ],
    ids=["schedule", "every step"],
)
def test_rate_is_that_of_the_measured_step(rate, callback, expected):
    monitor = GradientNoiseMonitor(every=1)
    fit(eager(SGD(rate)), monitor, callback, epochs=4)
    rates = expected(monitor.series["step"], monitor.series["epoch"])
    np.testing.assert_allclose(monitor.series["learning_rate"], rates, 1e-6)


# Which steps are measured


def long_fit(monitor, steps, **compilation):
    data = tf.data.Dataset.from_tensors((X[:2], Y[:2])).repeat()
    linear_model(**compilation).fit(
        data, steps_per_epoch=steps, callbacks=[monitor], verbose=0
    )
    return steps_of(monitor)


@pytest.mark.parametrize(
    ("every", "together", "block"), [(5, 1, 5), (10, 4, 8), (3, 4, 4)]
)
def test_one_random_step_of_each_block_is_measured(every, together, block):
    steps, again, other = (
        long_fit(
            GradientNoiseMonitor(every, seed=seed),
            blocks * block,
            steps_per_execution=together,
        )
        for seed, blocks in ((None, 25), (None, 5), (1, 5))
    )
    # The first call is not measured, and may be a block of its own.
    blocks, places = np.divmod(steps - 1, block)
    assert blocks.tolist() == [*range(together // block, 25)]
    assert set(places) == set(range(block))
    for period in range(1, 7):
        assert (places[period:] != places[:-period]).any()
    np.testing.assert_array_equal(again, steps[: len(again)])
    assert (other != again).any()


@pytest.mark.parametrize(
    ("done", "block"), [(1_900, 4), (2_500, 5), (60_000, 100)]
)
def test_blocks_grow_with_the_steps_done(done, block):
    monitor = GradientNoiseMonitor()
    monitor.load_state_dict(
        monitor.state_dict() | {"steps": done, "steps_before_epoch": done}
    )
    steps = long_fit(monitor, 3 * block) - done
    np.testing.assert_array_equal((steps - 1) // block, np.arange(3))


@pytest.mark.parametrize(
    ("pairing", "batch_size"), [("independent", 8), ("halves", 16)]
)
def test_batch_of_a_plain_model_of_svag(pairing, batch_size):
    monitor = GradientNoiseMonitor(every=1)
    fit(eager(SVAG(RATE, ell=2, pairing=pairing)), monitor, epochs=1)
    estimate = monitor.estimate()
    assert monitor.batch_size == estimate.batch_size == batch_size
    assert estimate.noise_trace == estimate.example_noise / batch_size
    np.testing.assert_allclose(monitor.series["learning_rate"], RATE, 1e-6)


def test_last_batch_of_one_row_is_not_observed():
    model, monitor = eager(), GradientNoiseMonitor(every=1)
    fit(model, monitor, x=X[:41], y=Y[:41])
    assert model.optimizer.iterations == 12
    assert steps_of(monitor).tolist() == [2, 3, 4, 5, 7, 8, 9, 10, 11]
    assert set(monitor.series["rows"]) == {BATCH_SIZE}


# The size of the data


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        rows = slice(index * BATCH_SIZE, (index + 1) * BATCH_SIZE)
        return X[rows], Y[rows]


class Evaluates(keras.callbacks.Callback):
    """Evaluates at the ends of epochs, where Keras counts anew."""

    def on_epoch_end(self, epoch, logs=None):
        self.model.evaluate(X[:30], Y[:30], verbose=0)


DATA = tf.data.Dataset.from_tensor_slices((X, Y))
ARRAYS, EVEN, UNEVEN = (X, Y, 8), (DATA.take(40).batch(8),), (DATA.batch(8),)
ENDLESS = (EVEN[0].repeat(),)
UNKNOWN = (UNEVEN[0].filter(lambda x, y: True),)
FIVE = {"steps_per_epoch": 5}
VALIDATED = {"validation_data": (X, Y)}
EVALUATED = {"callbacks": [Evaluates()]}
CONTRADICTED = "refused"


@pytest.mark.parametrize(
    ("data", "arguments", "given", "expected"),
    [
        (ARRAYS, {}, "auto", ROWS),
        (ARRAYS, {}, None, None),
        (ARRAYS, {}, 100, CONTRADICTED),
        (ARRAYS, {"validation_split": 0.25}, "auto", 32),
        (ARRAYS, FIVE, "auto", None),
        (EVEN, {}, "auto", 40),
        (ENDLESS, FIVE, "auto", None),
        (ENDLESS, FIVE, 40, 40),
        (UNKNOWN, {}, "auto", None),
        (UNKNOWN, {}, 100, CONTRADICTED),
        ((Batches(),), {}, "auto", 40),
        # Counted in the first epoch: not six batches of 8.
        (UNEVEN, VALIDATED, "auto", ROWS),
        (UNEVEN, VALIDATED, 100, CONTRADICTED),
        # What the epochs do not show is taken.
        (UNEVEN, EVALUATED, 100, 100),
        ((((X[:8], Y[:8]) for _ in range(6)),), {"epochs": 1}, 100, 100),
    ],
)
def test_size_of_the_data_is_what_fit_runs_through(
    data, arguments, given, expected
):
    model = eager()
    monitor = GradientNoiseMonitor(every=1, num_examples=given)
    callbacks = [*arguments.get("callbacks", ()), monitor]
    arguments = {"epochs": 2, "verbose": 0, **arguments, "callbacks": callbacks}
    if expected is CONTRADICTED:
        with pytest.raises(ValueError, match="must be 43.*got 100"):
            model.fit(*data, **arguments)
        # At the latest when the first epoch has shown it.
        assert model.optimizer.iterations <= STEPS
        return
    model.fit(*data, **arguments)
    assert monitor.series.num_examples == expected
    sampling = "independent" if given is None else expected and "shuffle"
    assert monitor.series.sampling == sampling


# Logs and assumptions


KEYS = (
    *("grad_sq_norm", "noise_trace", "noise_to_signal"),
    *("noise_scale", "weight_sq_norm"),
)


@pytest.mark.parametrize(
    ("optimizer", "monitor", "more"),
    [
        ("adam", GradientNoiseMonitor(1), {"preconditioned_noise_to_signal"}),
        ("lion", GradientNoiseMonitor(1), set()),
        ("sgd", ScalingRuleCheck(every=1, verbose=0), {*LOG_KEYS}),
    ],
)
def test_every_epoch_has_every_key(optimizer, monitor, more):
    logs = fit(eager(optimizer), monitor, x=X[:8], y=Y[:8], epochs=3)
    assert set(logs) == {"loss", *KEYS} | more
    for key in {*KEYS} | more:
        # All of the first epoch is a step that is not measured.
        assert math.isnan(logs[key][0])
        if key not in LOG_KEYS:
            assert not np.isnan(logs[key][1:]).any()


def test_logs_are_of_the_epoch_or_of_the_last_hundred_observations():
    model, monitor = linear_model(), GradientNoiseMonitor(1, num_examples=None)
    for rows, count in ((240, 119), (120, 100)):
        x, y = (np.tile(values, (6, 1))[:rows] for values in (X, Y))
        logs = fit(model, monitor, x=x, y=y, batch_size=2, epochs=1)
        columns = observed(monitor, *MOMENTS, "weight_sq_norm")
        g, s, r = columns[-count:].mean(axis=0)
        expected = dict(zip(KEYS, (g, s / 2, s / 2 / g, s / g, r), strict=True))
        found = {key: logs[key][-1] for key in KEYS}
        assert found == pytest.approx(expected)
        assert monitor.estimate().count == count


def switched():
    """A model with a variable by which its loss, and no gradient, is lost."""
    size = keras.Variable(0.0)
    return size, eager(
        loss=lambda y, y_pred: ops.mean(ops.square(y - y_pred), axis=-1) + size
    )


@pytest.mark.parametrize("every", [1, 20])
def test_an_infinite_loss_is_said_of_the_epochs_that_have_it(every):
    # With `every` of 20 not every epoch has an observation.
    monitor = GradientNoiseMonitor(every, seed=3)
    size, model = switched()

    def switch(epoch, logs):
        size.assign(np.inf if epoch == 3 else 0.0)

    switching = keras.callbacks.LambdaCallback(on_epoch_begin=switch)
    logs = fit(model, switching, monitor, epochs=12)
    assert np.isinf(logs["loss"]).nonzero()[0].tolist() == [3]
    estimate = monitor.series.estimate()
    assert estimate.assumptions == ("loss_not_finite",)
    assert estimate.num_skipped == 0
    assert monitor.series.window(epochs=6).estimate().assumptions == ()
    # Trained anew, it has another loss.
    model.optimizer.iterations.assign(3 * STEPS)
    fit(model, monitor, epochs=4, initial_epoch=3)
    assert monitor.series.lost_epochs == set()


def test_an_infinite_loss_of_the_batch_that_is_looked_at_is_said():
    monitor, (size, model) = GradientNoiseMonitor(every=1), switched()
    size.assign(np.inf)
    with monitor.watch(model):
        for _ in range(3):
            model.train_on_batch(X[:8], Y[:8])
    assert "loss_not_finite" in monitor.estimate().assumptions
    assert monitor.estimate().loss_difference is None


@pytest.mark.parametrize(
    ("make", "codes"),
    [
        (models.summed_add_loss, {"coupled_loss"}),
        (models.in_batch_negatives, {"coupled_loss"}),
        (models.masked_lstm, {"masked_loss"}),
        (models.convolutions, {"batch_normalization"}),
        (models.frozen_batch_normalization, set()),
        (models.class_weights, set()),
        (models.sample_weights, set()),
        (models.named_targets, set()),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_assumed_has_a_code(make, codes):
    script, monitor = make(), GradientNoiseMonitor(every=1)
    script.model.run_eagerly = True
    data = {name: getattr(script, name) for name in ("x", "y", "sample_weight")}
    fit(script.model, monitor, **data, epochs=1, **script.fit)
    estimate = monitor.estimate()
    assert set(estimate.assumptions) == codes
    assert (estimate.loss_difference > 0.01) == ("coupled_loss" in codes)


def normalized():
    layers = keras.layers.BatchNormalization(), keras.layers.Dense(1)
    return keras.Sequential([keras.Input((3,)), *layers])


def test_normalization_that_is_frozen_at_first_has_a_code():
    model, monitor = normalized(), GradientNoiseMonitor(every=1)
    for trainable in (False, True):
        assert not monitor.series.codes
        model.layers[0].trainable = trainable
        model.compile("sgd", "mse")
        fit(model, monitor, x=X[:40], y=Y[:40], epochs=1)
    assert monitor.series.codes == {"batch_normalization"}


@pytest.mark.parametrize("pairing", ["halves", "independent"])
@pytest.mark.filterwarnings("ignore:pairing='halves'")
def test_halves_of_independent_pairs_are_batches(pairing):
    model = SVAGModel(normalized())
    model.compile(SVAG(RATE, ell=2, pairing=pairing), "mse", run_eagerly=True)
    monitor = GradientNoiseMonitor()
    fit(model, monitor, x=X[:40], y=Y[:40], epochs=1)
    estimate, is_half = monitor.estimate(), pairing == "halves"
    assert estimate.assumptions == ("batch_normalization",) * is_half
    assert (estimate.loss_difference is not None) == is_half


@pytest.mark.parametrize(("name", "difference"), [("sum", 0.5), ("mean", 0)])
def test_loss_is_compared_with_its_halves_whenever_the_steps_have_doubled(
    name, difference
):
    def loss(y, y_pred):
        return getattr(ops, name)(ops.square(y - y_pred))

    monitor = GradientNoiseMonitor(every=1)
    fit(eager(SGD(1e-3), loss), monitor, epochs=5)
    steps, differences = zip(*monitor.series.couplings, strict=True)
    # After the first step, which is never measured.
    assert list(steps) == [1, 4, 10, 22]
    assert differences == pytest.approx([difference] * 4, abs=1e-6)
    assert monitor.estimate().loss_difference == differences[-1]


# Several fits, states and loops


def test_another_model_starts_anew():
    monitor, fresh = (GradientNoiseMonitor(every=2) for _ in range(2))
    fit(eager(), monitor)
    fit(eager(), monitor, epochs=1)
    fit(eager(), fresh, epochs=1)
    assert monitor.state_dict() == fresh.state_dict()


def test_later_fits_and_another_process_go_on_where_the_first_fit_ended():
    # With this seed the first step of the third epoch is not to be measured.
    whole, first, second = (
        GradientNoiseMonitor(every=3, per_layer=True, seed=2) for _ in range(3)
    )
    fit(eager(), whole, epochs=4)
    model = eager()
    fit(model, first)
    state = json.loads(json.dumps(first.state_dict(), allow_nan=False))
    second.load_state_dict(state)
    assert second.state_dict() == first.state_dict()
    fit(model, second, initial_epoch=2, epochs=4)
    fit(model, first)
    for name in whole.series.COLUMNS:
        expected = whole.series[name]
        np.testing.assert_array_equal(second.series[name], expected, name)
        if name in ("step", "epoch", "rows"):
            np.testing.assert_array_equal(first.series[name], expected, name)
    (layer,) = second.series.layers
    np.testing.assert_array_equal(
        second.series.layer(layer), observed(whole, *MOMENTS)
    )


def test_damaged_state_is_refused():
    monitor = GradientNoiseMonitor()
    for name, value in (("series", {}), ("block", [1]), ("generator", 1)):
        with pytest.raises(ValueError, match="`state` must be what `state_d"):
            monitor.load_state_dict(monitor.state_dict() | {name: value})


@pytest.mark.parametrize(("every", "is_new_process"), [(1, True), (2, False)])
def test_epoch_trained_anew_replaces_its_observations(
    every, is_new_process, tmp_path
):
    model, monitor = eager(), GradientNoiseMonitor(every)
    backup = keras.callbacks.BackupAndRestore(tmp_path)

    def crash(batch, logs):
        if model.optimizer.iterations == 2 * STEPS + 3:
            raise KeyboardInterrupt

    crashing = keras.callbacks.LambdaCallback(on_train_batch_begin=crash)
    with pytest.raises(KeyboardInterrupt):
        fit(model, monitor, backup, crashing, epochs=4)
    if is_new_process:
        state = monitor.state_dict()
        model, monitor = eager(), GradientNoiseMonitor(every)
        monitor.load_state_dict(state)
    backup = keras.callbacks.BackupAndRestore(tmp_path)
    fit(model, monitor, backup, epochs=4)
    steps = steps_of(monitor)
    # All, but for the first calls of two train functions.
    blocks = set(range(4 * STEPS // every))
    if every == 1:
        blocks -= {0, 2 * STEPS} if is_new_process else {0}
    assert ((steps - 1) // every).tolist() == sorted(blocks)
    epochs = (steps - 1) // STEPS + 1
    np.testing.assert_array_equal(monitor.series["epoch"], epochs)
    expected = by_hand(4)[steps - 1, :2]
    np.testing.assert_allclose(
        observed(monitor, *MOMENTS), expected, 1e-3, 1e-5
    )


def test_loop_of_ones_own_is_measured_as_fit():
    watching, fitting = (GradientNoiseMonitor(every=1) for _ in range(2))
    fit(linear_model(), fitting)
    model = linear_model()
    for _ in range(2):
        with watching.watch(model):
            for rows, *_ in batches(1):
                model.train_on_batch(X[rows], Y[rows])
    columns = (*MOMENTS, "step", "iteration", "rows", "learning_rate")
    np.testing.assert_allclose(
        observed(watching, *columns), observed(fitting, *columns), 1e-6
    )


def test_variables_that_are_frozen_between_fits_are_told_apart_by_name():
    model = dense_network(3, 1)
    first, second = model.layers
    monitor = GradientNoiseMonitor(every=1, per_layer=True)
    for frozen in (second, first, None):
        for layer in (first, second):
            layer.trainable = layer is not frozen
        model.compile(SGD(1e-3), "mse", run_eagerly=True)
        fit(model, monitor, epochs=1)
    series = monitor.series
    paths = [v.path for layer in (first, second) for v in layer.variables]
    assert series.layers == tuple(paths)
    layers = np.stack([series.layer(path) for path in paths], axis=1)
    # The first step of each train function is not measured.
    fits = np.repeat([0, 1, 2], STEPS - 1)
    known = np.array([[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]], bool)
    np.testing.assert_array_equal(np.isfinite(layers[..., 0]), known[fits])
    np.testing.assert_allclose(
        np.nansum(layers, axis=1), observed(monitor, *MOMENTS), 1e-4, 1e-6
    )


# What is refused


def without_weights():
    script = models.perceptron()
    script.model.trainable = False
    return script


def of_one_row():
    return models.perceptron()._replace(fit={"batch_size": 1})


def of_three_sizes():
    x = {"nodes": X[:8], "edges": X[:12]}
    inputs = {name: keras.Input((3,), name=name) for name in x}
    total = sum(ops.sum(part, 0, keepdims=True) for part in inputs.values())
    model = keras.Model(inputs, keras.layers.Dense(1)(total))
    model.compile("sgd", "mse")
    data = tf.data.Dataset.from_tensors((x, np.zeros((1, 1)))).repeat(4)
    return models.Script(model, data)


def of_eight_rows():
    inputs = keras.Input(batch_shape=(8, 3))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse")
    return models.Script(model, X[:40], Y[:40], fit={"batch_size": 8})


INSTEAD = "keras_svag.measure_gradient_noise(model, data)"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (without_weights, "no trainable weights"),
        (models.adversaries, "has no `call`"),
        (models.autoencoder_without_a_loss, "know the loss of Autoencoder"),
        (models.stateful_lstm, f"one size only: {INSTEAD}"),
        (of_eight_rows, f"one size only: {INSTEAD}"),
        (of_one_row, f"have one row: {INSTEAD}"),
        (of_three_sizes, f"1, 8, 12: {INSTEAD}"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be_measured_is_refused_before_the_first_step(make, says):
    script = make()
    arguments = {"callbacks": [GradientNoiseMonitor()], "verbose": 0}
    with pytest.raises(ValueError) as caught:
        script.model.fit(script.x, script.y, **arguments, **script.fit)
    check_sentence(str(caught.value), says)
    assert script.model.optimizer.iterations == 0


def test_a_sequential_model_built_by_its_first_batch_is_measured_again():
    model, monitor = keras.Sequential(), GradientNoiseMonitor(every=1)
    model.add(keras.layers.Dense(1))
    model.compile("sgd", "mse")
    for _ in range(2):
        fit(model, monitor, x=X[:40], y=Y[:40], epochs=1)
    assert model.inputs[0].shape[0] == 8
    assert len(monitor.series) == 9

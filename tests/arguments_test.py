"""The checks of arguments, and each public argument with a value it refuses.

A row of the table is a call that works, and a wrong value for each of its
arguments; that no argument is missing is a test too. What is a float in the
call that works is replaced by extreme numbers besides.
"""

import inspect
import math

import keras
import numpy as np
import pytest

import keras_svag
from keras_svag import (
    NoiseEstimate,
    NoiseSeries,
    applications,
    arguments,
    scaling,
)
from keras_svag.scaling.bounds import min_batch_multiplier
from keras_svag.scaling.conditions import RunConditions, at_rest
from tests.helpers.refusals import check_sentence
from tests.helpers.small_problems import dense_network, regression

NAN, INF = float("nan"), float("inf")
# More than an array counts, a float holds, Python writes out.
HUGE = (2**63, 10**400, 10**5000)
NO_NUMBER = ("1", None, True, [1], {}, 1j)


NUMBER, INTEGER = arguments.number, arguments.integer


@pytest.mark.parametrize(
    ("check", "settings", "taken", "types", "values"),
    [
        (INTEGER, {}, (1, np.int64(3)), NO_NUMBER, (0, 1.5, NAN, *HUGE)),
        (INTEGER, {"least": 0, "optional": True}, (0, None), ("1",), (-1, 2.0)),
        (INTEGER, {"most": 4}, (4,), (), (5, 2**63)),
        (NUMBER, {}, (0, -1.5, 1e100), NO_NUMBER, (NAN, INF, 1e101, *HUGE[1:])),
        (NUMBER, {"least": 0, "below": 1}, (0, 0.5), (), (-1e-9, 1)),
        (NUMBER, {"above": 0, "most": 1}, (1, 5e-324), (None,), (0, 1.1, -INF)),
        (NUMBER, {"optional": True}, (None, 3), (True,), ()),
        (NUMBER, {"unknown": True}, (NAN, 1), (None,), (INF,)),
        (
            *(arguments.array, {"least": 0}, (2, [1.0, INF], NAN)),
            *(("1", None, True, {}, ["1"], [[1], 2]), (-1, [1, -1], *HUGE[1:])),
        ),
        (
            *(arguments.boolean, {}, (True, np.bool_(False))),
            *(("yes", None, 2, 0, 1.0, NAN, []), ()),
        ),
        (
            *(arguments.choice, {"known": ("a", 2)}, ("a", 2), ()),
            (None, 0.5, NAN, ["a"], {}, "", "nonsense"),
        ),
        (
            *(arguments.instance, {"kind": str, "wanted": "a text"}),
            *(("a",), (None, 3), ()),
        ),
    ],
)
def test_a_check_takes_what_is_right_and_refuses_the_rest(
    check, settings, taken, types, values
):
    for value in taken:
        np.testing.assert_equal(check("it", value, **settings), value)
    for error, wrong in ((TypeError, types), (ValueError, values)):
        for value in wrong:
            with pytest.raises(error) as caught:
                check("it", value, **settings)
            assert type(caught.value) is error
            check_sentence(str(caught.value), "`it` must be ", "got ")
            if isinstance(value, (int, float, str)) and value not in HUGE:
                assert repr(value) in str(caught.value)


X, Y = regression(16)
STATE = scaling.EquilibriumStatistics(2.0, 3.0, 4.0)
UNKNOWN = scaling.EquilibriumStatistics(NAN, 1.0, 1.0)
ESTIMATE = NoiseEstimate(1.0, 160.0, 0.1, 16.0, 0.0, 100, 32)
CONDITIONS = RunConditions(learning_rate=0.1, weight_decay=0.01)
SERIES = NoiseSeries()
for step in (1, 2, 3):
    SERIES.append({"bias": (1.0, 2.0)}, step=step, epoch=1, rows=8)


def trained():
    model = dense_network()
    model.compile("adam", "mse")
    return model


OPTIMIZER = (-1.0, "learning_rate weight_decay"), (0, "ell"), (2, "pairing")
SMALL = {"input_shape": (8, 8, 3), "num_classes": 10, "depth": 8}
LARGE = SMALL | {"depth": 11, "input_shape": (32, 32, 3)}
UNITS = {"input_shape": (8,), "num_classes": 10, "hidden_units": (16, 16)}
NETWORK = (
    *((0, "groups"), (1, "num_classes momentum"), (-1, "seed")),
    *(((0, 8, 8), "input_shape"), ("layers", "normalization")),
)
IMAGES = *NETWORK, (33, "depth"), (0, "widen_factor base_width trainable_head")
RATES = {"learning_rate": 0.1, "weight_decay": 0.1}
Q = {"noise_to_signal": 3.0, "ell": 1.0, "balance": 1.0, **RATES}
BOUND = (-1, "noise_to_signal learning_rate weight_decay"), (0.5, "ell")
RULE = {"learning_rate": 0.1, "kappa": 4.0, "weight_decay": 0.1, "steps": 4}
WRONG_RULE = (-1, "learning_rate weight_decay steps"), (0, "kappa batch_size")
NORMS = dict.fromkeys(("weight_sq_norm", "grad_sq_norm", "noise_trace"), 1.0)
ADAM = ("beta_1", "beta_2", "rho")
C = {"closeness": 2.0}
ROWS = []


def row(call, good, *wrong):
    """Adds a call, arguments with which it works, and wrong ones.

    Each of `wrong` is a value and the names of those that do not take it.
    """
    names = {n: value for value, names in wrong for n in names.split()}
    ROWS.append((call, good, names))


row(keras_svag.svag_weights, {"ell": 2}, (0, "ell pairing"))
row(keras_svag.SVAG, {"learning_rate": 0.1}, *OPTIMIZER)
row(keras_svag.SVAGAdam, {}, *OPTIMIZER, (1, "beta_1 beta_2"), (-1, "epsilon"))
row(keras_svag.SVAGRMSprop, {}, *OPTIMIZER, (1, "rho"), (-1, "epsilon"))
row(keras_svag.SVAG().exclude_from_weight_decay, {}, (["bias$"], "var_names"))
row(keras_svag.SVAGModel, {}, (dict, "model"))
row(
    keras_svag.GradientNoiseMonitor,
    {},
    *((0, "every update_freq per_layer log_dir"), (1, "num_examples")),
    (-1, "seed"),
)
row(
    keras_svag.ScalingRuleCheck,
    {},
    *((0, "rule window window_steps"), (1, "closeness scale_invariant level")),
    *(((2, 0), "kappas"), (3, "verbose")),
)
row(
    keras_svag.measure_gradient_noise,
    {"model": trained(), "data": (X, Y), "num_batches": 2, "verbose": 0},
    *((0, "model batch_size rtol per_layer preconditioned"), ("xy", "data")),
    *((1, "num_batches"), (-1, "seed"), (3, "verbose")),
)
row(
    keras_svag.branch_test,
    {"model": trained(), "data": (X, Y), "kappa": 2, "verbose": 0}
    | {"examples": 16, "batch_size": 4, "seeds": 2, "num_batches": 4},
    *((0, "model batch_size rule"), ((X[:3], Y[:3]), "data"), (1.3, "kappa")),
    *((3, "examples num_batches verbose"), ("xy", "validation_data")),
    *((1, "seeds level"), (-1, "tolerance"), (None, "seed")),
)
row(
    keras_svag.fit_growing,
    {"model": trained(), "x": X, "y": Y, "max_batch_size": 64, "verbose": 0},
    *((0, "model batch_size epochs on_heuristic"), (8, "max_batch_size")),
    *((keras_svag.GradientNoiseMonitor(), "check"), ({0: 3}, "mode")),
    (3, "verbose"),
)
row(
    keras_svag.is_scale_invariant,
    {"model": dense_network(), "x": X},
    *((keras.layers.Dense(2), "model"), (0, "rtol")),
)
row(
    keras_svag.pair_moments,
    {"g1": [X], "g2": [X], "rows1": 8, "rows2": 8},
    *(([], "g1"), ([X[:1]], "g2"), (0, "rows1 rows2")),
)
row(
    NoiseEstimate,
    dict.fromkeys(list(inspect.signature(NoiseEstimate).parameters)[:5], 1.0)
    | {"count": 1},
    ("1", "grad_sq_norm example_noise covariance sampling"),
    (-1, "grad_sq_norm_se example_noise_se count num_skipped"),
    (-1, "degrees_of_freedom probe_batch_size effective_sample_size"),
    *((0, "num_batches batch_size num_examples"), (INF, "loss_difference")),
)
row(
    NoiseEstimate.from_observations,
    {"grad_sq_norm": [1.0, 2.0], "example_noise": [2.0, 3.0]},
    *((["1"], "grad_sq_norm"), ([[1], 2], "example_noise")),
    *((["1"], "batches"), (1, "num_examples sampling"), (0, "batch_size")),
)
row(ESTIMATE.at, {}, (0, "batch_size"))
for method in ("interval", "grad_sq_norm_sign", "describe", "summary"):
    row(getattr(ESTIMATE, method), {"level": 0.9}, (95, "level"))
row(ESTIMATE.to_frame, {}, (0, "level"))
row(NoiseSeries, {}, (0, "num_examples sampling"))
row(SERIES.append, {}, ("8", "rows"), ({"bias": [1]}, "layer_moments"))
row(SERIES.layer, {}, ("nonsense", "name"))
row(SERIES.window, {}, (0, "epochs steps"))
row(SERIES.tail, {}, (-1, "count"))
row(SERIES.before, {}, ("3", "iteration"))
row(SERIES.estimate, {}, (0, "batch_size preconditioned"))

row(
    scaling.min_noise_to_signal,
    RATES | C | {"ell": 1.0},
    *((-1, "learning_rate weight_decay"), (1, "closeness"), (0.5, "ell")),
)
BOUNDED = *BOUND, (0, "balance"), (1, "closeness")
row(scaling.max_batch_multiplier, Q | C, *BOUNDED, ("tight", "form"))
row(min_batch_multiplier, Q | C, *BOUNDED)
row(scaling.min_closeness, Q | {"kappa": 2.0}, *BOUND, (0, "balance kappa"))
row(
    scaling.equilibrium_balance,
    {"process": "svag", "ell": 1.0} | RATES | NORMS,
    *((0, "process learning_rate weight_decay"), (-1, "weight_sq_norm")),
    *(("1", "grad_sq_norm noise_trace"), (0.5, "ell")),
)
window = {"balance": 1.0, "grad_sq_norms": [1.0], "noise_traces": [1.0]}
row(at_rest, C | window, (1, "closeness"))
row(
    scaling.EquilibriumStatistics,
    NORMS,
    (INF, " ".join(NORMS)),
    *((-1, " ".join(f"{name}_se" for name in NORMS)), (0, "count")),
)
row(
    scaling.c_closeness,
    {"first": STATE, "second": STATE, "kappa": 2.0, "level": 0.9},
    *((UNKNOWN, "first"), ((2.0, 3.0, 4.0), "second")),
    *((0, "kappa"), (1, "level")),
)
row(
    scaling.predict_closeness,
    {"statistics": {1: STATE, 2: STATE}, "level": 0.9},
    *(({1: STATE, 2: UNKNOWN}, "statistics"), (1, "level")),
)
PREDICTION = scaling.predict_closeness(
    {1: STATE, 2: scaling.EquilibriumStatistics(1.0, 2.0, 3.0)}
)
row(
    PREDICTION.closeness,
    {"kappa": 2.0, "reference": 1.0},
    *(([2.0, -5.0], "kappa"), (-1, "reference")),
)
row(
    PREDICTION.max_batch_multiplier,
    C | {"reference": 1.0},
    *((1, "closeness"), (-1, "reference")),
)
row(scaling.linear_scaling_rule, RULE, *WRONG_RULE)
row(
    scaling.square_root_scaling_rule,
    RULE | {"epsilon": 0.1},
    *(*WRONG_RULE, (-1, "epsilon"), (1, " ".join(ADAM))),
    (1, "decoupled epsilon_in_root"),
)
row(
    scaling.scale_optimizer,
    {"optimizer": keras.optimizers.Adam(), "kappa": 2.0},
    *(("adam", "optimizer"), (0, "kappa rule")),
)
row(
    scaling.scaling_verdict,
    {"estimate": ESTIMATE, "conditions": CONDITIONS, "level": 0.9} | C,
    *((0, "estimate conditions batch_size"), (1, "closeness level")),
    ((-1,), "kappas"),
)
VERDICT = scaling.scaling_verdict(ESTIMATE, CONDITIONS)
row(VERDICT.at, {"batch_size": 8}, (0, "batch_size"), (1, "level closeness"))
row(VERDICT.allows, {}, (0, "batch_size"))
row(
    applications.ScaleInvariantMLP,
    UNITS | {"normalization": "group"},
    *(*NETWORK, ((0,), "hidden_units")),
)
row(applications.PreResNet, SMALL, *IMAGES)
row(applications.ResNet, SMALL, *IMAGES)
row(applications.VGG, LARGE, *IMAGES)


def half():
    return 0.5


def of_optimizers():
    """What the simulating optimizers cannot honour, and why."""
    for call, name, value, why in (
        (keras_svag.SVAG, "clipnorm", 1.0, "biases"),
        (keras_svag.SVAG, "clipvalue", 1.0, "biases"),
        (keras_svag.SVAG, "global_clipnorm", 1.0, "biases"),
        (keras_svag.SVAG, "use_ema", True, "average"),
        (keras_svag.SVAG, "gradient_accumulation_steps", 2, "pairs"),
        (keras_svag.SVAG, "momentum", 0.9, "without momentum"),
        (keras_svag.SVAG, "nesterov", True, "without momentum"),
        (keras_svag.SVAGAdam, "amsgrad", True, "without it"),
        (keras_svag.SVAGAdam, "clipnorm", 1.0, "biases"),
        (keras_svag.SVAGRMSprop, "momentum", 0.9, "SVAGAdam"),
        (keras_svag.SVAGRMSprop, "centered", True, "plain"),
    ):
        says = f"left out of {call.__name__}, got {value!r}; "
        yield call, {name: value}, name, says, why


def of_networks():
    resnet, vgg = applications.PreResNet, applications.VGG
    for call, good, name, value, *says in (
        (resnet, SMALL, "depth", 10, "6n + 2"),
        (vgg, LARGE, "depth", 12, "one of 11, 13, 16, 19"),
        (resnet, SMALL, "input_shape", (64, 3, 3), "4 x 4"),
        (vgg, LARGE, "input_shape", (31, 64, 3), "32 x 32"),
        (resnet, SMALL, "input_shape", (64, 64)),
        (
            resnet,
            SMALL | {"normalization": "group"},
            "base_width",
            12,
            "by groups = 8",
        ),
        (resnet, SMALL, "normalization", "layer"),
    ):
        yield call, good | {name: value}, name, *says
    # A group of one unit would be normalized to 0.
    for normalization, size in (("layer", 1), ("group", 60), ("group", 8)):
        bad = {"hidden_units": (64, size), "normalization": normalization}
        says = "[1]` must be a multiple of groups"
        mlp = applications.ScaleInvariantMLP
        yield mlp, UNITS | bad, "hidden_units", says


def of_rules():
    steep = Q | {"learning_rate": 20.0, "closeness": 2.0}
    yield scaling.max_batch_multiplier, steep, "learning_rate", "below 2"
    linear = scaling.linear_scaling_rule
    yield linear, RATES | {"kappa": 200}, "kappa", "keep kappa below 200"
    odd = {"learning_rate": 0.1, "kappa": 0.3, "batch_size": 7}
    yield linear, odd, "kappa", "a whole number"
    for beta in ADAM:
        bad = {"learning_rate": 0.1, "kappa": 4, beta: 0.5}
        says = f"* (1 - `{beta}`)", "keep kappa below 2"
        yield scaling.square_root_scaling_rule, bad, "kappa", *says
    for optimizer, rule, says in (
        (keras.optimizers.Lion(), "auto", "no second moment"),
        (keras.optimizers.Adam(), "linear", "rule for SGD"),
        (keras.optimizers.SGD(), "square_root", "rule for Adam"),
        (keras.optimizers.RMSprop(momentum=0.5), "auto", "no factor"),
        (keras.optimizers.SGD(half), "auto", "returns"),
    ):
        bad = {"optimizer": optimizer, "kappa": 4, "rule": rule}
        yield scaling.scale_optimizer, bad, "optimizer", says
    bad = {"optimizer": keras.optimizers.Adam(), "kappa": 10}
    yield scaling.scale_optimizer, bad, "kappa", "keep kappa below"


def refused():
    """Calls, their arguments, the wrong one, and what is said of it."""
    for call, good, wrong in ROWS:
        for name, value in wrong.items():
            yield call, good | {name: value}, name
    yield from of_optimizers()
    yield from of_networks()
    yield from of_rules()


@pytest.mark.parametrize(
    ("call", "given", "name", "says"),
    [
        pytest.param(call, given, name, says, id=f"{call.__name__}-{name}")
        for call, given, name, *says in refused()
    ],
)
def test_what_an_argument_does_not_take_is_one_sentence(
    call, given, name, says, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((TypeError, ValueError)) as caught:
        call(**given)
    assert type(caught.value) in (TypeError, ValueError)
    sentence = str(caught.value)
    check_sentence(sentence, "got ", *says)
    # It names `name`, `name[0]` or `name.x`.
    assert sentence.startswith(tuple(f"`{name}{end}" for end in "`[.")), (
        sentence
    )
    assert not list(tmp_path.iterdir())


def numbers_in(result):
    if isinstance(result, dict):
        result = list(result.values())
    if isinstance(result, (list, tuple)):
        return [number for part in result for number in numbers_in(part)]
    return [result] if isinstance(result, float) else []


@pytest.mark.parametrize(
    "value", [1e308, 1e100, 1 - 2**-53, 1 + 2**-52, 5e-324, 0.0, -1e308, INF]
)
def test_an_extreme_number_is_answered_or_refused(value):
    for call, good, _ in ROWS:
        for name in (n for n in good if isinstance(good[n], float)):
            try:
                result = call(**good | {name: value})
            except ValueError as error:
                check_sentence(str(error), "`", "got ")
            else:
                assert not any(map(math.isnan, numbers_in(result))), (
                    call,
                    name,
                )


# Keras or Python say at once what is wrong with these.
OF_KERAS = {"self", "name", "loss", "x", "y", "sample_weight", "callbacks"}
# What functions of the library fill in.
FILLED = {"assumptions", "blocks", "largest_share", "per_layer", "probe"}
# What the functions of the library return: nobody makes them by hand.
RESULTS = {
    keras_svag.BranchTest,
    scaling.Closeness,
    scaling.ClosenessPrediction,
    scaling.ScalingVerdict,
    keras_svag.ScalingReport,
    scaling.ScaledRun,
}


def test_every_argument_is_in_the_table():
    for module in (keras_svag, scaling, applications):
        for call in (getattr(module, name) for name in module.__all__):
            if not callable(call) or call in RESULTS:
                continue
            taken = inspect.signature(
                call.__init__ if isinstance(call, type) else call
            ).parameters.values()
            names = {
                p.name
                for p in taken
                if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
            }
            (wrong,) = (wrong for known, _, wrong in ROWS if known is call)
            assert names - wrong.keys() <= OF_KERAS | FILLED

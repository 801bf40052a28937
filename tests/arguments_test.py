"""The checks of arguments, and each public argument with a value it refuses.

A row of the table is a call and arguments with which it works. Each argument
that it takes is replaced by what is wrong for one of that name, and what is a
float in the row by extreme numbers.
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
NO_ARRAY = ("1", None, True, {}, ["1"], [[1], 2])
NO_CHOICE = (None, 0.5, NAN, ["a"], {}, "", "nonsense")
NO_BOOLEAN = ("yes", None, 2, 0, 1.0, NAN, [])
A_TEXT = {"kind": str, "wanted": "a text"}


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
        (arguments.array, {"least": 0}, (2, [1.0, INF], NAN), NO_ARRAY, (-1,)),
        (arguments.array, {"least": 0}, (), (), ([1, -1], *HUGE[1:])),
        (arguments.boolean, {}, (True, np.bool_(False)), NO_BOOLEAN, ()),
        (arguments.choice, {"known": ("a", 2)}, ("a", 2), (), NO_CHOICE),
        (arguments.instance, A_TEXT, ("a",), (None, 3), ()),
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


# What no argument of that name takes.
WRONG = {
    name: value
    for value, names in (
        (-1, "learning_rate weight_decay epsilon seed tolerance steps count"),
        (-1, "grad_sq_norm_se example_noise_se weight_sq_norm_se reference"),
        (-1, "noise_trace_se num_skipped degrees_of_freedom"),
        (-1, "probe_batch_size effective_sample_size noise_to_signal"),
        (0, "ell every update_freq per_layer log_dir rule window window_steps"),
        (0, "model batch_size rtol preconditioned epochs on_heuristic groups"),
        (0, "max_batch_size estimate conditions depth widen_factor base_width"),
        (0, "trainable_head balance process num_batches num_examples"),
        (0, "rows1 rows2 kappa"),
        (1, "closeness scale_invariant level beta_1 beta_2 rho"),
        (1, "num_classes momentum decoupled epsilon_in_root seeds"),
        ("1", "grad_sq_norm example_noise noise_trace covariance iteration"),
        ("1", "sampling pairing form data validation_data optimizer batches"),
        ("1", "normalization weight_sq_norm"),
        (3, "verbose examples"),
        (INF, "loss_difference"),
        ((2, 0), "kappas hidden_units first second"),
        ((0, 8, 8), "input_shape"),
        ({"bias": [1]}, "mode layer_moments statistics"),
        (["bias$"], "var_names"),
        ([], "g1"),
        ([X[:1]], "g2"),
        (keras_svag.GradientNoiseMonitor(), "check"),
    )
    for name in names.split()
}
# Keras or Python say at once what is wrong with these.
OF_KERAS = {"self", "name", "loss", "x", "y", "sample_weight", "callbacks"}
OF_KERAS |= {"var_list"}

SMALL = {"input_shape": (8, 8, 3), "num_classes": 10, "depth": 8}
LARGE = SMALL | {"depth": 11, "input_shape": (32, 32, 3)}
UNITS = {"input_shape": (8,), "num_classes": 10, "hidden_units": (16, 16)}
RATES = {"learning_rate": 0.1, "weight_decay": 0.1}
Q = {"noise_to_signal": 3.0, "ell": 1.0, "balance": 1.0, **RATES}
RULE = {"learning_rate": 0.1, "kappa": 4.0, "weight_decay": 0.1, "steps": 4}
NORMS = dict.fromkeys(("weight_sq_norm", "grad_sq_norm", "noise_trace"), 1.0)
BALANCE = {"process": "svag", "ell": 1.0} | RATES | NORMS
SERIES_OF = {"grad_sq_norm": [1.0, 2.0], "example_noise": [2.0, 3.0]}
COMPARED = {"first": STATE, "second": STATE, "kappa": 2.0}
WINDOW = {"balance": 1.0, "grad_sq_norms": [1.0], "noise_traces": [1.0]}
C, LEVEL = {"closeness": 2.0}, {"level": 0.9}
MOMENTS = ("grad_sq_norm", "example_noise", "covariance")
MOMENTS += ("grad_sq_norm_se", "example_noise_se")
TRAINED = {"model": trained(), "verbose": 0}
MEASURED = TRAINED | {"data": (X, Y), "num_batches": 2}
BRANCHED = TRAINED | {"data": (X, Y), "kappa": 2, "examples": 16, "seeds": 2}
BRANCHED |= {"batch_size": 4, "num_batches": 4}
GROWING = TRAINED | {"x": X, "y": Y, "max_batch_size": 64}
ADAM = keras.optimizers.Adam()
OTHER = scaling.EquilibriumStatistics(1.0, 2.0, 3.0)
PREDICTION = scaling.predict_closeness({1: STATE, 2: OTHER})
VERDICT = scaling.scaling_verdict(ESTIMATE, CONDITIONS)
JUDGED = {"estimate": ESTIMATE, "conditions": CONDITIONS}

ROWS = [
    (keras_svag.svag_weights, {"ell": 2}),
    (keras_svag.SVAG, {"learning_rate": 0.1}),
    (keras_svag.SVAGAdam, {}),
    (keras_svag.SVAGRMSprop, {}),
    (keras_svag.SVAG().exclude_from_weight_decay, {}),
    (keras_svag.SVAGModel, {}),
    (keras_svag.GradientNoiseMonitor, {}),
    (keras_svag.ScalingRuleCheck, {}),
    (keras_svag.measure_gradient_noise, MEASURED),
    (keras_svag.branch_test, BRANCHED),
    (keras_svag.fit_growing, GROWING),
    (keras_svag.is_scale_invariant, {"model": dense_network(), "x": X}),
    (keras_svag.pair_moments, {"g1": [X], "g2": [X], "rows1": 8, "rows2": 8}),
    (NoiseEstimate, dict.fromkeys(MOMENTS, 1.0) | {"count": 1}),
    (NoiseEstimate.from_observations, SERIES_OF),
    (ESTIMATE.at, {}),
    (ESTIMATE.interval, LEVEL),
    (ESTIMATE.grad_sq_norm_sign, LEVEL),
    (ESTIMATE.describe, LEVEL),
    (ESTIMATE.summary, LEVEL),
    (ESTIMATE.to_frame, {}),
    (NoiseSeries, {}),
    (SERIES.append, {}),
    (SERIES.window, {}),
    (SERIES.tail, {}),
    (SERIES.before, {}),
    (SERIES.estimate, {}),
    (scaling.min_noise_to_signal, RATES | C | {"ell": 1.0}),
    (scaling.max_batch_multiplier, Q | C),
    (min_batch_multiplier, Q | C),
    (scaling.min_closeness, Q | {"kappa": 2.0}),
    (scaling.equilibrium_balance, BALANCE),
    (scaling.EquilibriumStatistics, NORMS),
    (scaling.c_closeness, COMPARED | LEVEL),
    (scaling.predict_closeness, {"statistics": {1: STATE, 2: OTHER}} | LEVEL),
    (PREDICTION.closeness, {"kappa": 2.0, "reference": 1.0}),
    (PREDICTION.max_batch_multiplier, C | {"reference": 1.0}),
    (scaling.linear_scaling_rule, RULE),
    (scaling.square_root_scaling_rule, RULE | {"epsilon": 0.1}),
    (scaling.scale_optimizer, {"optimizer": ADAM, "kappa": 2.0}),
    (scaling.scaling_verdict, JUDGED | LEVEL | C),
    (VERDICT.at, {"batch_size": 8}),
    (VERDICT.allows, {}),
    (applications.ScaleInvariantMLP, UNITS | {"normalization": "group"}),
    (applications.PreResNet, SMALL),
    (applications.ResNet, SMALL),
    (applications.VGG, LARGE),
]


# What functions of the library fill in; and κ = 0 is the SDE.
UNCHECKED = {
    NoiseEstimate: {"assumptions", "blocks", "largest_share", "per_layer"}
    | {"probe"},
    PREDICTION.closeness: {"kappa"},
}


def names_of(call):
    """The arguments of which the library says what is wrong."""
    of = inspect.signature(call.__init__ if isinstance(call, type) else call)
    names = {p.name for p in of.parameters.values() if p.kind != p.VAR_KEYWORD}
    return names - OF_KERAS - UNCHECKED.get(call, set())


def half():
    return 0.5


RESNET, VGG = applications.PreResNet, applications.VGG
MLP, MULTIPLE = applications.ScaleInvariantMLP, "[1]` must be a multiple of"
GROUPED, LAYERED = {"normalization": "group"}, {"normalization": "layer"}
LINEAR = scaling.linear_scaling_rule
SQUARE_ROOT = scaling.square_root_scaling_rule
OPTIMIZER, AT_4 = scaling.scale_optimizer, {"kappa": 4}
RATE = {"learning_rate": 0.1}
# Other wrong arguments, the first one by name, and what is said of it.
OTHERS = [
    # What the simulating optimizers cannot honour, and why.
    (keras_svag.SVAG, {}, {"clipnorm": 1.0}, "left out of SVAG, got", "biases"),
    (keras_svag.SVAG, {}, {"clipvalue": 1.0}, "biases"),
    (keras_svag.SVAG, {}, {"global_clipnorm": 1.0}, "biases"),
    (keras_svag.SVAG, {}, {"use_ema": True}, "average"),
    (keras_svag.SVAG, {}, {"gradient_accumulation_steps": 2}, "pairs"),
    (keras_svag.SVAG, {}, {"momentum": 0.9}, "without momentum"),
    (keras_svag.SVAG, {}, {"nesterov": True}, "without momentum"),
    (keras_svag.SVAGAdam, {}, {"amsgrad": True}, "without it"),
    (keras_svag.SVAGRMSprop, {}, {"momentum": 0.9}, "SVAGAdam"),
    (keras_svag.SVAGRMSprop, {}, {"centered": True}, "plain"),
    (RESNET, SMALL, {"depth": 10}, "6n + 2"),
    (applications.ResNet, SMALL, {"depth": 10}, "6n + 2"),
    (VGG, LARGE, {"depth": 12}, "one of 11, 13, 16, 19"),
    (RESNET, SMALL, {"input_shape": (64, 3, 3)}, "4 x 4"),
    (VGG, LARGE, {"input_shape": (31, 64, 3)}, "32 x 32"),
    (RESNET, SMALL, {"input_shape": (64, 64)}),
    (RESNET, SMALL | GROUPED, {"base_width": 12}, "by groups = 8"),
    # A group of one unit would be normalized to 0.
    (MLP, UNITS | LAYERED, {"hidden_units": (64, 1)}, MULTIPLE),
    (MLP, UNITS | GROUPED, {"hidden_units": (64, 60)}, MULTIPLE),
    (MLP, UNITS | GROUPED, {"hidden_units": (64, 8)}, MULTIPLE),
    (scaling.max_batch_multiplier, Q | C, {"learning_rate": 20.0}, "below 2"),
    (LINEAR, RATES, {"kappa": 200}, "keep kappa below"),
    (LINEAR, RATE, {"kappa": 0.3, "batch_size": 7}, "a whole number"),
    *(
        (SQUARE_ROOT, RATE | {b: 0.5}, AT_4, f"* (1 - `{b}`)", "kappa below 2")
        for b in ("beta_1", "beta_2", "rho")
    ),
    *(
        (OPTIMIZER, AT_4 | {"rule": rule}, {"optimizer": optimizer}, says)
        for optimizer, rule, says in (
            (keras.optimizers.Lion(), "auto", "no second moment"),
            (ADAM, "linear", "rule for SGD"),
            (keras.optimizers.SGD(), "square_root", "rule for Adam"),
            (keras.optimizers.RMSprop(momentum=0.5), "auto", "no factor"),
            (keras.optimizers.SGD(half), "auto", "returns"),
        )
    ),
    (OPTIMIZER, {"optimizer": ADAM}, {"kappa": 10}, "keep kappa below"),
    (keras_svag.GradientNoiseMonitor, {}, {"num_examples": 1}),
    (NoiseEstimate.from_observations, SERIES_OF, {"num_examples": 1}),
    (keras_svag.measure_gradient_noise, MEASURED, {"num_batches": 1}),
    (keras_svag.branch_test, BRANCHED, {"data": (X[:3], Y[:3])}),
    (keras_svag.branch_test, BRANCHED, {"kappa": 1.3}),
    (keras_svag.branch_test, BRANCHED, {"num_batches": 3}),
    (keras_svag.branch_test, BRANCHED, {"seed": None}),
    (keras_svag.fit_growing, GROWING, {"max_batch_size": 8}),
    (SERIES.window, {}, {"steps": 0}),
    (scaling.min_noise_to_signal, C, {"ell": 0.5}),
    (scaling.max_batch_multiplier, Q | C, {"ell": 0.5}),
    (scaling.equilibrium_balance, BALANCE, {"ell": 0.5}),
    (scaling.equilibrium_balance, BALANCE, {"learning_rate": 0}),
    (scaling.equilibrium_balance, BALANCE, {"weight_decay": 0}),
    *((scaling.EquilibriumStatistics, NORMS, {name: INF}) for name in NORMS),
    (scaling.EquilibriumStatistics, NORMS, {"count": 0}),
    (SERIES.append, {}, {"rows": "8"}),
    (SERIES.layer, {}, {"name": "nonsense"}),
    (scaling.equilibrium_balance, BALANCE, {"weight_sq_norm": -1}),
    (scaling.c_closeness, {"second": STATE}, {"first": UNKNOWN}),
    (scaling.predict_closeness, {}, {"statistics": {1: STATE, 2: UNKNOWN}}),
    (PREDICTION.closeness, {}, {"kappa": [2.0, -5.0]}),
    (at_rest, WINDOW, {"closeness": 1}),
]


def refused():
    """Calls, their arguments, the wrong one, and what is said of it."""
    for call, good in ROWS:
        for name in sorted(names_of(call)):
            yield call, good | {name: WRONG[name]}, name
    for call, good, wrong, *says in OTHERS:
        yield call, good | wrong, next(iter(wrong)), *says


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
    ends = tuple(f"`{name}{end}" for end in "`[.")
    assert sentence.startswith(ends), sentence
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
    for call, good in ROWS:
        for name in (n for n in good if isinstance(good[n], float)):
            try:
                found = numbers_in(call(**good | {name: value}))
            except ValueError as error:
                check_sentence(str(error), "`", "got ")
            else:
                assert not any(map(math.isnan, found)), (call, name)


# What the functions of the library return: nobody makes them by hand.
RESULTS = {
    *(keras_svag.BranchTest, keras_svag.ScalingReport, scaling.Closeness),
    *(scaling.ClosenessPrediction, scaling.ScaledRun, scaling.ScalingVerdict),
}


def test_every_call_is_in_the_table():
    modules = keras_svag, scaling, applications
    public = {getattr(m, name) for m in modules for name in m.__all__}
    calls = {call for call in public if callable(call)}
    assert calls - RESULTS <= {call for call, _ in ROWS}

"""Every public argument with wrong types, wrong values and extreme ones.

A row of the table is a call that works and what each of its arguments does not
take. That no argument is missing is a test too.
"""

import inspect
import math
from typing import NamedTuple

import keras
import pytest

import keras_svag
from keras_svag import NoiseEstimate, NoiseSeries, applications, scaling
from keras_svag.scaling.bounds import min_batch_multiplier
from keras_svag.scaling.conditions import RunConditions, at_rest
from tests.helpers.refusals import check_sentence
from tests.helpers.small_problems import dense_network, regression

NAN, INF = float("nan"), float("inf")
HUGE = (2**63, 10**400, 10**5000)
TINY, LARGEST, BEYOND = 5e-324, 1e100, 1e308
SIZES = (BEYOND, *HUGE[1:])


class Kind(NamedTuple):
    """What an argument does not take, and what it takes at its ends."""

    types: tuple
    values: tuple
    extremes: tuple = ()

    def but(self, *taken, **more):
        """The kind of an argument that takes some of this, or less."""
        left = (
            tuple(v for v in part if not any(v is t for t in taken))
            for part in self
        )
        kind = Kind(*left)
        return kind._replace(
            **{name: (*getattr(kind, name), *v) for name, v in more.items()}
        )


EMPTY = {}
NO_NUMBER = ("1", None, True, [1], EMPTY, 1j)
NUMBER = Kind(NO_NUMBER, (NAN, INF, -INF, *SIZES), (LARGEST, TINY))
NONNEGATIVE = NUMBER.but(values=(-1e-9, -BEYOND), extremes=(0,))
POSITIVE = NUMBER.but(values=(-1e-9, -BEYOND, 0, 0.0))
FRACTION = NUMBER.but(LARGEST, values=(-1e-9, 1, 1.5), extremes=(0,))
LEVEL = NUMBER.but(LARGEST, values=(0, 1, 95, -0.5), extremes=(1 - 2**-53,))
ABOVE_1 = POSITIVE.but(TINY, values=(1, 0.5), extremes=(1 + 2**-52,))
ELL = POSITIVE.but(TINY, values=(0.5,), extremes=(1,))
MEASURED = Kind(("1", None, True, EMPTY), HUGE[1:], (TINY, BEYOND, -BEYOND))
NOT_NEGATIVE = MEASURED.but(values=(-1,), extremes=(INF, NAN, 0))
INTEGER = Kind(NO_NUMBER, (NAN, INF, 1.5, 2.0, -1, *HUGE))
COUNT = INTEGER.but(values=(0,))
BOOLEAN = Kind(("yes", "False", None, 2, 0, 1.0, NAN, []), ())
CHOICE = Kind((), (None, 0.5, NAN, ["a"], EMPTY, "", "nonsense"))
KAPPAS = Kind((2, "24", None, True, (2, "4"), [None]), ((2, 0), (NAN,), (-1,)))
MODEL = Kind((None, "model", 3, dict, keras.layers.Dense(2), []), ())
SHAPE = Kind(
    (None, 8, "8x8", EMPTY, True, ("8", 8, 8), (None, 8, 8)),
    ((), (0, 8, 8), (2.5, 8, 8), (-8, 8, 8), (10**400, 8, 8)),
)

X, Y = regression(16)
STATE = scaling.EquilibriumStatistics(2.0, 3.0, 4.0)
ESTIMATE = NoiseEstimate(1.0, 160.0, 0.1, 16.0, 0.0, 100, 32)
CONDITIONS = RunConditions(learning_rate=0.1, weight_decay=0.01)


def optional(kind):
    return kind.but(None)


def series():
    found = NoiseSeries()
    for step in (1, 2, 3):
        found.append({"bias": (1.0, 2.0)}, step=step, epoch=1, rows=8)
    return found


SERIES = series()


def trained():
    model = dense_network()
    model.compile("adam", "mse")
    return model


OPTIMIZER = {
    # Keras takes a dict for a schedule's configuration.
    "learning_rate": NONNEGATIVE.but(EMPTY),
    "ell": COUNT,
    "pairing": CHOICE,
    "weight_decay": optional(NONNEGATIVE),
}
NETWORK = {
    "input_shape": SHAPE,
    "num_classes": COUNT.but(values=(1,)),
    "normalization": CHOICE,
    "groups": COUNT,
    "momentum": FRACTION,
    "seed": optional(INTEGER),
}
IMAGES = NETWORK | {
    "depth": COUNT.but(values=(7, 10, 12)),
    "widen_factor": COUNT,
    "base_width": COUNT,
    "trainable_head": BOOLEAN,
}
RATES = dict.fromkeys(("learning_rate", "weight_decay"), optional(NONNEGATIVE))
BOUND = RATES | {
    "noise_to_signal": NOT_NEGATIVE,
    "ell": ELL,
    "balance": POSITIVE,
}
SCALED = {
    "learning_rate": NONNEGATIVE,
    "kappa": POSITIVE,
    "batch_size": optional(COUNT),
    "steps": optional(INTEGER),
}
SMALL = {"input_shape": (8, 8, 3), "num_classes": 10}
ROWS = []


def row(call, good=None, /, **kinds):
    """Adds a call, arguments with which it works, and the kinds of them."""
    ROWS.append((call, good or {}, kinds))


row(keras_svag.svag_weights, {"ell": 2}, ell=COUNT, pairing=CHOICE)
row(keras_svag.SVAG, **OPTIMIZER)
betas = {"beta_1": FRACTION, "beta_2": FRACTION, "epsilon": NONNEGATIVE}
row(keras_svag.SVAGAdam, **OPTIMIZER, **betas)
row(keras_svag.SVAGRMSprop, **OPTIMIZER, rho=FRACTION, epsilon=NONNEGATIVE)
names = Kind(("bias", [3], [None]), (["bias$"],))
row(keras_svag.SVAG().exclude_from_weight_decay, var_names=names)
row(keras_svag.SVAGModel, model=MODEL)
row(
    keras_svag.GradientNoiseMonitor,
    every=optional(COUNT),
    num_examples=optional(COUNT).but(values=(1,)),
    per_layer=BOOLEAN,
    log_dir=Kind((3, True, [], b"x"), ()),
    update_freq=COUNT,
    seed=optional(INTEGER),
)
row(
    keras_svag.ScalingRuleCheck,
    rule=CHOICE,
    closeness=ABOVE_1,
    kappas=KAPPAS,
    window=optional(COUNT),
    window_steps=optional(COUNT),
    level=LEVEL,
    scale_invariant=Kind(("yes", 1, [], EMPTY, [1.0], [X, "x"]), ()),
    verbose=CHOICE,
)
row(
    keras_svag.measure_gradient_noise,
    {"model": trained(), "data": (X, Y), "num_batches": 2, "verbose": 0},
    model=MODEL,
    data=Kind((3, len, "xy", b"xy"), (None, [], [1, 2], (1, 2))),
    batch_size=optional(COUNT),
    num_batches=COUNT.but(values=(1,)),
    rtol=optional(POSITIVE),
    per_layer=BOOLEAN,
    seed=optional(INTEGER),
    preconditioned=BOOLEAN,
    verbose=CHOICE,
)
few = Kind((3, "xy", [], [X, Y], (1, 2)), (None, (X[:3], Y[:3])))
trial = {"model": trained(), "data": (X, Y), "kappa": 2, "verbose": 0}
row(
    keras_svag.branch_test,
    trial | {"examples": 16, "batch_size": 4, "seeds": 2, "num_batches": 4},
    model=MODEL,
    data=few,
    kappa=POSITIVE.but(LARGEST, TINY, values=(1.3,)),
    examples=COUNT.but(values=(3,)),
    batch_size=COUNT,
    validation_data=Kind((3, "xy"), ([],)),
    rule=CHOICE,
    seeds=COUNT.but(values=(1,)),
    tolerance=NONNEGATIVE._replace(extremes=()),
    level=LEVEL._replace(extremes=()),
    num_batches=COUNT.but(values=(3,)),
    seed=INTEGER,
    verbose=CHOICE,
)
modes = Kind((), ([1], 3, "", "grow", None, {-1: 8}, {0: 3}, {0: 4.5}))
row(
    keras_svag.fit_growing,
    {"model": trained(), "x": X, "y": Y, "max_batch_size": 64, "verbose": 0},
    model=MODEL,
    batch_size=COUNT,
    max_batch_size=COUNT.but(values=(8,)),
    epochs=COUNT,
    check=Kind((3, True, "check", keras_svag.GradientNoiseMonitor()), ()),
    mode=modes,
    on_heuristic=CHOICE,
    sample_weight=Kind((), ()),
    verbose=CHOICE,
)
network = {"model": dense_network(), "x": X}
rtol = optional(POSITIVE)
row(keras_svag.is_scale_invariant, network, model=MODEL, rtol=rtol)
rows = POSITIVE.but(LARGEST, TINY)
pair = {"g1": [X], "g2": [X], "rows1": 8, "rows2": 8}
row(
    keras_svag.pair_moments,
    pair,
    g1=Kind((), ([],)),
    g2=Kind((), ([], [X, X], [X[:1]])),
    rows1=rows,
    rows2=rows,
)

row(
    NoiseEstimate,
    dict.fromkeys(list(inspect.signature(NoiseEstimate).parameters)[:6], 1),
    grad_sq_norm=MEASURED,
    example_noise=MEASURED,
    grad_sq_norm_se=NOT_NEGATIVE,
    example_noise_se=NOT_NEGATIVE,
    covariance=MEASURED,
    count=INTEGER,
    batch_size=optional(COUNT),
    num_skipped=INTEGER,
    degrees_of_freedom=optional(NONNEGATIVE).but(NAN),
    num_examples=optional(COUNT),
    sampling=CHOICE.but(None),
    loss_difference=optional(NUMBER).but(NAN),
    probe_batch_size=optional(NONNEGATIVE).but(NAN),
    effective_sample_size=optional(NONNEGATIVE).but(NAN),
)
observed = MEASURED.but(*MEASURED.extremes, types=(["1"], [[1], 2]))
row(
    NoiseEstimate.from_observations,
    {"grad_sq_norm": [1.0, 2.0], "example_noise": [2.0, 3.0]},
    grad_sq_norm=observed,
    example_noise=observed,
    num_examples=optional(COUNT).but(values=(1,)),
    sampling=CHOICE.but(None),
    batch_size=optional(COUNT),
)
row(ESTIMATE.at, batch_size=COUNT)
row(ESTIMATE.interval, level=LEVEL)
row(ESTIMATE.grad_sq_norm_sign, level=LEVEL)
row(ESTIMATE.describe, level=LEVEL)
row(ESTIMATE.summary, level=LEVEL)
row(ESTIMATE.to_frame, level=LEVEL)
sampling = CHOICE.but(None)
row(NoiseSeries, num_examples=optional(COUNT), sampling=sampling)
moments = Kind((), ({"bias": 3.0}, {"bias": [1]}, {"bias": [[1, 2]]}))
row(SERIES.append, rows=MEASURED, layer_moments=moments)
row(SERIES.layer, {"name": "bias"}, name=CHOICE)
row(SERIES.window, epochs=optional(COUNT), steps=optional(COUNT))
row(SERIES.tail, count=INTEGER)
row(SERIES.before, iteration=NUMBER)
row(SERIES.estimate, batch_size=optional(COUNT), preconditioned=BOOLEAN)

q = {"noise_to_signal": 3.0, "closeness": 2.0}
row(
    scaling.min_noise_to_signal,
    {"closeness": 2.0},
    **RATES,
    closeness=ABOVE_1,
    ell=ELL,
)
row(scaling.max_batch_multiplier, q, **BOUND, closeness=ABOVE_1, form=CHOICE)
row(min_batch_multiplier, q, **BOUND, closeness=ABOVE_1)
scaled = {"noise_to_signal": 3.0, "kappa": 2}
row(scaling.min_closeness, scaled, **BOUND, kappa=POSITIVE)
norms = ("weight_sq_norm", "grad_sq_norm", "noise_trace")
rates = {"learning_rate": 0.1, "weight_decay": 0.1}
row(
    scaling.equilibrium_balance,
    {"process": "svag"} | rates | dict.fromkeys(norms, 1.0),
    process=CHOICE,
    weight_sq_norm=NOT_NEGATIVE,
    grad_sq_norm=MEASURED,
    noise_trace=MEASURED,
    learning_rate=POSITIVE,
    weight_decay=POSITIVE,
    ell=ELL,
)
window = {"balance": 1.0, "grad_sq_norms": [1.0], "noise_traces": [1.0]}
row(at_rest, {"closeness": 2.0} | window, closeness=ABOVE_1)
row(
    scaling.EquilibriumStatistics,
    dict.fromkeys(norms, 1.0),
    **dict.fromkeys(norms, NUMBER.but(NAN)),
    **{f"{name}_se": NONNEGATIVE.but(NAN) for name in norms},
    count=optional(COUNT),
)
states = Kind(
    (None, 1.0, (2.0, 3.0, 4.0)),
    tuple(
        scaling.EquilibriumStatistics(*values)
        for values in ((0, 1, 1), (NAN, 1, 1), (1, 1, -1.0))
    ),
    (
        scaling.EquilibriumStatistics(
            LARGEST, -LARGEST, TINY, LARGEST, TINY, LARGEST
        ),
    ),
)
row(
    scaling.c_closeness,
    {"first": STATE, "second": STATE},
    first=states,
    second=states,
    kappa=POSITIVE,
    level=LEVEL,
)
row(
    scaling.predict_closeness,
    {"statistics": {1: STATE, 2: STATE}},
    statistics=Kind(
        ([STATE, STATE], None, {1: STATE, 2: None}, {1: STATE, "2": STATE}),
        (
            {},
            {2: STATE},
            {1: STATE, 0.5: STATE},
            *({1: STATE, 2: value} for value in states.values),
        ),
        ({1: STATE, 2**62: STATE}, {1: STATE, 2: states.extremes[0]}),
    ),
    level=LEVEL,
)
OTHER = scaling.EquilibriumStatistics(1.0, 2.0, 3.0)
prediction = scaling.predict_closeness({1: STATE, 2: OTHER})
row(
    prediction.closeness,
    {"kappa": 2.0},
    kappa=NONNEGATIVE.but(NO_NUMBER[3], values=([2.0, -5.0],)),
    reference=NONNEGATIVE,
)
row(
    prediction.max_batch_multiplier,
    {"closeness": 2.0},
    closeness=ABOVE_1,
    reference=NONNEGATIVE,
)
rule = {"learning_rate": 0.1, "kappa": 4, "batch_size": 16, "steps": 4}
row(
    scaling.linear_scaling_rule,
    rule,
    **SCALED,
    weight_decay=NONNEGATIVE,
)
row(
    scaling.square_root_scaling_rule,
    rule,
    **SCALED,
    **dict.fromkeys(("beta_1", "beta_2", "rho"), optional(FRACTION)),
    **dict.fromkeys(("epsilon", "weight_decay"), optional(NONNEGATIVE)),
    **dict.fromkeys(("decoupled", "epsilon_in_root"), BOOLEAN),
)
adam = {"optimizer": keras.optimizers.Adam(), "kappa": 2}
kind = Kind(("adam", None, keras.optimizers.Adam), ())
row(scaling.scale_optimizer, adam, optimizer=kind, kappa=POSITIVE, rule=CHOICE)
row(
    scaling.scaling_verdict,
    {"estimate": ESTIMATE, "conditions": CONDITIONS},
    estimate=Kind((None, 3.0, {}), ()),
    conditions=Kind(("sgd", None, keras.optimizers.SGD), ()),
    batch_size=optional(COUNT),
    closeness=ABOVE_1,
    kappas=KAPPAS.but(extremes=((TINY, LARGEST),)),
    level=LEVEL,
)
VERDICT = scaling.scaling_verdict(ESTIMATE, CONDITIONS)
row(
    VERDICT.at,
    {"batch_size": 8},
    batch_size=COUNT,
    level=optional(LEVEL),
    closeness=optional(ABOVE_1),
)
row(VERDICT.allows, {"batch_size": 8}, batch_size=COUNT)

units = {"hidden_units": (16, 16), "normalization": "group"}
row(
    applications.ScaleInvariantMLP, SMALL | units, **NETWORK, hidden_units=SHAPE
)
row(applications.PreResNet, SMALL | {"depth": 8}, **IMAGES)
row(applications.ResNet, SMALL | {"depth": 8}, **IMAGES)
row(
    applications.VGG,
    SMALL | {"depth": 11, "input_shape": (32, 32, 3)},
    **IMAGES,
)

ARGUMENTS = [
    pytest.param(call, good, name, kind, id=f"{call.__qualname__}-{name}")
    for call, good, kinds in ROWS
    for name, kind in kinds.items()
]


def is_named(sentence, name):
    """Whether a sentence is about an argument: `name`, `name[0]`, `name.x`."""
    rest = sentence.removeprefix(f"`{name}")
    return rest != sentence and rest[0] in "`[."


@pytest.mark.parametrize(("call", "good", "name", "kind"), ARGUMENTS)
def test_what_an_argument_does_not_take_is_one_sentence(
    call, good, name, kind, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for error, values in ((TypeError, kind.types), (ValueError, kind.values)):
        for value in values:
            with pytest.raises(error) as caught:
                call(**good | {name: value})
            assert type(caught.value) is error
            sentence = str(caught.value)
            check_sentence(sentence, "got ")
            assert is_named(sentence, name), sentence
            if isinstance(value, (int, float, str)) and value not in HUGE:
                shown = repr(value) in sentence
                assert shown or type(value).__name__ in sentence
    assert not list(tmp_path.iterdir())


def numbers_in(result):
    if isinstance(result, dict):
        result = result.values()
    if isinstance(result, (list, tuple)) or isinstance(
        result, type({}.values())
    ):
        return [number for part in result for number in numbers_in(part)]
    return [result] if isinstance(result, float) else []


@pytest.mark.parametrize(
    ("call", "good", "name", "kind"),
    [case for case in ARGUMENTS if case.values[3].extremes],
)
def test_an_extreme_value_is_answered_or_refused(call, good, name, kind):
    for value in kind.extremes:
        try:
            result = call(**good | {name: value})
        except ValueError as error:
            check_sentence(str(error), "`", "got ")
        else:
            if value == value:
                assert not any(map(math.isnan, numbers_in(result))), value


def half():
    return 0.5


def left_out():
    """What the simulating optimizers cannot honour, and why."""
    common = {
        "clipnorm": (1.0, "biases"),
        "clipvalue": (1.0, "biases"),
        "global_clipnorm": (1.0, "biases"),
        "use_ema": (True, "average"),
        "gradient_accumulation_steps": (2, "pairs"),
    }
    for call, own in (
        (
            keras_svag.SVAG,
            {
                "momentum": (0.9, "without momentum"),
                "nesterov": (True, "without momentum"),
            },
        ),
        (keras_svag.SVAGAdam, {"amsgrad": (True, "without it")}),
        (
            keras_svag.SVAGRMSprop,
            {"momentum": (0.9, "SVAGAdam"), "centered": (True, "plain")},
        ),
    ):
        for name, (value, why) in (common | own).items():
            says = f"left out of {call.__name__}, got {value!r}; "
            yield call, {name: value}, name, (says, why)


def of_networks():
    for call, depth, least, says in (
        (applications.PreResNet, 8, 4, "6n + 2"),
        (applications.ResNet, 8, 4, "6n + 2"),
        (applications.VGG, 11, 32, "one of 11, 13, 16, 19"),
    ):
        good = SMALL | {"depth": depth, "normalization": "group"}
        yield call, good | {"depth": 33}, "depth", (says,)
        for shape in ((least - 1, 64, 3), (64, least - 1, 3)):
            bad = good | {"input_shape": shape}
            yield call, bad, "input_shape", (f"{least} x {least}",)
        for shape in ((64,), (64, 64), (64, 64, 3, 1)):
            yield call, good | {"input_shape": shape}, "input_shape", ()
        bad = good | {"input_shape": (64, 64, 3), "base_width": 12}
        yield call, bad, "base_width", ("by groups = 8",)
        bad = good | {"input_shape": (64, 64, 3), "normalization": "layer"}
        yield call, bad, "normalization", ()
    # A group of one unit would be normalized to 0.
    for normalization, units in (("layer", 1), ("group", 60), ("group", 8)):
        bad = {"hidden_units": (64, units), "normalization": normalization}
        yield (
            applications.ScaleInvariantMLP,
            SMALL | bad,
            "hidden_units",
            ("[1]` must be a multiple of groups",),
        )


def of_rules():
    rates = {"learning_rate": 20.0, "weight_decay": 0.1}
    q = {"noise_to_signal": 3.0, "closeness": 2.0}
    yield scaling.max_batch_multiplier, q | rates, "learning_rate", ("below 2",)
    steep = {"learning_rate": 0.1, "weight_decay": 0.1, "kappa": 200}
    yield scaling.linear_scaling_rule, steep, "kappa", ("keep kappa below 200",)
    odd = {"learning_rate": 0.1, "kappa": 0.3, "batch_size": 7}
    yield scaling.linear_scaling_rule, odd, "kappa", ("a whole number",)
    for beta in ("beta_1", "beta_2", "rho"):
        bad = {"learning_rate": 0.1, "kappa": 4, beta: 0.5}
        yield (
            scaling.square_root_scaling_rule,
            bad,
            "kappa",
            (f"* (1 - `{beta}`)", "keep kappa below 2"),
        )
    for optimizer, rule, says in (
        (keras.optimizers.Lion(), "auto", "no second moment"),
        (keras.optimizers.Adam(), "linear", "rule for SGD"),
        (keras.optimizers.SGD(), "square_root", "rule for Adam"),
        (keras.optimizers.RMSprop(momentum=0.5), "auto", "no factor"),
        (keras.optimizers.SGD(half), "auto", "returns"),
    ):
        bad = {"optimizer": optimizer, "kappa": 4, "rule": rule}
        yield scaling.scale_optimizer, bad, "optimizer", (says,)
    bad = {"optimizer": keras.optimizers.Adam(), "kappa": 20}
    yield scaling.scale_optimizer, bad, "kappa", ("keep kappa below",)


TOGETHER = [*left_out(), *of_networks(), *of_rules()]


@pytest.mark.parametrize(
    ("call", "arguments", "name", "says"),
    TOGETHER,
    ids=[f"{call.__name__}-{name}" for call, _, name, _ in TOGETHER],
)
def test_what_does_not_go_together_is_one_sentence(call, arguments, name, says):
    with pytest.raises(ValueError) as caught:
        call(**arguments)
    check_sentence(str(caught.value), "got ", *says)
    assert is_named(str(caught.value), name)


# Keras or Python say at once what is wrong with these.
OF_KERAS = {"self", "name", "loss", "x", "y", "g1", "callbacks"}
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


def public():
    for module in (keras_svag, scaling, applications):
        for name in module.__all__:
            value = getattr(module, name)
            if callable(value) and value not in RESULTS:
                yield value


def test_every_argument_is_in_the_table():
    for call in public():
        taken = inspect.signature(
            call.__init__ if isinstance(call, type) else call
        ).parameters.values()
        names = {
            p.name
            for p in taken
            if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        }
        (kinds,) = (kinds for known, _, kinds in ROWS if known is call)
        assert names - kinds.keys() <= OF_KERAS | FILLED

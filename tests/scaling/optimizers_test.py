"""The table of optimizers, against what the optimizers do."""

import dataclasses

import keras
import numpy as np
import pytest

from keras_svag import SVAG, SVAGAdam, SVAGRMSprop
from keras_svag.scaling.optimizers import OptimizerKind, kind_of, rule_refusal
from keras_svag.scaling.reasons import Reason


def of_keras(*names):
    """Those that this release of Keras has."""
    known = vars(keras.optimizers)
    return [known[name] for name in names if name in known]


LINEAR = [keras.optimizers.SGD, SVAG]
AVERAGES = of_keras("Adam", "AdamW", "Nadam", "Adamax", "ScheduleFreeAdamW")
AVERAGES += [keras.optimizers.RMSprop, SVAGAdam, SVAGRMSprop]
SUMS = of_keras("Adagrad")
OTHERS = of_keras("Adadelta", "Adafactor", "Ftrl", "Lamb", "Lion", "Muon")
# The base of all, and those that hold others.
NO_KINDS = of_keras("Optimizer", "LossScaleOptimizer", "MultiOptimizer")


def test_every_optimizer_of_keras_has_its_rule_or_none():
    classes = {
        cls
        for cls in vars(keras.optimizers).values()
        if isinstance(cls, type) and issubclass(cls, keras.optimizers.Optimizer)
    }
    known = {*LINEAR, *AVERAGES, *SUMS, *OTHERS}
    assert classes - known == set(NO_KINDS)
    derived = {cls.__name__ for cls in known if kind_of(cls).is_derived}
    for_adam = {"Adam", "AdamW", "RMSprop", "SVAGAdam", "SVAGRMSprop"}
    assert derived == for_adam | {"SGD", "SVAG"}
    # Why the linear and the square-root rule are refused.
    of_adam = "linear_rule_for_adaptive"
    for group, *codes in (
        (LINEAR, None, "square_root_rule_for_sgd"),
        (AVERAGES, of_adam, None),
        (SUMS, of_adam, "second_moment_is_a_sum"),
        (OTHERS, of_adam, "no_second_moments"),
    ):
        for kind in map(kind_of, group):
            assert kind.rule == ("square_root" if codes[0] else "linear")
            found = [rule_refusal(kind, r) for r in ("linear", "square_root")]
            assert found == [c and Reason(c, (kind.name,)) for c in codes]


@pytest.mark.parametrize("cls", AVERAGES + SUMS)
def test_optimizers_divide_by_the_moment_as_the_table_says(cls):
    """The step of a constant gradient shows what it is divided by."""
    kind = kind_of(cls)
    gradient, epsilon, rate = np.array([3.0, 0.5]), 2.0, 1e-3
    memories = set(kind.hyperparameters) - {"epsilon"}
    options = dict.fromkeys(memories, 0.5) | {"epsilon": epsilon}
    if "SVAG" in cls.__name__:
        options["pairing"] = "halves"
    optimizer = cls(rate, weight_decay=0.0, **options)
    x = keras.Variable(np.zeros(2), dtype="float64")
    optimizer.build([x])
    # All that is averaged is then the gradient's, to 2**-40.
    for _ in range(40):
        before = keras.ops.convert_to_numpy(x)
        # Two batches are a step of SVAG.
        for _ in range(2 if "SVAG" in cls.__name__ else 1):
            optimizer.apply([keras.ops.convert_to_tensor(gradient)])
    divisor = rate * gradient / (before - keras.ops.convert_to_numpy(x))
    if cls.__name__ in ("Nadam", "ScheduleFreeAdamW"):
        # They mix what they step by with averages: all of it by one factor.
        divisor *= (3 + epsilon) / divisor[0]
    v = np.asarray(getattr(optimizer, kind.second_moments)[0])
    expected = {
        "epsilon outside": np.sqrt(v) + epsilon,
        "epsilon inside": np.sqrt(v + epsilon),
        "is root": v + epsilon,
    }
    # Keras's constants are of float32.
    np.testing.assert_allclose(divisor, expected[kind.root], rtol=1e-5)
    others = [value for name, value in expected.items() if name != kind.root]
    assert all(abs(divisor / other - 1).max() > 1e-3 for other in others)


def test_kinds_are_those_of_the_classes_derived_from():
    class Mine(SVAGRMSprop):
        pass

    # Its name is no reason.
    class Adam(keras.optimizers.SGD):
        pass

    # What is farther from the base of all wins.
    class Both(keras.optimizers.Nadam, keras.optimizers.SGD):
        pass

    class Foreign(keras.optimizers.Optimizer):
        pass

    for cls in (Mine, Adam, Both):
        kind = dataclasses.replace(kind_of(cls.__bases__[0]), name=cls.__name__)
        optimizer = cls(0.1)
        scaled = keras.optimizers.LossScaleOptimizer(optimizer)
        assert kind_of(cls) == kind_of(optimizer) == kind_of(scaled) == kind
    assert kind_of(SVAGRMSprop).simulates == "RMSprop"
    assert kind_of(Foreign) == OptimizerKind(name="Foreign")
    assert not kind_of(Foreign).is_derived

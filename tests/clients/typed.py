"""A user's program with hints of its own: the public API as README has it.

`make lint` checks it: mypy refuses an `assert_type` where a public name says
another type, and an argument that a hint does not allow.
"""

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_type

import keras_svag
from keras_svag import applications, scaling

RNG = np.random.default_rng(0)
X: NDArray[Any] = RNG.standard_normal((64, 4)).astype("float32")
Y: NDArray[Any] = RNG.integers(0, 3, 64)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def measured_model() -> None:
    """The noise of a training, and the verdict on its batch size."""
    model = applications.ScaleInvariantMLP(
        (4,), 3, hidden_units=[8], normalization="layer", seed=0
    )
    model.compile(keras.optimizers.SGD(0.1, weight_decay=5e-3), LOSS)
    check = keras_svag.ScalingRuleCheck(
        kappas=(2, 4), window=2, every=1, per_layer=True, verbose=0
    )
    model.fit(X, Y, batch_size=8, epochs=2, callbacks=[check], verbose=0)

    noise = check.estimate()
    assert_type(noise, keras_svag.NoiseEstimate)
    assert_type(noise.noise_to_signal, float)
    assert_type(noise.interval(level=0.9).high, float)
    assert_type(noise.per_layer, dict[str, keras_svag.NoiseEstimate] | None)
    assert_type(noise.describe(), str)
    assert_type(check.series.window(epochs=1), keras_svag.NoiseSeries)
    assert_type(check.batch_size, int | None)

    report = check.report
    assert report is not None
    assert_type(report, keras_svag.ScalingReport)
    assert_type(report.verdict, scaling.ScalingVerdict)
    assert_type(report.verdict.max_batch_size, float | None)
    assert_type(report.verdict.interval.low, float)
    assert_type(report.verdict.at_equilibrium, bool | None)
    for kappa, verdict in report.verdict.multiplier_verdicts.items():
        assert_type(kappa, float)
        print(verdict.value.upper(), report.verdict.scaled[kappa])
    assert_type(report.to_logs(), dict[str, float])
    assert_type(report.at(32, level=0.9), scaling.ScaledRun)
    assert_type(report.allows(4), bool | None)
    probe = keras_svag.measure_gradient_noise(
        model, (X, Y), 8, 4, loss=LOSS, seed=0, verbose=0
    )
    assert_type(probe, keras_svag.NoiseEstimate)
    assert_type(keras_svag.is_scale_invariant(model, X), bool)


def trained_on_pairs() -> None:
    """An SVAGModel, whose pairs a monitor takes, and a loop of one's own."""
    inner = applications.ScaleInvariantMLP((4,), 3, hidden_units=[8], seed=0)
    model = keras_svag.SVAGModel(inner)
    model.compile(keras_svag.SVAG(0.1, ell=2, weight_decay=5e-3), LOSS)
    monitor = keras_svag.GradientNoiseMonitor(num_examples=None)
    model.fit(X, Y, batch_size=16, callbacks=[monitor], verbose=0)
    with monitor.watch(model):
        model.train_on_batch(X[:16], Y[:16])
    assert_type(model.model, keras.Model)
    state = monitor.state_dict()
    keras_svag.GradientNoiseMonitor().load_state_dict(state)


def optimizers() -> None:
    """SVAG and its kin, with a schedule."""
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 100)
    for optimizer in (
        keras_svag.SVAG(schedule, ell=4, pairing="halves"),
        keras_svag.SVAGAdam(lambda: 0.01, beta_2=0.99, ell=4),
        keras_svag.SVAGRMSprop(1e-3, rho=0.9, weight_decay=1e-4),
    ):
        assert_type(optimizer.gradient_weights, tuple[float, float])
        assert_type(optimizer.effective_iterations, float)
    assert_type(keras_svag.svag_weights(4, "halves"), tuple[float, float])


def theory() -> None:
    """How far a run can be scaled, of a number and of an array."""
    assert_type(scaling.max_batch_multiplier(2.2, closeness=2**0.5), float)
    ratios = np.array([0.5, 2.0])
    bounds = scaling.max_batch_multiplier(ratios, 2, form="loose", ell=4)
    assert_type(bounds, NDArray[Any])
    assert_type(scaling.min_closeness(2, kappa=4, balance=1.1), float)
    balance = scaling.equilibrium_balance("sde", 1.0, 2.0, 3.0, 0.1, 1e-3)
    assert_type(balance, float)
    scaled = scaling.scale_optimizer(keras.optimizers.Adam(1e-3), 4)
    assert_type(scaled, keras.optimizers.Optimizer)

    linear = scaling.linear_scaling_rule(0.1, 2, batch_size=128)
    assert_type(linear["batch_size"], int)
    root = scaling.square_root_scaling_rule(1e-3, 4, beta_1=0.9, beta_2=0.99)
    keras_svag.SVAGAdam(ell=2, **root)

    sgd = scaling.EquilibriumStatistics(1.0, 2.0, 3.0, 0.1, 0.1, 0.1, count=3)
    svag = scaling.EquilibriumStatistics(1.1, 2.1, 3.3, count=None)
    closeness = scaling.c_closeness(sgd, svag, kappa=1, level=0.9)
    assert_type(closeness.ratios, dict[str, tuple[float, float, float]])
    prediction = scaling.predict_closeness({1: sgd, 2: svag})
    assert_type(prediction.closeness(4), tuple[float, float, float])
    kappa, low, high = prediction.max_batch_multiplier(2**0.5)
    assert_type(kappa + low + high, float)


def main() -> None:
    measured_model()
    trained_on_pairs()
    optimizers()
    theory()

"""What the check says of the square-root rule, for Adam and its kin."""

import json
import math

import keras
import numpy as np
import pytest

from keras_svag import (
    LinearScalingRuleCheck,
    ScalingRuleCheck,
    SVAGModel,
    measure_gradient_noise,
)
from keras_svag.callbacks.report import NoiseEpoch, scaling_report
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.scaling.conditions import AdaptiveConditions, RunConditions
from tests.helpers.small_problems import dense_network, regression

ADAM = {"beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-7}


def epoch(number=1, q=10.0, error=0.1, **fields):
    estimate = NoiseEstimate(
        grad_sq_norm=1.0,
        noise_trace=q,
        grad_sq_norm_se=error,
        noise_trace_se=0.0,
        covariance=0.0,
        count=100,
        batch_size=32,
        sampling="with_replacement",
        corrected_for_sampling=True,
    )
    fields = {"optimizer_steps": 1000} | fields
    return NoiseEpoch(number, estimate, (1.0, q), 4.0, 0.01, 0.01, **fields)


def report(epochs, optimizer="Adam", ell=1, **adaptive):
    conditions = AdaptiveConditions(
        **{"hyperparameters": ADAM, "epsilon_ratio": 1.0} | adaptive
    )
    return scaling_report(
        epochs,
        RunConditions(
            optimizer,
            weight_decay=adaptive.get("weight_decay") or 0.0,
            ell=ell,
            adaptive=conditions,
        ),
        batch_size=32,
    )


def test_bound_is_that_of_the_effective_learning_rates():
    """From √((1 + q) / (κ + q)) = 1 / C, whatever the decay."""
    for decay in (None, 0.5):
        verdict = report([epoch()], weight_decay=decay).verdict
        kappa = verdict.max_multiplier
        assert math.sqrt((1 + 10) / (kappa + 10)) == pytest.approx(0.5**0.5)
        assert not verdict.heuristic
        assert verdict.min_noise_to_signal == pytest.approx(1.0)


def test_svag_of_adam_is_compared_by_its_own_drift():
    """Its coordinates drift by m / √(m²/ell + s)."""
    verdict = report([epoch()], "SVAGAdam", ell=4).verdict
    kappa = verdict.max_multiplier
    assert math.sqrt((0.25 + 10) / (kappa + 10)) == pytest.approx(0.5**0.5)
    assert (
        "Adam at κB by the square-root rule against this run of SVAGAdam"
        in (verdict.compared)
    )


def test_hyperparameters_are_ready_to_copy():
    text = str(report([epoch()], "AdamW", weight_decay=0.01))
    assert (
        "×4: batch 128, AdamW learning_rate=0.02, beta_1=0.6, beta_2=0.96, "
        "epsilon=5e-08, weight_decay=0.02: not ruled out"
    ) in text
    assert "not in a paper" in text


def test_epsilon_within_the_root_shrinks_as_the_second_moment():
    actual = report(
        [epoch()],
        "RMSprop",
        hyperparameters={"rho": 0.99, "epsilon": 1e-7},
        epsilon_in_root=True,
    )
    assert actual.verdict.scaled[4] == pytest.approx(
        {"learning_rate": 0.02, "rho": 0.96, "epsilon": 2.5e-8}
    )


def test_rule_ends_where_nothing_is_averaged():
    actual = report([epoch(q=50.0)])
    assert actual.verdict.scaled[16] is None
    assert actual.verdict.multiplier_verdicts[16] == "undetermined"
    assert "the rule itself ends below batch 320" in str(actual)
    assert "batch 512, Adam no such run" in str(actual)


def test_a_rate_that_no_float_holds_is_none_in_json():
    huge = {"learning_rate": 2e307, "last_learning_rate": 2e307}
    last = NoiseEpoch(**vars(epoch()) | huge)
    values = scaling_report([last], RunConditions(), batch_size=32).to_dict()
    json.dumps(values, allow_nan=False)
    assert values["scaled"]["16"] == {"learning_rate": None}


@pytest.mark.parametrize(
    "conditions, fields, reason",
    [
        ({}, {"optimizer_steps": 99}, "had had 99 steps .* over 100"),
        ({}, {"optimizer_steps": None}, "steps the second moment has had"),
        ({"epsilon_ratio": 0.5}, {}, r"epsilon is not small .* 0\.5"),
        (
            {"hyperparameters": {"epsilon": 1e-7}},
            {},
            "second moment of Adam does not follow",
        ),
        ({"other_reasons": ("gradients are clipped",)}, {}, "are clipped"),
        ({}, {"last_learning_rate": 0.02}, "rate changes within the window"),
    ],
)
def test_a_failed_assumption_makes_the_verdict_a_heuristic(
    conditions, fields, reason
):
    rate = fields.pop("last_learning_rate", 0.01)
    last = NoiseEpoch(**vars(epoch(**fields)) | {"last_learning_rate": rate})
    actual = report([last], **conditions)
    with pytest.raises(AssertionError, match=reason):
        assert not actual.verdict.heuristic_reasons, str(actual)
    assert "Only a heuristic" in str(actual)


def test_svag_of_adam_needs_ell_times_the_steps():
    actual = report([epoch(optimizer_steps=399)], "SVAGAdam", ell=4)
    assert "follows over 400" in str(actual)
    assert not report(
        [epoch(optimizer_steps=400)], "SVAGAdam", ell=4
    ).verdict.heuristic


def train(optimizer, check, epochs=3, wrap=SVAGModel, **kwargs):
    x, y = regression(128)
    model = wrap(dense_network(), **kwargs)
    model.compile(optimizer, "mse", run_eagerly=True)
    model.fit(x, y, batch_size=16, epochs=epochs, callbacks=[check], verbose=0)
    return model


def test_check_reads_the_noise_in_the_norm_of_adam():
    check = ScalingRuleCheck(window=1, verbose=0)
    optimizer = keras.optimizers.Adam(0.01, beta_2=0.9, weight_decay=0.1)
    model = train(optimizer, check, num_examples=128)
    verdict, estimate = check.report.verdict, check.report.estimate
    measured = model.preconditioned_gradient_noise.estimate()
    assert verdict.rule == "square_root"
    assert estimate.grad_sq_norm == pytest.approx(measured.grad_sq_norm)
    assert estimate.noise_trace == pytest.approx(measured.noise_trace)
    assert verdict.batch_size == 16
    assert verdict.scaled[4] == pytest.approx(
        {
            "learning_rate": 0.02,
            "beta_1": 0.6,
            "beta_2": 0.6,
            "epsilon": 5e-8,
            "weight_decay": 0.2,
        }
    )
    reasons = " ".join(verdict.heuristic_reasons)
    # 16 steps were done before the last epoch, of the 10 that are needed.
    assert "second moment" not in reasons
    assert "equilibrium" not in str(check.report)
    json.dumps(check.report.to_dict(), allow_nan=False)
    assert "learning_rate=0.02, beta_1=0.6" in check.report._repr_html_()


def test_young_second_moments_are_labelled():
    check = ScalingRuleCheck(window=1, verbose=0)
    train("adam", check, epochs=1)
    assert "had had 0 steps when the measuring began" in str(check.report)


def test_rule_goes_by_the_optimizer():
    check = ScalingRuleCheck(verbose=0)
    train("sgd", check, epochs=1)
    assert check.report.verdict.rule == "linear"
    assert check.report.verdict.refusal is None


@pytest.mark.parametrize(
    "optimizer, rule, sentence",
    [
        ("lion", "auto", "Lion keeps no second moment of each entry"),
        ("sgd", "square_root", "not for SGD; rule='linear'"),
        ("adam", "linear", "keras_svag.ScalingRuleCheck judges"),
    ],
)
def test_other_optimizers_get_no_verdict_and_a_sentence(
    optimizer, rule, sentence
):
    check = ScalingRuleCheck(rule=rule, verbose=0)
    train(optimizer, check, epochs=1)
    assert sentence in check.report.verdict.refusal
    assert "no verdict" in str(check.report)


def test_state_goes_on_under_the_same_rule_only():
    check = ScalingRuleCheck(window=1, verbose=0)
    train("adam", check, epochs=1)
    state = json.loads(json.dumps(check.state_dict()))
    again = ScalingRuleCheck(verbose=0)
    again.load_state_dict(state)
    assert again.batch_size == 16
    assert again.state_dict()["epochs"] == state["epochs"]
    with pytest.raises(ValueError, match="`rule` must be that of the saved"):
        LinearScalingRuleCheck(16).load_state_dict(state)


def test_noise_in_another_norm_does_not_count():
    check = ScalingRuleCheck(verbose=0)
    # The learning rate of both, so that the window would hold both epochs.
    train(keras.optimizers.Adam(0.01), check, epochs=1)
    again = ScalingRuleCheck(window=2, verbose=0)
    again.load_state_dict(check.state_dict())
    x, y = regression(128)
    model = SVAGModel(dense_network())
    model.compile(keras.optimizers.SGD(0.01), "mse", run_eagerly=True)
    fit = {"batch_size": 16, "verbose": 0, "callbacks": [again]}
    model.fit(x, y, initial_epoch=1, epochs=2, **fit)
    assert again.report.verdict.rule == "linear"
    assert again.report.estimate.count == 8


def test_probe_scales_by_the_present_second_moments():
    x, y = regression(64)
    check = ScalingRuleCheck(16, probe=(x, y), window=1, verbose=0)
    model = train(
        keras.optimizers.Adam(0.01, epsilon=0.5), check, 1, lambda m: m
    )
    assert check.report.verdict.rule == "square_root"
    # The same in all entries of a variable: both moments are known multiples.
    scales = []
    for i, v in enumerate(model.optimizer._velocities):
        v.assign(np.full(v.shape, (i + 1.0) ** 2))
        scales.append(1 / (i + 1.5) ** 2)
    plain, scaled = (
        measure_gradient_noise(
            model,
            (x, y),
            16,
            8,
            seed=0,
            verbose=0,
            per_layer=True,
            preconditioned=preconditioned,
        )
        for preconditioned in (False, True)
    )
    for path, scale in zip(plain.per_layer, scales, strict=True):
        before, after = plain.per_layer[path], scaled.per_layer[path]
        assert after.grad_sq_norm == pytest.approx(
            before.grad_sq_norm * scale, rel=1e-4
        )
        assert after.noise_trace == pytest.approx(
            before.noise_trace * scale, rel=1e-4
        )


def test_probe_refuses_what_has_no_second_moments():
    x, y = regression(64)
    model = dense_network()
    for optimizer, sentence in (
        ("sgd", "second moments of each entry"),
        ("adam", "it has made no step; train first"),
    ):
        model.compile(optimizer, "mse")
        with pytest.raises(ValueError, match=sentence):
            measure_gradient_noise(
                model, (x, y), 16, 4, verbose=0, preconditioned=True
            )


def test_probe_needs_a_batch_size():
    with pytest.raises(TypeError, match="`batch_size` must be .* a probe"):
        ScalingRuleCheck(probe=regression(64))

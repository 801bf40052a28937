"""The verdict on a run, from what the monitor observed of it."""

import copy
import json
import math
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.optimizers import SGD, Adam

from keras_svag import SVAG, ScalingRuleCheck, SVAGModel, applications
from keras_svag.reporting.report import LOG_KEYS, scaling_report
from tests.helpers.small_problems import dense_network, regression

ROWS, BATCH_SIZE, STEPS = 32, 8, 4
X, Y = regression(ROWS)
RATE, DECAY = 0.05, 0.1


def check(**arguments):
    return ScalingRuleCheck(**{"every": 1, "verbose": 0} | arguments)


def train(optimizer, *callbacks, network=None, loss="mse", y=Y, epochs=2):
    """Trains by equal batches, and returns the logs."""
    model = network or dense_network()
    model.compile(optimizer, loss, run_eagerly=type(model) is not Whimsical)
    way = {"epochs": epochs, "verbose": 0, "callbacks": list(callbacks)}
    return model.fit(X, y, BATCH_SIZE, **way).history


def sgd(undecayed=()):
    optimizer = SGD(RATE, weight_decay=DECAY)
    optimizer.exclude_from_weight_decay(var_names=list(undecayed))
    return optimizer


def judged(optimizer, epochs=2, scale_invariant=None, **training):
    """The verdict on a run whose batches count as independent draws."""
    one = check(num_examples=None, scale_invariant=scale_invariant)
    train(optimizer, one, epochs=epochs, **training)
    return one.report.verdict


def codes(verdict):
    return {reason.code for reason in verdict.reasons}


@pytest.mark.parametrize(
    ("settings", "rows"),
    [
        ({}, range(13, 17)),
        ({"window": 3, "closeness": 2, "level": 0.5}, range(5, 17)),
        ({"window_steps": 10, "kappas": (0.25, 2)}, range(7, 17)),
    ],
)
def test_report_is_that_of_the_series_by_the_settings(settings, rows):
    one = check(scale_invariant=False, **settings)
    train(sgd(), one, epochs=4)
    report = one.report
    assert one.series[-len(rows) :]["step"].tolist() == list(rows)
    assert (report.estimate.count, report.every) == (len(rows), 1)
    conditions = report.verdict.conditions
    assert conditions.learning_rate == pytest.approx(RATE)
    assert conditions.weight_decay == DECAY
    given = {"batch_size": BATCH_SIZE, "epochs": 4, **settings}
    assert report == scaling_report(one.series, conditions, **given)


@pytest.mark.parametrize(
    ("undecayed", "penalty", "expected"),
    [
        ((), None, set()),
        (("bias",), None, {"not_all_decayed"}),
        (("bias", "kernel"), None, {"none_decayed", "no_weight_decay"}),
        ((), "l2", {"regularizer", "not_scale_invariant"}),
    ],
)
def test_reasons_for_a_heuristic_are_read_from_the_model(
    undecayed, penalty, expected
):
    network = dense_network(kernel_regularizer=penalty)
    verdict = judged(sgd(undecayed), network=network, scale_invariant=True)
    at_rest = {"not_at_equilibrium", "equilibrium_unknown"}
    assert codes(verdict) - at_rest == expected


class Whimsical(keras.Model):
    """Refuses any batch that is not one of training, in a graph."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2)

    def call(self, x, training=None):
        if not training or tf.executing_eagerly():
            raise RuntimeError("It is not training in a graph.")
        return self.dense(x)


def invariant():
    return applications.ScaleInvariantMLP((4,), 2, (6, 6), seed=0)


@pytest.mark.parametrize(
    ("network", "given", "expected"),
    [
        (dense_network, True, True),
        (dense_network, X, False),
        (dense_network, None, False),
        (invariant, None, True),
        (Whimsical, None, None),
    ],
)
def test_scale_invariance_is_given_or_measured(network, given, expected):
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    labels = np.eye(2)[(Y[:, 0] > 0).astype(int)]
    training = {"network": network(), "loss": loss, "y": labels}
    verdict = judged(sgd(), 1, given, **training)
    assert verdict.conditions.scale_invariant is expected
    is_unknown = "scale_invariance_unknown" in codes(verdict)
    assert is_unknown == (expected is None)
    no_inference = verdict.estimate.loss_difference is None
    assert no_inference == (network is Whimsical)


# The square-root rule


def test_adam_is_judged_in_its_norm():
    one = check(window=1)
    optimizer = Adam(0.01, beta_2=0.8, epsilon=0.5, weight_decay=0.1)
    train(optimizer, one)
    verdict, last = one.report.verdict, one.series.window(epochs=1)
    estimate = last.estimate(BATCH_SIZE, preconditioned=True)
    assert (verdict.rule, verdict.estimate) == ("square_root", estimate)
    v = np.concatenate([np.ravel(m) for m in optimizer._velocities])
    ratio = np.mean(v / (np.sqrt(v) + 0.5) ** 2)
    adaptive = verdict.conditions.adaptive
    assert adaptive.epsilon_ratio == pytest.approx(ratio, rel=1e-5)
    assert "large_epsilon" in codes(verdict)


@pytest.mark.parametrize(
    ("optimizer", "rule", "judged_by", "refusal"),
    [
        ("adamw", "auto", "square_root", None),
        ("lion", "auto", "square_root", "no_second_moments"),
        ("sgd", "square_root", "square_root", "square_root_rule_for_sgd"),
    ],
)
def test_rule_is_given_or_goes_by_the_optimizer(
    optimizer, rule, judged_by, refusal
):
    one = check(rule=rule)
    logs = train(optimizer, one, epochs=1)
    verdict = one.report.verdict
    assert verdict.rule == judged_by
    assert (verdict.refusal and verdict.refusal.code) == refusal
    assert math.isnan(logs["max_batch_size_low"][-1]) == bool(refusal)
    assert not math.isnan(logs["noise_to_signal_low"][-1])


def test_svag_is_compared_with_sgd_at_its_batch():
    model = SVAGModel(dense_network())
    verdict = judged(SVAG(RATE, ell=2, weight_decay=DECAY), network=model)
    # A pair of a batch is two batches of the SGD that is simulated.
    assert (verdict.ell, verdict.batch_size) == (2, BATCH_SIZE // 2)


# Logs and reports


def test_report_is_there_from_the_first_observation_on(capsys):
    reports, of_epochs, one = [], [], check(verbose=1, window=1)
    look = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: reports.append(one.report),
        on_epoch_end=lambda epoch, logs: of_epochs.append(one.report),
    )
    assert one.report is None
    history = train(sgd(), one, check(), look)
    assert [report is None for report in reports] == [True] * 2 + [False] * 6
    counts = [report.estimate.count for report in reports[2:]]
    assert counts == [1, 2, 3, 1, 2, 3]
    assert capsys.readouterr().out == f"{one.report}\n"
    for key in LOG_KEYS:
        expected = [report.to_logs()[key] for report in of_epochs]
        np.testing.assert_array_equal(history[key], expected)


# Copies and states


def test_copies_made_in_training_and_after_it_go_on_by_themselves():
    copies, one = [], check()
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: copies.append(copy.deepcopy(one))
    )
    network = dense_network()
    train(sgd(), one, look, network=network)
    copies.append(pickle.loads(pickle.dumps(one)))
    assert [len(other.series) for other in copies] == [3, 7, 7]
    for other in copies[1:]:
        assert str(other.report) == str(one.report)
    network.fit(X, Y, BATCH_SIZE, callbacks=copies[2:], verbose=0)
    assert (len(one.series), len(copies[2].series)) == (7, 10)


def test_state_goes_on_in_another_process():
    one, other, network = check(), check(), invariant()
    train(sgd(), one, network=network)
    state = json.loads(json.dumps(one.state_dict(), allow_nan=False))
    other.load_state_dict(state)
    assert other.report is None
    # Too few steps for another look at the invariance.
    network.fit(X[:16], Y[:16], BATCH_SIZE, callbacks=[other], verbose=0)
    assert other.series["epoch"].tolist() == [1] * 3 + [2] * 4 + [3]
    assert other.report.verdict.conditions.scale_invariant


# What is refused


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"window": 3}, "`window` must be .* the run has no"),
        ({"window_steps": 9}, "`window_steps` must be .* the run has no"),
        ({"window": 2, "window_steps": 8}, "`window_steps` must be None where"),
        ({"scale_invariant": np.zeros((8, 5))}, "`scale_invariant` must be"),
    ],
)
def test_what_is_refused_before_training(settings, sentence):
    optimizer = sgd()
    with pytest.raises(ValueError, match=sentence):
        train(optimizer, check(**settings))
    assert optimizer.iterations == 0

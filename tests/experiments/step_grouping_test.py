import keras
import pytest

from experiments import build
from experiments.build import multiply_adds, steps_per_call
from keras_svag.applications import PreResNet, ScaleInvariantMLP
from tests.train.train_test import history, run, weights


def small_network():
    return ScaleInvariantMLP((8, 8, 1), 10, hidden_units=(64, 64))


def test_multiplications_of_dense_layers_and_convolutions():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((9, 7, 3)),
            # 'valid', stride 2: 4 × 3 positions, each 3·3·3 products for 5.
            keras.layers.Conv2D(5, 3, strides=2),
            keras.layers.Flatten(),
            keras.layers.Dense(6),
        ]
    )
    assert multiply_adds(model) == 4 * 3 * 3 * 3 * 3 * 5 + 4 * 3 * 5 * 6


@pytest.mark.parametrize(
    ("steps", "expected"), [(356, 89), (64, 64), (13, 13), (2 * 131, 2)]
)
def test_steps_of_a_small_network_fill_whole_calls(steps, expected):
    assert steps_per_call(small_network(), 32, steps) == expected


def test_the_more_a_step_takes_the_fewer_are_in_a_call():
    network = small_network()
    found = [
        steps_per_call(network, rows, 720) for rows in (1, 10**3, 10**4, 10**6)
    ]
    assert found == sorted(found, reverse=True)
    assert (found[0], found[-1]) == (120, 1)
    large = PreResNet(8, (32, 32, 3), 10)
    assert steps_per_call(large, 256, 720) == 1


def test_a_run_does_not_depend_on_it(tmp_path, monkeypatch):
    options = {"schedule": "cosine", "epochs": 2, "ell": 2}
    together, results = run(tmp_path, "together", **options)
    found = []

    def one_step(*arguments):
        found.append(steps_per_call(*arguments))
        return 1

    monkeypatch.setattr(build, "steps_per_call", one_step)
    apart, expected = run(tmp_path, "apart", **options)
    assert found[0] > 1
    assert (weights(together) == weights(apart)).all()
    assert history(together) == history(apart)
    # Where the loss is compared with that of the halves depends on the calls.
    for found in (results, expected):
        found.get("gradient_noise", {}).pop("loss_difference", None)
    assert results == expected

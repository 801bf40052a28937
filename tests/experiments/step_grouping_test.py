import keras
import pytest

from experiments import build
from experiments.build import multiply_adds, steps_per_call
from keras_svag.applications import ScaleInvariantMLP
from tests.helpers.contents import contents
from tests.helpers.small_runs import run, small_config


def test_multiplications_of_dense_layers_and_convolutions():
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
    ("rows", "steps", "expected"),
    [
        # Steps of a small network fill whole calls.
        (32, 356, 89),
        (32, 64, 64),
        (32, 2 * 131, 2),
        # The more a step takes, the fewer are in a call.
        (1, 720, 120),
        (2 * 10**8 // (8 * 8 * 64 + 64 * 64 + 64 * 10) // 10, 720, 10),
        (10**6, 720, 1),
    ],
)
def test_a_call_is_worth_its_steps(rows, steps, expected):
    network = ScaleInvariantMLP((8, 8, 1), 10, hidden_units=(64, 64))
    assert steps_per_call(network, rows, steps) == expected


def test_a_run_does_not_depend_on_it(tmp_path, monkeypatch):
    config = small_config(schedule="cosine", epochs=2, ell=2)
    together = run(tmp_path / "together", config)
    found = []

    def one_step(*arguments):
        found.append(steps_per_call(*arguments))
        return 1

    monkeypatch.setattr(build, "steps_per_call", one_step)
    apart = run(tmp_path / "apart", config)
    assert found[0] > 1
    # Where the loss is compared with that of the halves depends on the calls.
    for results in (together, apart):
        results["gradient_noise"].pop("loss_difference")
    assert together == apart
    for name in ("model.keras", "history.csv"):
        one, other = (contents(tmp_path / f) for f in ("together", "apart"))
        assert one[name] == other[name]

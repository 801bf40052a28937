import pytest

from configs import digits
from experiments.sweep.grid import swept_runs


def runs(*specifications, **overrides):
    config = digits.get_config()
    config.update(overrides)
    return swept_runs(specifications, config)


def test_product_of_all_values_has_a_run_each():
    config = digits.get_config()
    swept = swept_runs(["learning_rate=0.5,1", "model.name=x,y"], config)
    assert [run.name for run in swept] == [
        "learning_rate=0.5,model.name=x",
        "learning_rate=0.5,model.name=y",
        "learning_rate=1,model.name=x",
        "learning_rate=1,model.name=y",
    ]
    # A run has the configuration that its command line gives.
    run = swept[2]
    assert run.arguments == [
        "--config.learning_rate=1.0",
        "--config.model.name=x",
    ]
    assert (run.config.learning_rate, run.config.model.name) == (1.0, "x")
    assert config == digits.get_config()


def test_values_get_the_type_of_their_key():
    first, second = runs(
        "measure_noise=false",
        # Commas in brackets separate no values.
        "model.hidden_units=(8,),(16, 16)",
        "num_examples=100",
        "lsr.window=3",
        "weight_decay=1e-3",
        "pairing=halves",
    )
    assert first.overrides == {
        "measure_noise": False,
        "model.hidden_units": (8,),
        "num_examples": 100,
        "lsr.window": 3,
        "weight_decay": 1e-3,
        "pairing": "halves",
    }
    assert second.overrides["model.hidden_units"] == (16, 16)
    assert "model.hidden_units=(16,16),num_examples" in second.name


ADAM = {"optimizer": "adam", "learning_rate": 0.01, "weight_decay": 0.1}
SQUARE_ROOT = ADAM | {"scale_lr": "square_root"}
LINEAR = {"learning_rate": 0.2, "scale_lr": "linear"}


def rates(*values):
    return [{"learning_rate": value} for value in values]


def by_the_square_root_rule(kappa):
    """Adam with a beta_1 of 0.95; its beta_2 and epsilon are Keras's."""
    return {
        "learning_rate": 0.01 * kappa**0.5,
        "beta_1": 1 - 0.05 * kappa,
        "beta_2": 1 - 0.001 * kappa,
        "epsilon": 1e-7 / kappa**0.5,
        "weight_decay": 0.1 * kappa**0.5,
    }


@pytest.mark.parametrize(
    "specifications, overrides, scaled",
    [
        # η of the configuration is that of its own batch size, 16.
        (["batch_size=8,16,64"], LINEAR, rates(0.1, 0.2, 0.8)),
        (["batch_size=32", "learning_rate=0.1,0.3"], LINEAR, rates(0.2, 0.6)),
        # It scales no more of Adam than the rate.
        (["batch_size=64"], ADAM | {"scale_lr": "linear"}, rates(0.04)),
        (
            ["batch_size=4,16,64", "seed=0"],
            SQUARE_ROOT | {"beta_1": 0.95},
            [by_the_square_root_rule(kappa) for kappa in (1 / 4, 1, 4)],
        ),
        # Without the rule, or another batch size, it stays.
        (["batch_size=8,64"], {}, [{}, {}]),
        (["ell=1,2"], LINEAR, [{}, {}]),
    ],
)
def test_a_rule_scales_what_goes_with_the_batch(
    specifications, overrides, scaled
):
    found = runs(*specifications, batch_size=16, **overrides)
    swept = {text.partition("=")[0] for text in specifications}
    for run, expected in zip(found, scaled, strict=True):
        assert run.overrides.keys() == swept | expected.keys()
        for key, value in expected.items():
            assert run.config[key] == pytest.approx(value, rel=1e-12)
            assert f"--config.{key}={run.config[key]!r}" in run.arguments
        assert "learning_rate" not in run.name or "learning_rate" in swept


@pytest.mark.parametrize(
    ("specifications", "overrides", "sentence"),
    [
        (["elll=1"], {}, "names 'elll', which is no key of the conf.*; its"),
        (["model=1"], {}, "names 'model', which is no .*model.hidden_units"),
        (["ell=,"], {}, "ell= has no values; list some"),
        (["ell"], {}, "must be key=value,value,…, such as.*, got 'ell'"),
        (["ell=1,two"], {}, "ell takes values of type int, got 'two'"),
        (["ell=1,,2"], {}, "ell takes values of type int, got ''"),
        (["learning_rate=nan"], {}, "learning_rate takes values of type fl"),
        (["measure_noise=2"], {}, "measure_noise takes values of type bool"),
        (["milestones=3"], {}, "milestones takes values of type tuple"),
        (["ell=1,2,1"], {}, "has ell=1 twice"),
        (["learning_rate=1,1.0"], {}, "has learning_rate=1.0 twice"),
        (["ell=1", "seed=0", "ell=2"], {}, "has 'ell' twice"),
        (["batch_size=1"], {"scale_lr": "cubic"}, "`scale_lr` must be one of"),
        # 1 - beta_1 is 0.1 at 16.
        (["batch_size=16,320"], SQUARE_ROOT, "batch_size=320: .*below 10.$"),
    ],
)
def test_bad_sweep_is_one_sentence(specifications, overrides, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        runs(*specifications, **overrides)
    assert "\n" not in str(error.value)

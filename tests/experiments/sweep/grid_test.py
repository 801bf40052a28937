import pytest

from configs import digits
from experiments.sweep.grid import arguments_of_a_run, swept_runs


def runs(*specifications, **overrides):
    config = digits.get_config()
    config.update(overrides)
    return swept_runs(specifications, config)


def test_product_of_all_values_has_a_run_each():
    names = [run.name for run in runs("ell=1,2", "seed=0,1,2")]
    assert names == [
        "ell=1,seed=0",
        "ell=1,seed=1",
        "ell=1,seed=2",
        "ell=2,seed=0",
        "ell=2,seed=1",
        "ell=2,seed=2",
    ]


def test_run_has_the_configuration_that_its_command_line_gives():
    config = digits.get_config()
    run = swept_runs(["learning_rate=0.5,1", "model.name=x,y"], config)[2]
    assert run.arguments == [
        "--config.learning_rate=1.0",
        "--config.model.name=x",
    ]
    assert (run.config.learning_rate, run.config.model.name) == (1.0, "x")
    assert (config.learning_rate, config.model.name) == (
        0.2,
        "scale_invariant_mlp",
    )


def test_values_get_the_type_of_their_key():
    (run,) = runs(
        "measure_noise=False",
        "model.hidden_units=(8,)",
        "num_examples=100",
        "lsr.window=3",
        "weight_decay=1e-3",
        "pairing=halves",
    )
    assert run.overrides == {
        "measure_noise": False,
        "model.hidden_units": (8,),
        "num_examples": 100,
        "lsr.window": 3,
        "weight_decay": 1e-3,
        "pairing": "halves",
    }


def test_commas_in_brackets_separate_no_values():
    values = [
        run.overrides["model.hidden_units"]
        for run in runs("model.hidden_units=(8,),(16, 16)")
    ]
    assert values == [(8,), (16, 16)]


def test_linear_rule_scales_the_learning_rate_with_the_batch():
    common = {"batch_size": 16, "learning_rate": 0.2}
    swept = runs("batch_size=8,16,64", scale_lr="linear", **common)
    # η of the configuration is that of its own batch size, 16.
    for run, kappa in zip(swept, (1 / 2, 1, 4), strict=True):
        assert run.config.learning_rate == pytest.approx(0.2 * kappa)
        rate = f"--config.learning_rate={run.config.learning_rate}"
        assert rate in run.arguments
    assert [run.name for run in swept] == [
        "batch_size=8",
        "batch_size=16",
        "batch_size=64",
    ]


def test_linear_rule_scales_a_swept_learning_rate_too():
    swept = runs(
        "batch_size=32",
        "learning_rate=0.1,0.3",
        batch_size=16,
        scale_lr="linear",
    )
    rates = [run.config.learning_rate for run in swept]
    assert rates == pytest.approx([0.2, 0.6])


ADAM = {
    "batch_size": 16,
    "optimizer": "adam",
    "learning_rate": 0.01,
    "weight_decay": 0.1,
    "scale_lr": "square_root",
}


def test_square_root_rule_scales_all_that_adam_has():
    swept = runs("batch_size=4,16,64", "seed=0", beta_1=0.95, **ADAM)
    for run, kappa in zip(swept, (1 / 4, 1, 4), strict=True):
        # beta_2 and epsilon are Keras's.
        expected = {
            "learning_rate": 0.01 * kappa**0.5,
            "beta_1": 1 - 0.05 * kappa,
            "beta_2": 1 - 0.001 * kappa,
            "epsilon": 1e-7 / kappa**0.5,
            "weight_decay": 0.1 * kappa**0.5,
        }
        for key, value in expected.items():
            assert run.overrides[key] == pytest.approx(value, rel=1e-12)
            assert run.config[key] == run.overrides[key]
            assert f"--config.{key}={run.config[key]!r}" in run.arguments
        assert run.config.rho is None
    assert swept[0].name == "batch_size=4,seed=0"


def test_square_root_rule_follows_a_swept_optimizer():
    adam, rmsprop = runs("batch_size=64", "optimizer=adam,rmsprop", **ADAM)
    assert "rho" not in adam.overrides
    assert rmsprop.config.rho == pytest.approx(0.6)
    # Keras adds it within the root.
    assert rmsprop.config.epsilon == pytest.approx(1e-7 / 4)


def test_linear_rule_scales_no_more_of_adam_than_the_rate():
    (run,) = runs("batch_size=64", **ADAM | {"scale_lr": "linear"})
    assert run.overrides == {"batch_size": 64, "learning_rate": 0.04}


def test_a_batch_too_large_for_the_rule_is_one_sentence():
    # 1 - beta_1 is 0.1 at 16.
    with pytest.raises(ValueError, match="batch_size=320: .*below 10.$"):
        runs("batch_size=16,320", **ADAM)


def test_a_key_that_the_rule_scales_and_the_file_lacks_is_named():
    config = digits.get_config()
    config.update(ADAM)
    del config.beta_2
    with pytest.raises(ValueError, match="lacks `beta_2`, which scale_lr="):
        swept_runs(["batch_size=32"], config)


def test_without_the_rule_the_learning_rate_stays():
    for run in runs("batch_size=8,64"):
        assert run.config.learning_rate == digits.get_config().learning_rate
    for run in runs("ell=1,2", scale_lr="linear"):
        assert "learning_rate" not in run.overrides


@pytest.mark.parametrize(
    ("specification", "sentence"),
    [
        ("elll=1,2", "names 'elll', which the configuration lacks; its keys"),
        ("model.nosuch=1", "names 'model.nosuch', which the configuration"),
        ("ell.nosuch=1", "names 'ell.nosuch', which the configuration"),
        ("model=1", "'model', which is a section.*such as model.hidden_units"),
        ("ell=", "ell= has no values; list some"),
        ("ell=,", "ell= has no values; list some"),
        ("ell", "must be key=value,value,…, such as ell=1,2,4, got 'ell'"),
        ("=1", "must be key=value"),
        ("", "must be key=value"),
        ("ell=1,two", "ell takes values of type int, got 'two'"),
        ("ell=1,2.5", "ell takes values of type int, got '2.5'"),
        ("ell=1,,2", "ell takes values of type int, got ''"),
        ("learning_rate=fast", "learning_rate takes values of type float"),
        ("learning_rate=nan", "learning_rate takes values of type float"),
        ("measure_noise=2", "measure_noise takes values of type bool"),
        ("milestones=3", "milestones takes values of type tuple, got '3'"),
        ("num_examples=many", "num_examples takes values of type int"),
        ("ell=1,2,1", "has ell=1 twice"),
        ("learning_rate=1,1.0", "has learning_rate=1.0 twice"),
    ],
)
def test_bad_sweep_is_one_sentence(specification, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        runs(specification)
    assert "\n" not in str(error.value)


def test_a_key_is_swept_once():
    with pytest.raises(ValueError, match="has 'ell' twice"):
        runs("ell=1", "seed=0", "ell=2")


def test_unknown_rule_is_one_sentence():
    with pytest.raises(
        ValueError, match="`scale_lr` must be one of 'none', 'lin"
    ):
        runs("batch_size=1", scale_lr="cubic")


def test_a_run_is_no_sweep():
    arguments = [
        "--config=configs/digits.py",
        "--sweep=ell=1,2",
        "--config.epochs=2",
        "--sweep",
        "seed=0,1",
        "-jobs",
        "2",
        "--jobs=3",
        "--shard=1/2",
        "--workdir=runs/sweep",
        "--workdir",
        "elsewhere",
        "--data_dir",
        "sweep",
    ]
    assert arguments_of_a_run(arguments) == [
        "--config=configs/digits.py",
        "--config.epochs=2",
        "--data_dir",
        "sweep",
    ]


def test_flags_of_a_file_are_refused():
    with pytest.raises(ValueError, match="--flagfile cannot be used with"):
        arguments_of_a_run(["--flagfile=flags", "--sweep=ell=1"])

import json
import os
import re

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator

from experiments.run_folder import results_table
from tests.helpers.processes import Program
from tests.helpers.small_runs import (
    history,
    numbers,
    run,
    small_config,
    weights,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run as a user starts it: its folder, arguments and output."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    arguments = [
        f"--workdir={folder}",
        "--config.epochs=2",
        "--config.batch_size=128",
        "--config.learning_rate=0.5",
        "--config.model.hidden_units=(8,)",
    ]
    program = Program("train.py", *arguments)
    output, errors = program.communicate()
    assert (program.returncode, errors) == (0, "")
    return folder, arguments, output


def test_a_run_leaves_its_configuration_history_and_model(finished):
    folder, *_ = finished
    config = json.loads((folder / "config.json").read_text())
    assert config["model"]["hidden_units"] == [8]
    noise = {"grad_sq_norm", "noise_trace", "noise_to_signal", "noise_scale"}
    assert history(folder).keys() >= noise | {"weight_sq_norm", "learning_rate"}
    assert not any(key.startswith("val_noise") for key in history(folder))
    # 1,437 // 128 = 11 steps of SGD, at learning rate 0.5.
    assert numbers(folder, "effective_step") == [11, 22]
    assert numbers(folder, "continuous_time") == pytest.approx([5.5, 11])
    model = keras.saving.load_model(folder / "model.keras")
    assert model.output_shape == (None, 10)
    events = event_accumulator.EventAccumulator(str(folder / "train"))
    events.Reload()
    names = ("noise_to_signal", "learning_rate", "continuous_time")
    assert {f"epoch_{name}" for name in names} <= {*events.Tags()["tensors"]}


def test_a_log_has_a_line_an_epoch(finished):
    folder, _, output = finished
    first, second, empty, *_ = output.splitlines()
    assert empty == ""
    for epoch, line in enumerate((first, second)):
        assert line.startswith(f"epoch {epoch + 1}/2  loss ")
        assert len(line) <= 80 and re.search(r" \d\d:\d\d left$", line)
        for name, key, form in (
            ("loss", "loss", ".3g"),
            ("accuracy", "accuracy", ".1%"),
            ("test", "val_accuracy", ".1%"),
            ("N/G", "noise_to_signal", ".3g"),
        ):
            assert f"  {name} {numbers(folder, key)[epoch]:{form}} " in line


def test_a_run_ends_with_its_table_also_if_it_is_finished(finished):
    folder, arguments, output = finished
    results = json.loads((folder / "results.json").read_text())
    noise = results["gradient_noise"]
    assert f"{results['accuracy']:.2%}" in output
    ratio = re.search(r"\nN/G +([\d.]+) ± ([\d.]+)", output)
    # To the error's two digits.
    assert float(ratio[1]) == pytest.approx(
        noise["noise_to_signal"], abs=0.05 * float(ratio[2])
    )
    assert noise == results["linear_scaling"]["gradient_noise"]
    assert "Tr Σ at batch size 128" in output
    assert f"tensorboard --logdir={folder}" in output
    again, _ = Program("train.py", *arguments).communicate()
    head, _, table = again.partition("\n")
    assert head == f"The run in {folder} is finished already."
    assert output.endswith(table)


def test_mirrored_run_is_that_of_one_device(finished, tmp_path):
    folder, arguments, _ = finished
    program = Program(
        "train.py",
        *arguments,
        f"--workdir={tmp_path}",
        "--strategy=mirrored",
        "--virtual_devices=2",
    )
    assert program.wait() == 0, program.printed(2)
    np.testing.assert_allclose(weights(tmp_path), weights(folder), atol=1e-5)
    accuracy = numbers(folder, "val_accuracy")
    assert numbers(tmp_path, "val_accuracy") == pytest.approx(
        accuracy, abs=0.01
    )


@pytest.mark.parametrize("sampling", ["with_replacement", "shuffle"])
@pytest.mark.parametrize("pairing", ["independent", "halves"])
def test_plain_model_trains_as_the_measured_one(tmp_path, sampling, pairing):
    config = small_config(sampling=sampling, pairing=pairing, ell=2)
    measured, plain = tmp_path / "measured", tmp_path / "plain"
    run(measured, config)
    config.measure_noise = False
    assert "gradient_noise" not in run(plain, config)
    np.testing.assert_allclose(weights(plain), weights(measured), atol=1e-6)
    for key in ("effective_step", "continuous_time"):
        assert history(plain)[key] == history(measured)[key]
    assert "noise_trace" not in history(plain)


def test_non_finite_loss_stops_and_keeps_what_was_written(tmp_path):
    config = small_config(learning_rate=1e30, weight_decay=1.0)
    with pytest.raises(FloatingPointError, match="by training step [1-9]"):
        run(tmp_path / "run", config)
    written = set(os.listdir(tmp_path / "run"))
    assert {"config.json", "history.csv"} < written
    assert "results.json" not in written


def test_the_check_of_the_scaling_rule_is_in_the_results(tmp_path):
    judged = {"enabled": True, "per_layer": True, "kappas": (3,)}
    results = run(tmp_path / "run", small_config(epochs=2, lsr=judged))
    saved = json.loads((tmp_path / "run" / "results.json").read_text())
    report = saved["linear_scaling"]
    assert report == json.loads(json.dumps(results["linear_scaling"]))
    assert report["batch_size"] == 128
    assert [run["kappa"] for run in report["runs"]] == [3]
    assert (report["first_epoch"], report["last_epoch"]) == (2, 2)
    # One batch of training data tells that the network is scale-invariant.
    assert not any("scale_inv" in reason for reason in report["reasons"])
    assert report["balance"] > 0
    assert report["text"] in results_table(results)
    assert list(report["gradient_noise"]["per_layer"])
    assert (tmp_path / "run" / "gradient_noise").is_dir()

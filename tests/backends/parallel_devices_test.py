"""`keras.distribution.DataParallel` on JAX: several devices equal one."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests.helpers.paths import ROOT

if keras.backend.backend() != "jax":
    pytest.skip("JAX alone has data parallelism", allow_module_level=True)


def run(devices, script, *arguments, flags=""):
    """Runs one of the helpers on so many virtual devices."""
    flags += f" --xla_force_host_platform_device_count={devices}"
    # What is not compiled is not written down.
    own = {"XLA_FLAGS": flags, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    subprocess.run(
        [sys.executable, "-m", f"tests.helpers.{script}", *arguments],
        env={**os.environ, **own},
        cwd=ROOT,
        check=True,
    )


def test_four_devices_give_the_noise_and_the_weights_of_one(tmp_path):
    found = []
    for devices in (1, 4):
        path = tmp_path / f"{devices}.npz"
        run(devices, "parallel_devices", path)
        found.append(dict(np.load(path)))
    one, four = found
    assert (one.pop("devices"), four.pop("devices")) == (1, 4)
    for key, value in one.items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(
            four[key], value, 0, 1e-6 * scale, err_msg=key
        )


def test_gradients_are_exchanged_as_in_plain_training(tmp_path):
    results = tmp_path / "results.json"
    flags = f"--xla_dump_to={tmp_path} --xla_dump_hlo_as_text"
    run(4, "exchanges", tmp_path, results, flags=flags)
    programs = json.loads(results.read_text())

    def exchanged(training, program="jit_train_step"):
        (_, sizes), *others = programs[training][program]
        assert not others
        return sizes

    plain = exchanged("SGD")
    assert max(plain) == 192  # The gradient of the dense kernel.
    # All steps are done by one program of hers, measured or not.
    hers = programs["SGD"]["jit_train_step"]
    assert programs["SGD measured"]["jit_train_step"] == hers
    # A measured step has two gradients more and sums of each half's arrays,
    # another look three losses.
    twice = sorted(2 * plain)
    of_pair = exchanged("SGD measured", "jit__moments")
    assert [s for s in of_pair if s > 4] == [s for s in twice if s > 4]
    assert len(of_pair) <= len(twice) + 2
    assert exchanged("SGD measured", "jit__losses") == [1, 1, 1]
    assert exchanged("SVAG") == plain
    # A pair has two gradients, whether they are observed or not.
    assert exchanged("SVAGModel") == twice
    assert exchanged("SVAGModel measured") == sorted([1, 1, *twice])

"""`keras.distribution.DataParallel` on JAX: several devices equal one."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests.helpers.paths import ROOT

SCRIPT = ROOT / "tests/helpers/parallel_devices.py"
if keras.backend.backend() != "jax":
    pytest.skip("JAX alone has data parallelism", allow_module_level=True)


def test_four_devices_give_the_noise_and_the_weights_of_one(tmp_path):
    found = []
    for devices in (1, 4):
        path = tmp_path / f"{devices}.npz"
        flag = f"--xla_force_host_platform_device_count={devices}"
        subprocess.run(
            [sys.executable, SCRIPT, path],
            env={**os.environ, "XLA_FLAGS": flag, "PYTHONPATH": str(ROOT)},
            check=True,
        )
        found.append(dict(np.load(path)))
    one, four = found
    assert (one.pop("devices"), four.pop("devices")) == (1, 4)
    for key, value in one.items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(
            four[key], value, 0, 1e-6 * scale, err_msg=key
        )

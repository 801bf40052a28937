"""`keras.distribution.DataParallel` on JAX: several devices equal one."""

import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import keras
import numpy as np
import pytest

from tests.helpers.paths import ROOT

if keras.backend.backend() != "jax":
    pytest.skip("JAX alone has data parallelism", allow_module_level=True)


@functools.cache
def trained_on(devices):
    """What the trainings on so many virtual devices give."""
    with tempfile.TemporaryDirectory() as folder:
        flags = (
            f"--xla_force_host_platform_device_count={devices} "
            f"--xla_dump_to={folder} --xla_dump_hlo_as_text"
        )
        # What is not compiled is not written down.
        own = {"XLA_FLAGS": flags, "JAX_ENABLE_COMPILATION_CACHE": "false"}
        results = f"{folder}/results.json"
        name = "tests.helpers.parallel_devices"
        subprocess.run(
            [sys.executable, "-m", name, results, folder],
            env={**os.environ, **own},
            cwd=ROOT,
            check=True,
        )
        return json.loads(pathlib.Path(results).read_text())


@pytest.mark.parametrize("training", ["SGD measured", "SVAGModel measured"])
def test_four_devices_give_the_noise_and_the_weights_of_one(training):
    one, four = map(trained_on, (1, 4))
    assert (one["devices"], four["devices"]) == (1, 4)
    for key, value in one[training]["numbers"].items():
        error = 1e-6 * np.abs(value).max()
        found = four[training]["numbers"][key]
        np.testing.assert_allclose(found, value, 0, error, err_msg=key)


def test_gradients_are_exchanged_as_in_plain_training():
    trainings = trained_on(4)

    def exchanged(training, program="jit_train_step"):
        (_, sizes), *others = trainings[training]["programs"][program]
        assert not others
        return sizes

    plain = exchanged("SGD")
    assert max(plain) == 192  # The gradient of the dense kernel.
    # All steps are done by one program of hers, measured or not.
    hers, measured = (
        trainings[name]["programs"]["jit_train_step"]
        for name in ("SGD", "SGD measured")
    )
    assert measured == hers
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

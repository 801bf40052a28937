"""Runs checks under a strategy, each of which prints how it ended.

`python -m tests.helpers.distribution.run replicas R` mirrors a model over R
virtual CPUs. Two replicas get all the checks, four get those that compare
numbers with one device's, and so does one, which is mirrored too.

`python -m tests.helpers.distribution.run worker SECONDS` is one worker of the
cluster that TF_CONFIG describes. At last the second worker kills itself.
"""

import faulthandler
import sys
import warnings

import pytest
import tensorflow as tf

from experiments.strategies import make_strategy
from tests.helpers.distribution import checks, mirrored, workers


def checks_of(*modules):
    return {
        name: check
        for module in modules
        for name, check in vars(module).items()
        if name.startswith("check_")
    }


def named(*functions):
    return {function.__name__: function for function in functions}


OF_NUMBERS = named(
    checks.check_svag_model_and_its_noise_are_those_of_one_device,
    checks.check_plain_model_equals_one_device,
)
OF_REPLICAS = {
    1: OF_NUMBERS | named(mirrored.check_batches_need_a_static_size),
    2: checks_of(checks, mirrored),
    4: OF_NUMBERS,
}
LAST = named(workers.last_worker_dies)
OF_WORKERS = checks_of(checks) | checks_of(workers) | LAST


def run(checks, strategy):
    """Prints `name: passed`, or the name and the error, for each check."""
    warnings.simplefilter("ignore")
    for name, check in checks.items():
        try:
            check(strategy)
            outcome = "passed"
        except (Exception, pytest.fail.Exception) as error:
            outcome = f"{type(error).__name__}: {error}".replace("\n", " ")
        print(f"{name}: {outcome}", flush=True)


def outcomes(program, seconds):
    """Maps each check to its outcome; the end of stderr under None."""
    printed, errors = program.communicate(timeout=seconds)
    found = dict(line.split(": ", 1) for line in printed.splitlines())
    return {None: errors[-3000:], **found}


def run_on_replicas(count):
    # With fewer threads than replicas, collectives wait for one another.
    tf.config.threading.set_inter_op_parallelism_threads(2 * count)
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * count,
    )
    devices = [f"/cpu:{index}" for index in range(count)]
    strategy = tf.distribute.MirroredStrategy(devices)
    assert strategy.num_replicas_in_sync == count
    run(OF_REPLICAS[count], strategy)


def run_on_worker(seconds):
    faulthandler.enable()
    # A check that only one worker fails leaves the others waiting for ever.
    faulthandler.dump_traceback_later(seconds, exit=True)
    run(OF_WORKERS, make_strategy("multi_worker", None))


if __name__ == "__main__":
    start = {"replicas": run_on_replicas, "worker": run_on_worker}
    start[sys.argv[1]](int(sys.argv[2]))

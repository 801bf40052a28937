"""Runs checks under MirroredStrategy on some number of virtual CPUs.

`python -m tests.helpers.distribution.run R` prints a line `name: passed`, or
the name and the error, for each. Two replicas get all of them, four get those
that compare numbers with one device's, and so does one, which is mirrored too.
"""

import sys
import warnings

import tensorflow as tf

from tests.helpers.distribution import checks, mirrored


def checks_of(*modules):
    return {
        name: check
        for module in modules
        for name, check in vars(module).items()
        if name.startswith("check_")
    }


CHECKS = {2: checks_of(checks, mirrored)}
CHECKS[4] = {
    check.__name__: check
    for check in (
        checks.check_svag_model_and_its_noise_are_those_of_one_device,
        checks.check_plain_model_equals_one_device,
    )
}
CHECKS[1] = CHECKS[4] | {
    check.__name__: check
    for check in (mirrored.check_batches_need_a_static_size,)
}


def run(named, strategy):
    warnings.simplefilter("ignore")
    for name, check in named.items():
        try:
            check(strategy)
            outcome = "passed"
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}".replace("\n", " ")
        print(f"{name}: {outcome}", flush=True)


def main(replicas):
    # With fewer threads than replicas, collectives wait for one another.
    tf.config.threading.set_inter_op_parallelism_threads(2 * replicas)
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * replicas,
    )
    strategy = tf.distribute.MirroredStrategy(
        [f"/cpu:{index}" for index in range(replicas)]
    )
    assert strategy.num_replicas_in_sync == replicas
    run(CHECKS[replicas], strategy)


if __name__ == "__main__":
    main(int(sys.argv[1]))

"""One worker of a cluster, described by TF_CONFIG, that runs all the checks.

`python -m tests.helpers.workers.run` prints a line `name: passed`, or the name
and the error, for each. At last the second worker kills itself.
"""

import faulthandler
import sys

from experiments.strategies import make_strategy
from tests.helpers.distribution import checks
from tests.helpers.distribution.run import checks_of, run
from tests.helpers.workers import checks as workers_checks

OF_ANY_STRATEGY = [
    checks.check_svag_model_and_its_noise_are_those_of_one_device,
    checks.check_plain_model_equals_one_device,
    checks.check_noisy_gradient_descent_equals_one_device,
    checks.check_evaluate_and_predict,
    checks.check_no_more_gradients_are_reduced_than_by_sgd,
    checks.check_state_of_every_replica_is_restored,
]
LAST = {"lost_worker_is_noticed": workers_checks.last_worker_dies}
CHECKS = {
    **{check.__name__: check for check in OF_ANY_STRATEGY},
    **checks_of(workers_checks),
    **LAST,
}


def main(seconds):
    faulthandler.enable()
    # A check that only one worker fails leaves the others waiting for ever.
    faulthandler.dump_traceback_later(seconds, exit=True)
    strategy = make_strategy("multi_worker", None)
    run(CHECKS, strategy)


if __name__ == "__main__":
    main(float(sys.argv[1]))

"""One worker of a cluster, described by TF_CONFIG, that runs all the checks.

`python -m tests.helpers.workers.run` prints a line `name: passed`, or the name
and the error, for each. At last the worker of the highest number kills itself.
"""

import faulthandler
import sys

from experiments.strategies import make_strategy
from tests.helpers.distribution import checks, measures, models
from tests.helpers.distribution.run import checks_of, run
from tests.helpers.workers import checks as workers_checks

OF_ANY_STRATEGY = [
    checks.check_svag_model_equals_one_device,
    checks.check_noise_has_one_observation_of_each_step_and_replica,
    checks.check_plain_model_equals_one_device,
    checks.check_noisy_gradient_descent_equals_one_device,
    checks.check_evaluate_and_predict,
    checks.check_no_more_gradients_are_reduced_than_by_sgd,
    models.check_state_of_every_replica_is_restored,
    measures.check_linear_scaling_is_judged_by_training,
    measures.check_linear_scaling_is_judged_within_an_epoch,
    measures.check_linear_scaling_is_judged_by_a_probe_as_on_one_device,
]
OWN = checks_of(workers_checks)
LAST = {"lost_worker_is_noticed": workers_checks.last_worker_dies}


def checks(num_workers):
    """Checks by name: with more than two workers, those that count them."""
    shared = OF_ANY_STRATEGY if num_workers == 2 else OF_ANY_STRATEGY[:2]
    own = OWN if num_workers == 2 else {}
    return {check.__name__: check for check in shared} | own | LAST


def main(seconds):
    faulthandler.enable()
    # A check that only one worker fails leaves the others waiting for ever.
    faulthandler.dump_traceback_later(seconds, exit=True)
    strategy = make_strategy("multi_worker", None)
    run(checks(strategy.num_replicas_in_sync), strategy)


if __name__ == "__main__":
    main(float(sys.argv[1]))

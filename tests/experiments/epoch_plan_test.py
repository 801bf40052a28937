import pytest

from experiments.epoch_plan import EpochPlan

# ell, pairing, pairs_within_step; the sub-batches that a step of SGD stands
# for, and their rows; the updates of running averages in that time. Another
# optimizer than SVAG has no pairing, and takes one batch a step.
PLANS = [
    (4, "independent", True, 8, 32, 8),
    (4, "halves", True, 8, 16, 8),
    (2, "halves", False, 4, 16, 4),
    (1, "halves", True, 2, 16, 2),
    (1, "independent", True, 2, 32, 1),
    (1, "independent", False, 2, 32, 2),
    (1, None, True, 2, 16, 1),
    (1, None, False, 2, 16, 1),
]


@pytest.mark.parametrize("plan", PLANS)
def test_an_epoch_takes_as_long_as_that_of_sgd(plan):
    *arguments, sub_batches, size, updates = plan
    plan = EpochPlan(1000, 32, *arguments)
    assert plan.sub_batch_size == size
    assert plan.rows_per_step == plan.sub_batches_per_step * size
    assert plan.sgd_steps_per_epoch == 31
    taken = plan.steps_per_epoch * plan.sub_batches_per_step
    assert taken == 31 * sub_batches
    assert plan.sub_batches_per_step == (
        1 if plan.pairing and not arguments[2] else 2
    )
    momentum = plan.running_average_momentum(0.9)
    assert momentum**updates == pytest.approx(0.9, rel=1e-12)


def test_a_shuffled_epoch_holds_whole_pairs():
    assert EpochPlan(100, 32).sub_batches_per_shuffled_epoch == 2
    halves = EpochPlan(100, 32, pairing="halves")
    assert halves.sub_batches_per_shuffled_epoch == 6


def test_odd_batch_cannot_be_halved():
    EpochPlan(1000, 31)
    for pairing in ("halves", None):
        with pytest.raises(ValueError, match="`batch_size` must be even"):
            EpochPlan(1000, 31, pairing=pairing)

import pytest

from experiments.epoch_plan import EpochPlan


@pytest.mark.parametrize("ell", [1, 4])
@pytest.mark.parametrize(
    ("pairing", "examples_per_sgd_step"),
    [
        ("independent", lambda ell: 2 * ell * 32),
        ("halves", lambda ell: ell * 32),
        # Another optimizer takes one batch a step.
        (None, lambda ell: 32),
    ],
)
@pytest.mark.parametrize("pairs_within_step", [True, False])
def test_an_epoch_takes_the_examples_of_the_theory(
    ell, pairing, examples_per_sgd_step, pairs_within_step
):
    ell = ell if pairing else 1
    plan = EpochPlan(1000, 32, ell, pairing, pairs_within_step)
    rows = plan.sub_batch_size * plan.sub_batches_per_step
    assert plan.sgd_steps_per_epoch == 31
    assert plan.steps_per_epoch * rows == 31 * examples_per_sgd_step(ell)
    if pairing is None:
        assert plan.steps_per_epoch == 31


@pytest.mark.parametrize(
    ("ell", "pairing", "pairs_within_step", "updates"),
    [
        (4, "independent", True, 8),
        (4, "halves", True, 8),
        (2, "halves", False, 4),
        (1, "halves", True, 2),
        (1, "independent", True, 1),
        (1, "independent", False, 2),
        (1, None, True, 1),
        (1, None, False, 1),
    ],
)
def test_running_averages_forget_as_in_one_step_of_sgd(
    ell, pairing, pairs_within_step, updates
):
    plan = EpochPlan(1000, 32, ell, pairing, pairs_within_step)
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

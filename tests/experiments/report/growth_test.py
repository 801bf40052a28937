import math

import numpy as np
from scipy import stats

from experiments.report.growth import GrowthStudy
from keras_svag.noise.numerals import within
from tests.helpers.synthetic_runs import study_of, text_of, write_run

EXAMPLES = 320
FIXED, MEASURED = (False, "fixed batch"), (True, "measured to 64")
GROWN = {"growth": "measured", "max_batch_size": 64}
SIZES = {False: (16, 16, 16, 16), True: (16, 16, 32, 64)}


def write(folder, losses, sizes=None, tests=None, **config):
    """A run with these losses and batch sizes at the ends of its epochs."""
    sizes = sizes or SIZES["growth" in config]
    steps = np.cumsum([EXAMPLES // size for size in sizes]).tolist()
    columns = {"effective_step": steps, "val_loss": tests or losses}
    if "growth" in config:
        columns["batch_size"] = [*sizes]
    write_run(folder, losses=losses, columns=columns, **config)


def test_steps_and_examples_are_counted_to_the_same_loss(tmp_path):
    write(tmp_path / "fixed", [4, 3, 2, 1], tests=[4, None, 3, 2])
    tests = [4, 3, 1.5, None]
    write(tmp_path / "grown", [4, 3, 1.5, 1.25], tests=tests, **GROWN)
    study = study_of(tmp_path, GrowthStudy)
    # The highest at the end: each of them reaches it.
    assert study.targets == {"loss": 1.25, "val_loss": 2}
    # 20 steps of 16, 10 of 32 or 5 of 64 are an epoch.
    assert study.reached == {
        "loss": {
            FIXED: {0: (80, 4 * EXAMPLES)},
            MEASURED: {0: (20 + 20 + 10 + 5, 4 * EXAMPLES)},
        },
        "val_loss": {
            FIXED: {0: (80, 4 * EXAMPLES)},
            MEASURED: {0: (20 + 20 + 10, 3 * EXAMPLES)},
        },
    }
    text = text_of(study)
    assert (
        "To a training loss of 1.25, measured to 64 takes 0.688 (no interval: "
        "one seed) times the steps of fixed batch: fewer steps in 1 of 1 seeds"
        in text
    )
    assert "16 to 64" in text
    study.make([], "growth-1")
    [(_, picture)] = study.pictures.values()
    assert len(picture) > 10_000


def test_a_ratio_is_that_of_each_seed_with_students_interval(tmp_path):
    # The epochs at which the fixed and the growing batch reach the loss.
    epochs = {0: (3, 3), 1: (3, 4), 2: (4, 3)}
    for seed, both in epochs.items():
        fixed, grown = ([4] * (n - 1) + [1] * (5 - n) for n in both)
        write(tmp_path / f"fixed-{seed}", fixed, seed=seed)
        sizes = (16, 32, 32, 64)
        write(tmp_path / f"grown-{seed}", grown, sizes, seed=seed, **GROWN)
    text = text_of(study_of(tmp_path, GrowthStudy))
    steps = {"fixed": [0, 20, 40, 60, 80], "grown": [0, 20, 30, 40, 45]}
    logs = [
        math.log(steps["grown"][second] / steps["fixed"][first])
        for first, second in epochs.values()
    ]
    ends = stats.ttest_1samp(logs, 0).confidence_interval(0.95)
    low, value, high = np.exp([ends[0], np.mean(logs), ends[1]])
    assert f"takes {within(low, value, high)} times the steps" in text
    assert "fewer steps in 3 of 3 seeds" in text and "one seed" not in text
    fixed = [60, 60, 80]
    ends = stats.ttest_1samp(fixed, 0).confidence_interval(0.95)
    assert "{:.0f} [{:.0f}, {:.0f}]".format(np.mean(fixed), *ends) in text


def test_as_many_or_more_steps_are_not_called_fewer(tmp_path):
    for seed, losses in enumerate(([1] * 4, [4, 4, 4, 1])):
        write(tmp_path / f"fixed-{seed}", [1] * 4, seed=seed)
        write(tmp_path / f"grown-{seed}", losses, seed=seed, **GROWN)
    study = study_of(tmp_path, GrowthStudy)
    assert "fewer steps in 0 of 2 seeds" in text_of(study)


def test_what_never_reaches_the_loss_is_said(tmp_path):
    for seed in (0, 1):
        write(tmp_path / f"fixed-{seed}", [4, 3, 2, 1], seed=seed)
    config = {"growth": "always", "growth_epochs": [1], "max_batch_size": 64}
    write(tmp_path / "a", [4, 3, 2, 0.5], (16, 64, 64, 64), **config)
    config |= {"seed": 1, "finished": False}
    write(tmp_path / "b", [4, math.nan], (16, 64), **config)
    study = study_of(tmp_path, GrowthStudy)
    name = "always to 64 at epochs 1"
    assert study.reached["loss"][True, name][1] is None
    text = text_of(study)
    assert f"of 1 is never reached by {name} with seed 1." in text
    assert "(no interval: one seed)" in text and "(1 diverged)" in text


def test_only_runs_that_differ_in_growth_are_compared(tmp_path):
    for name, config in {
        "fixed": {},
        # It says nothing where nothing grows.
        "other": {"seed": 1, "max_batch_size": 32},
        "grown": GROWN,
        "heuristic": GROWN | {"on_heuristic": "grow"},
        "rate": GROWN | {"learning_rate": 0.5},
    }.items():
        write(tmp_path / name, [4, 3, 2, 1], **config)
    groups = study_of(tmp_path, GrowthStudy).groups
    assert {group: len(runs) for group, runs in groups.items()} == {
        FIXED: 2,
        MEASURED: 1,
        (True, "measured to 64, on heuristics too"): 1,
    }

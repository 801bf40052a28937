import math

import numpy as np
import pytest
from scipy import stats

from experiments.report.growth import (
    GrowthStudy,
    growth_comparisons,
    growth_section,
)
from experiments.report.runs import find_runs
from tests.helpers.synthetic_runs import comparison_of, write_run

EXAMPLES = 320
FIXED = (False, "fixed batch")


def write(folder, losses, sizes=(16, 16, 16, 16), seed=0, tests=None, **config):
    """A run with these losses and batch sizes at the ends of its epochs."""
    steps = np.cumsum([EXAMPLES // size for size in sizes]).tolist()
    columns = {"effective_step": steps, "val_loss": tests or losses}
    if "growth" in config:
        columns["batch_size"] = [*sizes]
    write_run(folder, losses=losses, columns=columns, seed=seed, **config)


def write_grown(folder, *arguments, **config):
    write(
        folder,
        *arguments,
        growth="measured",
        max_batch_size=64,
        **config,
    )


def text_of(section):
    blocks = section.blocks
    return " ".join(" ".join(b.to_text() for b in blocks).split())


def study_of(folder):
    return GrowthStudy(comparison_of(folder, growth_comparisons))


def test_steps_and_examples_are_counted_to_the_same_loss(tmp_path):
    write(tmp_path / "fixed", [4, 3, 2, 1])
    write_grown(tmp_path / "grown", [4, 3, 1.5, 1.25], (16, 16, 32, 64))
    study = study_of(tmp_path)
    # The highest at the end: each of them reaches it.
    assert study.targets == {"loss": 1.25, "val_loss": 1.25}
    fixed, grown = study.reached["loss"].values()
    # 20 steps of 16, 10 of 32 or 5 of 64 are an epoch.
    assert fixed == {0: (80, 4 * EXAMPLES)}
    assert grown == {0: (20 + 20 + 10 + 5, 4 * EXAMPLES)}
    text = text_of(growth_section(study))
    assert (
        "To a training loss of 1.25, measured to 64 takes 0.688 (no interval: "
        "one seed) times the steps of fixed batch: fewer steps in the one seed"
        in text
    )
    assert "16 to 64" in text


def test_a_ratio_is_that_of_each_seed_with_students_interval(tmp_path):
    epochs = {0: (3, 3), 1: (3, 4), 2: (4, 3)}
    for seed, (first, second) in epochs.items():
        losses = [
            [4] * (epochs - 1) + [1] * (5 - epochs)
            for epochs in (first, second)
        ]
        write(tmp_path / f"fixed-{seed}", losses[0], seed=seed)
        sizes = (16, 32, 32, 64)
        write_grown(tmp_path / f"grown-{seed}", losses[1], sizes, seed=seed)
    study = study_of(tmp_path)
    [ratio] = study.ratios["loss"].values()
    steps = {"fixed": [0, 20, 40, 60, 80], "grown": [0, 20, 30, 40, 45]}
    logs = [
        math.log(steps["grown"][second] / steps["fixed"][first])
        for first, second in epochs.values()
    ]
    ends = stats.ttest_1samp(logs, 0).confidence_interval(0.95)
    assert ratio.value == pytest.approx(math.exp(np.mean(logs)))
    assert (ratio.low, ratio.high) == pytest.approx(np.exp([*ends]))
    assert (ratio.fewer, ratio.count) == (3, 3)
    text = text_of(growth_section(study))
    assert "fewer steps in all 3 seeds" in text and "one seed" not in text
    mean = np.mean([60, 60, 80])
    assert f"{mean:.0f} [" in text


def test_more_steps_are_not_called_fewer(tmp_path):
    for seed in (0, 1):
        write(tmp_path / f"fixed-{seed}", [1, 1, 1, 1], seed=seed)
        losses = [4, 4, 4, 1] if seed else [1, 1, 1, 1]
        write_grown(tmp_path / f"grown-{seed}", losses, seed=seed)
    assert "fewer steps in 0 of 2 seeds" in text_of(
        growth_section(study_of(tmp_path))
    )


def test_what_never_reaches_the_loss_is_said(tmp_path):
    for seed in (0, 1):
        write(tmp_path / f"fixed-{seed}", [4, 3, 2, 1], seed=seed)
    config = {"growth": "always", "growth_epochs": [1], "max_batch_size": 64}
    write(tmp_path / "a", [4, 3, 2, 0.5], (16, 64, 64, 64), seed=0, **config)
    write(
        tmp_path / "b",
        [4, math.nan],
        (16, 64),
        seed=1,
        finished=False,
        **config,
    )
    study = study_of(tmp_path)
    name = "always to 64 at epochs 1"
    assert study.reached["loss"][True, name][1] is None
    text = text_of(growth_section(study))
    assert f"of 1 is never reached by {name} with seed 1." in text
    assert "(no interval: one seed)" in text and "(1 diverged)" in text


def test_only_runs_that_differ_in_growth_are_compared(tmp_path):
    write(tmp_path / "fixed", [4, 3, 2, 1])
    # It says nothing where nothing grows.
    write(tmp_path / "other", [4, 3, 2, 1], seed=1, max_batch_size=32)
    write_grown(tmp_path / "grown", [4, 3, 2, 1])
    write_grown(tmp_path / "heuristic", [4, 3, 2, 1], on_heuristic="grow")
    write_grown(tmp_path / "rate", [4, 3, 2, 1], learning_rate=0.5)
    runs, *_ = find_runs(str(tmp_path))
    [comparison] = growth_comparisons(runs)
    assert {group: len(r) for group, r in comparison.groups.items()} == {
        FIXED: 2,
        (True, "measured to 64"): 1,
        (True, "measured to 64, on heuristics too"): 1,
    }


def test_the_picture_is_drawn(tmp_path):
    write(tmp_path / "fixed", [4, 3, 2, 1], tests=[4, None, 3, 2])
    write_grown(tmp_path / "grown", [4, 3, 2, 1], (16, 16, 32, 64))
    section = growth_section(study_of(tmp_path))
    section.figures["steps"][1](tmp_path / "steps.png")
    assert (tmp_path / "steps.png").stat().st_size > 10_000

"""Run folders as train.py leaves them, with numbers of the test's choice."""

import csv
import json
import math

from experiments.report.runs import find_runs
from experiments.run_folder import CHECKSUM, configuration_checksum
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.scaling.conditions import RunConditions

CONFIG = {
    "dataset": "digits",
    "batch_size": 16,
    "epochs": 4,
    "optimizer": "svag",
    "ell": 1,
    "learning_rate": 0.2,
    "weight_decay": 0.005,
    "sampling": "with_replacement",
    "seed": 0,
    "measure_noise": True,
    "validate_every": 1,
    "model": {"name": "scale_invariant_mlp", "hidden_units": [64, 64]},
    "lsr": {
        "enabled": True,
        "closeness": 2**0.5,
        "kappas": [2, 4],
        "window": None,
    },
    "version": "0.1.0",
}


def estimate(
    grad_sq_norm,
    noise_trace,
    batch_size=16,
    relative_error=0.01,
    count=1000,
):
    """A `NoiseEstimate` whose two errors are uncorrelated."""
    return NoiseEstimate(
        grad_sq_norm=grad_sq_norm,
        example_noise=batch_size * noise_trace,
        grad_sq_norm_se=relative_error * abs(grad_sq_norm),
        example_noise_se=relative_error * batch_size * noise_trace,
        covariance=0.0,
        count=count,
        batch_size=batch_size,
        sampling="independent",
    )


def window(noise, weight_sq_norm, learning_rate, reasons=(), earlier=()):
    """What results.json holds of one stretch of constant learning rate.

    The run was at rest there, and the theory applies but for `reasons`.
    """
    conditions = RunConditions(
        learning_rate=learning_rate,
        weight_decay=CONFIG["weight_decay"],
        scale_invariant=True,
        balance=1.0,
        rest=True,
        other_reasons=tuple(reasons),
    )
    return {
        "gradient_noise": noise.to_dict(),
        "conditions": conditions.to_dict(),
        "weight_sq_norm": weight_sq_norm,
        "first_epoch": 3,
        "last_epoch": 4,
        "earlier": list(earlier),
    }


def write_run(
    folder,
    accuracy=0.9,
    noise=None,
    weight_sq_norm=25.0,
    reasons=(),
    earlier=(),
    losses=None,
    accuracies=None,
    finished=True,
    columns=None,
    **config,
):
    """Writes a run; what is not given is that of `CONFIG`.

    Args:
        folder: a Path.
        accuracy: the final one, on the test set.
        noise: `NoiseEstimate` of the last window, or None.
        weight_sq_norm: R of the last window.
        reasons: codes of `Reason`s, why the theorem may not apply.
        earlier: what `window` returns, for stretches before the last.
        losses, accuracies: of the epochs; halving losses and constant
            accuracies if None.
        finished: whether there is a results.json.
        columns: `{column: values}` that the history has besides.
        **config: what the configuration has instead.
    """
    folder.mkdir(parents=True)
    config = {**CONFIG, **config}
    (folder / "config.json").write_text(json.dumps(config))
    epochs = config["epochs"]
    losses = losses or [2.0**-epoch for epoch in range(epochs)]
    accuracies = accuracies or [accuracy] * len(losses)
    with open(folder / "history.csv", "w", newline="") as file:
        writer = csv.writer(file)
        columns = {"loss": losses, "val_accuracy": accuracies} | (columns or {})
        writer.writerow(["epoch", *columns, "learning_rate"])
        rows = zip(*columns.values(), strict=True)
        for epoch, row in enumerate(rows):
            shown = ["NA" if value is None else value for value in row]
            writer.writerow([epoch, *shown, config["learning_rate"]])
    if not finished:
        return
    # As it is read: a tuple is a list then.
    checksum = configuration_checksum(json.loads(json.dumps(config)))
    results = {CHECKSUM: checksum, "accuracy": accuracy, "loss": 0.3}
    if noise is not None:
        results["gradient_noise"] = noise.to_dict()
        results["linear_scaling"] = window(
            noise, weight_sq_norm, config["learning_rate"], reasons, earlier
        )
    (folder / "results.json").write_text(json.dumps(results))


def write_scaled_runs(folder, factors, noise_trace=1.5, key="ell", **config):
    """Runs whose R, G and N are 20, 0.3 and 1.5, times factors.

    Args:
        folder: a Path.
        factors: `{value of the key: factors, one a seed}`.
        noise_trace: N times 1.
        key: what the runs differ in.
        **config: as for `write_run`.
    """
    for value, of_seeds in factors.items():
        for seed, factor in enumerate(of_seeds):
            write_run(
                folder / f"{value}-{seed}",
                noise=estimate(0.3 * factor, noise_trace * factor),
                weight_sq_norm=20 * factor,
                seed=seed,
                **{key: value, **config},
            )


def write_svag_sweep(folder, ells=(1, 2, 4, 8), seeds=(0, 1, 2), excess=0.2):
    """SVAG runs whose R is 20 (1 + excess / ell) and the like for G, N."""
    for ell in ells:
        for seed in seeds:
            factor = (1 + excess / ell) * (1 + 0.01 * (seed - 1))
            curve = [
                0.9 - 0.8 * math.exp(-(epoch + 1) / 10) + 0.004 * (seed - 1)
                for epoch in range(40)
            ]
            write_run(
                folder / f"ell={ell},seed={seed}",
                accuracy=curve[-1],
                noise=estimate(0.3 * factor, 1.5 * factor),
                weight_sq_norm=20 * factor,
                losses=[
                    factor * math.exp(-(epoch + 1) / 15) for epoch in range(40)
                ],
                accuracies=curve,
                epochs=40,
                ell=ell,
                seed=seed,
            )


def write_scaling_sweep(folder, errors, ratio_at_first=6.0, seeds=(0, 1)):
    """Runs of several batch sizes, N/G inversely proportional to B.

    Args:
        folder: a Path.
        errors: `{batch size: test error}`, from the smallest on; None for a
            run that diverges.
        ratio_at_first: N/G of the smallest.
        seeds: of each batch size.
    """
    first = min(errors)
    for batch_size, error in errors.items():
        ratio = ratio_at_first * first / batch_size
        for seed in seeds:
            diverges = error is None
            write_run(
                folder / f"batch_size={batch_size},seed={seed}",
                accuracy=None if diverges else 1 - error,
                noise=estimate(0.3, 0.3 * ratio, batch_size),
                losses=[1.0, math.nan] if diverges else None,
                finished=not diverges,
                batch_size=batch_size,
                learning_rate=0.2 * batch_size / first,
                seed=seed,
            )


def comparison_of(folder, comparisons):
    """The one `Comparison` that a study makes of the runs in a folder."""
    runs, *_ = find_runs(str(folder))
    [comparison] = comparisons(runs)
    return comparison


def text_of(section):
    """What a section of a report says, on one line."""
    return " ".join(" ".join(b.to_text() for b in section.blocks).split())

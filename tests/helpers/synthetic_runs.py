"""Run folders as train.py leaves them, with numbers of the test's choice."""

import json
import math

import keras
import pandas

from configs import digits
from experiments.report.runs import find_runs
from experiments.run_folder import CHECKSUM, configuration_checksum
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.reporting.blocks import Table
from keras_svag.reporting.report import ScalingReport
from keras_svag.scaling.conditions import RunConditions, conditions_of
from keras_svag.scaling.verdict import scaling_verdict

# As it is read: a tuple is a list then.
CONFIG = json.loads(json.dumps(digits.get_config().to_dict())) | {
    "batch_size": 16,
    "epochs": 4,
    "pairing": "independent",
    "weight_decay": 0.005,
    "version": "0.1.0",
}


def estimate(grad_sq_norm, noise_trace, batch_size=16, error=0.01, count=1000):
    """A `NoiseEstimate` whose two relative errors are uncorrelated."""
    return NoiseEstimate(
        grad_sq_norm=grad_sq_norm,
        example_noise=batch_size * noise_trace,
        grad_sq_norm_se=error * abs(grad_sq_norm),
        example_noise_se=error * batch_size * noise_trace,
        covariance=0.0,
        count=count,
        batch_size=batch_size,
        sampling="independent",
    )


def window(noise, weight_sq_norm, learning_rate, reasons=(), earlier=()):
    """`ScalingReport` on a stretch of constant learning rate.

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
    verdict = scaling_verdict(noise, conditions, kappas=())
    return ScalingReport(verdict, 3, 4, weight_sq_norm, earlier=tuple(earlier))


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
    results=None,
    **config,
):
    """Writes a run whose configuration is `CONFIG` but for `**config`.

    The `accuracy` is the final one, on the test set. `noise`, if there is any,
    and what follows it are as for `window`, of the last one. The history has
    halving `losses` and constant `accuracies` if none are given, and `columns`
    besides. In results.json, which a run that is not `finished` lacks,
    `results` replaces values, `{key with dots: value}`.
    """
    folder.mkdir(parents=True)
    config = json.loads(json.dumps({**CONFIG, **config}))
    (folder / "config.json").write_text(json.dumps(config))
    losses = losses or [2.0**-epoch for epoch in range(config["epochs"])]
    accuracies = accuracies or [accuracy] * len(losses)
    columns = {"loss": losses, "val_accuracy": accuracies} | (columns or {})
    history = pandas.DataFrame(columns)
    history["learning_rate"] = config["learning_rate"]
    path = folder / "history.csv"
    history.to_csv(path, index_label="epoch", na_rep="NA")
    if not finished:
        return
    checksum = configuration_checksum(config)
    content = {CHECKSUM: checksum, "accuracy": accuracy, "loss": 0.3}
    if noise is not None:
        rate = config["learning_rate"]
        report = window(noise, weight_sq_norm, rate, reasons, earlier)
        content["gradient_noise"] = noise.to_dict()
        content["linear_scaling"] = report.to_dict()
    (folder / "results.json").write_text(json.dumps(content))
    edit(folder / "results.json", results or {})


def edit(file, values):
    """Changes `{key with dots: value}` in a file of JSON."""
    content = json.loads(file.read_text())
    for key, value in values.items():
        *sections, last = key.split(".")
        part = content
        for section in sections:
            part = part[section]
        part[last] = value
    file.write_text(json.dumps(content))


def in_norm_of_adam(noise):
    """The `results` of a run that measured its noise in Adam's norm too."""
    conditions = conditions_of(keras.optimizers.Adam()).to_dict()
    return {
        "linear_scaling.gradient_noise": noise.to_dict(),
        "linear_scaling.conditions": conditions,
    }


def write_scaled_runs(folder, factors, noise_trace=1.5, key="ell", **config):
    """Runs whose R, G and N are 20, 0.3 and `noise_trace`, times factors.

    The factors are `{value of the key: factors, one a seed}`.
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


def write_svag_sweep(folder, ells=(1, 2, 4, 8), num_seeds=3, excess=0.2):
    """SVAG runs whose R is 20 (1 + excess / ell) and the like for G, N."""
    spread = [1 + 0.01 * (seed - 1) for seed in range(num_seeds)]
    means = {ell: 1 + excess / ell for ell in ells}
    factors = {ell: [mean * s for s in spread] for ell, mean in means.items()}
    write_scaled_runs(folder, factors)


def write_scaling_sweep(folder, errors, factors=None, **config):
    """Two seeds of several batch sizes; N/G is 6 at the first, inverse to B.

    `errors` is `{batch size: test error}`, None for runs that diverge, and
    `factors` is `{batch size: of R, one a seed}`, where they are not 1.
    """
    for batch_size, error in errors.items():
        kappa, diverges = batch_size / min(errors), error is None
        of_seeds = (factors or {}).get(batch_size, (1.0, 1.0))
        for seed, factor in enumerate(of_seeds):
            write_run(
                folder / f"batch_size={batch_size},seed={seed}",
                accuracy=None if diverges else 1 - error,
                noise=estimate(0.3, 0.3 * 6 / kappa, batch_size),
                weight_sq_norm=25.0 * factor,
                losses=[1.0, math.nan] if diverges else None,
                finished=not diverges,
                batch_size=batch_size,
                learning_rate=0.2 * kappa,
                seed=seed,
                **config,
            )


def studies_of(folder, kind):
    """The studies of a kind that the runs in a folder allow."""
    runs, *_ = find_runs(str(folder))
    studies = kind.studies(runs)
    for study in studies:
        study.make([])
    return studies


def study_of(folder, kind):
    """The one study of a kind."""
    [study] = studies_of(folder, kind)
    return study


def cells_of(study, row=-1):
    """`{column: cell}` of a row of the first table of a study."""
    table = next(b for b in study.blocks if isinstance(b, Table))
    return dict(zip(table.header, table.rows[row], strict=True))


def text_of(study):
    """What a study says in a report, on one line."""
    return " ".join(" ".join(b.to_text() for b in study.blocks).split())

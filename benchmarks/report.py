"""How long a report on many runs takes, and one on a run of many epochs.

    PYTHONPATH=. python benchmarks/report.py [--runs 500] [--rows 1000000]

The runs are synthetic, two of them a comparison. Each report is made by the
command, in a process of its own, imports included; the seconds of the processor
tell more on a busy machine.
"""

import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
from table import command_line, print_header, print_row

from tests.helpers.synthetic_runs import (
    estimate,
    write_run,
    write_scaled_runs,
)


def write_sweep(folder, num_runs):
    """Runs of ell 1 and 2 at each learning rate, with a curve of 40 epochs."""
    losses = np.exp(-np.arange(1, 41) / 15)
    for setting in range(num_runs // 2):
        write_scaled_runs(
            folder / f"{setting:06}",
            {1: [1.1], 2: [1.05]},
            losses=list(losses),
            accuracies=list(0.9 - 0.5 * losses),
            epochs=40,
            learning_rate=0.01 * (1 + setting),
        )


def write_long_runs(folder, num_rows):
    """Two runs of `num_rows` epochs together, with NA in two columns."""
    epochs = num_rows // 2
    values = np.random.default_rng(0).uniform(0.5, 1, epochs).tolist()
    validated = [v if k % 10 == 9 else None for k, v in enumerate(values)]
    for ell in (1, 2):
        write_run(
            folder / str(ell),
            noise=estimate(0.3, 1.5),
            losses=values,
            accuracies=validated,
            columns={
                "val_loss": validated,
                "accuracy": values,
                "grad_sq_norm": values,
                "noise_trace": values,
            },
            epochs=epochs,
            ell=ell,
        )


def processor_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def print_report(folder):
    """Seconds, those of the processor, and MB of a report."""
    output = folder.with_name(f"{folder.name}-report")
    command = [sys.executable, "-m", "experiments.report", folder]
    before, start = processor_seconds(), time.perf_counter()
    subprocess.run(
        [*command, f"--output={output}"],
        capture_output=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        check=True,
    )
    seconds = time.perf_counter() - start
    files = (path for path in output.rglob("*") if path.is_file())
    size = sum(path.stat().st_size for path in files) / 1e6
    numbers = seconds, processor_seconds() - before, size
    print_row(folder.name, *(f"{number:.1f}" for number in numbers))


def main():
    options = command_line(__doc__, runs=500, rows=1_000_000)
    print_header("report on", "s", "s of processor", "MB")
    with tempfile.TemporaryDirectory() as name:
        scratch = pathlib.Path(name)
        long = scratch / f"2 runs of {options.rows:,} epochs"
        write_sweep(scratch / "2 runs", 2)
        write_sweep(scratch / f"{options.runs} runs", options.runs)
        write_long_runs(long, options.rows)
        for folder in sorted(scratch.iterdir()):
            print_report(folder)


if __name__ == "__main__":
    main()

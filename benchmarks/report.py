"""How long a report on many runs takes, and one on a run of many epochs.

    PYTHONPATH=. python benchmarks/report.py [--runs 500] [--rows 1000000]

The runs are synthetic, two seeds of SVAG's ell 1 and 2 at each learning rate,
so that four of them make a comparison, or two with `--seeds 1`. Each report is
made by the command, in a process of its own, imports included; the seconds of
the processor tell more on a busy machine.
"""

import argparse
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
from side_by_side import print_header, print_row

from tests.helpers.synthetic_runs import estimate, write_run


def write_sweep(folder, num_runs, num_seeds):
    """Runs in comparisons of `2 * num_seeds`, with a curve of 40 epochs."""
    losses = np.exp(-np.arange(1, 41) / 15)
    for index in range(num_runs):
        setting, position = divmod(index, 2 * num_seeds)
        ell, seed = 1 + position // num_seeds, position % num_seeds
        factor = 1 + 0.1 / ell + 0.01 * seed
        write_run(
            folder / f"{index:06}",
            noise=estimate(0.3 * factor, 1.5 * factor),
            weight_sq_norm=20 * factor,
            losses=list(factor * losses),
            accuracies=list(0.9 - 0.5 * losses),
            epochs=40,
            ell=ell,
            seed=seed,
            learning_rate=0.01 * (1 + setting),
        )


def write_long_runs(folder, num_rows):
    """Two runs of `num_rows` epochs together, with NA in two columns."""
    names = ["loss", "accuracy", "grad_sq_norm", "noise_trace", "learning_rate"]
    header = ",".join(["epoch", *names, "val_accuracy", "val_loss"])
    values = np.random.default_rng(0).uniform(0.5, 1, (1000, len(names)))
    cells = [",".join(map(str, row)) for row in values.tolist()]
    for ell in (1, 2):
        run, rows = folder / str(ell), num_rows // 2
        write_run(run, noise=estimate(0.3, 1.5), ell=ell, epochs=rows)
        with open(run / "history.csv", "w") as file:
            file.write(f"{header}\n")
            for epoch in range(rows):
                validation = "0.8125,0.5" if epoch % 10 == 9 else "NA,NA"
                file.write(f"{epoch},{cells[epoch % 1000]},{validation}\n")


def report_on(folder):
    """Seconds, those of the processor, and MB of a report."""
    output = folder.with_name(f"{folder.name}-report")
    before = processor_seconds()
    start = time.perf_counter()
    subprocess.run(
        [
            sys.executable,
            "-m",
            "experiments.report",
            str(folder),
            f"--output={output}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        check=True,
    )
    seconds = time.perf_counter() - start
    files = (path for path in output.rglob("*") if path.is_file())
    size = sum(path.stat().st_size for path in files) / 1e6
    return seconds, processor_seconds() - before, size


def processor_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rows", type=int, default=1_000_000)
    arguments = parser.parse_args()
    print_header("report on", "s", "s of processor", "MB")
    with tempfile.TemporaryDirectory() as name:
        scratch = pathlib.Path(name)
        write_sweep(scratch / "few", 2, 1)
        write_sweep(scratch / "sweep", arguments.runs, arguments.seeds)
        write_long_runs(scratch / "long", arguments.rows)
        for name, what in (
            ("few", "2 runs"),
            ("sweep", f"{arguments.runs} runs"),
            ("long", f"2 runs of {arguments.rows:,} epochs"),
        ):
            seconds, of_processor, size = report_on(scratch / name)
            print_row(
                what, f"{seconds:.1f}", f"{of_processor:.1f}", f"{size:.1f}"
            )


if __name__ == "__main__":
    main()

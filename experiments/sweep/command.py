"""A sweep as the command line asks for it."""

import csv
import math
import os
import signal
import sys

from experiments.config import scaled_down
from experiments.process.interruption import exit_code
from experiments.process.own_files import check_log, make_log
from experiments.run_folder import (
    OUTPUT_LOG,
    WorkDir,
    is_locked,
    unwritable,
)
from experiments.sweep.grid import arguments_of_a_run, swept_runs
from experiments.sweep.runner import Job, SweepRunner
from experiments.sweep.shard import Shard


def run_sweep(specifications, config, workdir, arguments, parallel, shard=None):
    """Runs a sweep, each run as a process of the program that calls it.

    Runs that are finished are skipped, as are those whose loss has become one
    that is not finite: they would do so again. Each writes to a folder of its
    own in `workdir`, and what it prints to `output.log` there.

    Args:
        specifications: strings `key=value,value,…`.
        config: the `ConfigDict` that the runs override.
        workdir: directory of the whole sweep.
        arguments: list of strings, the program and the arguments that it was
            started with.
        parallel: how many runs run at a time.
        shard: "i/n", the part of the runs that this process takes, or None:
            that of the Slurm array which it is a task of, or all of them.

    Returns:
        The exit code: that of the signal which ended the sweep (130 for
        SIGINT, else 143), 1 if a run failed, 130 if someone else interrupted
        a run; the same command goes on in all of these. Otherwise 0: every
        run is finished, has diverged or is run by another process.

    Raises:
        ValueError: if the sweep cannot be run as it is asked for.
    """
    program, *arguments = arguments
    command = [sys.executable, program, *arguments_of_a_run(arguments)]
    shard = Shard.parse(shard, os.environ)
    runs = swept_runs(specifications, config)
    jobs = [_job(run, os.path.join(workdir, run.name), command) for run in runs]
    if shard.count > 1:
        jobs = shard.of(jobs, cost=lambda job: job.cost)
        print(
            f"Shard {shard.index} of {shard.count}: {len(jobs)} of the "
            f"{len(runs)} runs.",
            flush=True,
        )
    runner = SweepRunner(jobs, parallel)
    for job in jobs:
        if job.is_finished() or job.has_diverged() or job.is_elsewhere():
            continue
        folder = os.path.dirname(job.log_file)
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from error
        check_log(job.log_file)
    runner.run()
    print(_summary(runner, jobs, workdir))
    if runner.signal is not None:
        return exit_code(runner.signal)
    if runner.failed:
        return 1
    return exit_code(signal.SIGINT) if runner.interrupted else 0


def _job(run, path, command):
    config = scaled_down(run.config)
    workdir = WorkDir(path, config.to_dict())
    log_file = workdir.file(OUTPUT_LOG)
    return Job(
        name=run.name,
        log_file=log_file,
        make_log=lambda: make_log(log_file, run.name),
        command=[*command, *run.arguments, f"--workdir={path}"],
        cost=config.epochs * config.ell * (config.get("num_examples") or 1),
        is_finished=lambda: workdir.results is not None,
        is_elsewhere=lambda: is_locked(path),
        has_diverged=lambda: _has_diverged(workdir),
        fraction_done=lambda started: _fraction_done(
            workdir.file("history.csv"), config.epochs, started
        ),
    )


def _fraction_done(history, epochs, started):
    try:
        if not os.path.isfile(history) or os.path.getmtime(history) < started:
            return 0.0  # A pipe, or the file of an earlier attempt.
        with open(history, newline="", encoding="utf-8") as file:
            rows = sum(1 for _ in csv.reader(file)) - 1
    except (OSError, ValueError, csv.Error):
        return 0.0
    return min(max(rows, 0) / epochs, 1.0)


def _has_diverged(workdir):
    """Whether the run has stopped at a loss that is not finite."""
    if not all(
        os.path.isfile(workdir.file(name))
        for name in ("config.json", "history.csv")
    ):
        return False
    try:
        with open(
            workdir.file("history.csv"), newline="", encoding="utf-8"
        ) as file:
            *_, last = csv.DictReader(file)
        return not math.isfinite(float(last["loss"]))
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return False


def _summary(runner, jobs, workdir):
    lines = []
    for job in jobs:
        folder = os.path.dirname(job.log_file)
        if job.name in runner.diverged:
            lines.append(
                f"diverged: {job.name}, see {job.log_file}; it is run again if "
                f"{folder} is removed"
            )
        elif job.name in runner.interrupted:
            lines.append(
                f"interrupted: {job.name}; the same command goes on with it"
            )
        elif job.name in runner.elsewhere:
            lines.append(f"elsewhere: {job.name}, which another process runs")
        elif job.name in runner.failed:
            code = runner.failed[job.name]
            lines.append(
                f"failed (exit code {code}): {job.name}, see {job.log_file}"
            )
            last_line = _last_line(job.log_file)
            if last_line:
                lines.append(f"    {last_line}")
    done = f"{len(runner.finished)} of {len(jobs)} runs are finished"
    if runner.diverged:
        done += f", {len(runner.diverged)} diverged"
    if runner.elsewhere:
        done += f", {len(runner.elsewhere)} elsewhere"
    if runner.signal is not None:
        lines.append(
            f"Interrupted: {done}; the same command goes on from here."
        )
    else:
        lines.append(f"{done}, in {workdir}.")
    return "\n".join(lines)


def _last_line(log_file):
    try:
        with open(log_file, encoding="utf-8", errors="replace") as file:
            _, *lines = (line.strip() for line in file)
    except (OSError, ValueError):
        return ""
    return next(filter(None, reversed(lines)), "")

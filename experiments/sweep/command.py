"""A sweep as the command line asks for it."""

import csv
import math
import os
import sys

from experiments.config import scaled_down
from experiments.run_folder import WorkDir, unwritable
from experiments.sweep.grid import arguments_of_a_run, swept_runs
from experiments.sweep.runner import Job, SweepRunner


def run_sweep(specifications, config, workdir, arguments, parallel):
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

    Returns:
        The exit code: 0 if every run is finished or has diverged, 1 if a run
        failed, 130 if the sweep or a run of it was interrupted, so that the
        same command goes on.

    Raises:
        ValueError: if the sweep cannot be run as it is asked for.
    """
    program, *arguments = arguments
    command = [sys.executable, program, *arguments_of_a_run(arguments)]
    runs = swept_runs(specifications, config)
    jobs = [_job(run, os.path.join(workdir, run.name), command) for run in runs]
    runner = SweepRunner(jobs, parallel)
    for job in jobs:
        if not job.is_finished:
            folder = os.path.dirname(job.log_file)
            try:
                os.makedirs(folder, exist_ok=True)
            except OSError as error:
                raise unwritable(folder, error) from error
    is_interrupted = False
    try:
        runner.run()
    except KeyboardInterrupt:
        is_interrupted = True
    print(_summary(runner, jobs, workdir, is_interrupted))
    if runner.failed and not is_interrupted:
        return 1
    return 130 if is_interrupted or runner.interrupted else 0


def _job(run, path, command):
    config = scaled_down(run.config)
    workdir = WorkDir(path, config.to_dict())
    return Job(
        name=run.name,
        log_file=workdir.file("output.log"),
        command=[*command, *run.arguments, f"--workdir={path}"],
        cost=config.epochs * config.ell * (config.get("num_examples") or 1),
        is_finished=workdir.results is not None,
        has_diverged=lambda: _has_diverged(workdir),
        fraction_done=lambda started: _fraction_done(
            workdir.file("history.csv"), config.epochs, started
        ),
    )


def _fraction_done(history, epochs, started):
    try:
        if os.path.getmtime(history) < started:
            return 0.0  # It is of an earlier attempt.
        with open(history, newline="", encoding="utf-8") as file:
            rows = sum(1 for _ in csv.reader(file)) - 1
    except OSError:
        return 0.0
    return min(max(rows, 0) / epochs, 1.0)


def _has_diverged(workdir):
    """Whether the run has stopped at a loss that is not finite."""
    if not os.path.exists(workdir.file("config.json")):
        return False
    try:
        with open(
            workdir.file("history.csv"), newline="", encoding="utf-8"
        ) as file:
            *_, last = csv.DictReader(file)
        return not math.isfinite(float(last["loss"]))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _summary(runner, jobs, workdir, is_interrupted):
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
    if is_interrupted:
        lines.append(
            f"Interrupted: {done}; the same command goes on from here."
        )
    else:
        lines.append(f"{done}, in {workdir}.")
    return "\n".join(lines)


def _last_line(log_file):
    try:
        with open(log_file, encoding="utf-8", errors="replace") as file:
            lines = [line.strip() for line in file if line.strip()]
    except OSError:
        return ""
    return lines[-1] if lines else ""

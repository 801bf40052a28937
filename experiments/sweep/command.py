"""A sweep as the command line asks for it."""

import contextlib
import csv
import math
import os
import signal
import sys

from experiments.config import scaled_down
from experiments.process.interruption import exit_code
from experiments.process.locks import is_locked
from experiments.process.own_files import check_log, make_log
from experiments.run_folder import OUTPUT_LOG, WorkDir, unwritable
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
        if job.state():
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
    if runner.count("failed"):
        return 1
    return exit_code(signal.SIGINT) if runner.count("interrupted") else 0


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
        state=lambda: _state(workdir),
        fraction_done=lambda started: _fraction_done(
            workdir.file("history.csv"), config.epochs, started
        ),
    )


def _losses(history):
    """The losses of the epochs in a file of CSV, as texts, so far."""
    try:
        if not os.path.isfile(history):  # It may be a pipe.
            return []
        with open(history, newline="", encoding="utf-8") as file:
            return [row["loss"] for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, csv.Error):
        return []


def _fraction_done(history, epochs, started):
    with contextlib.suppress(OSError):
        if os.path.getmtime(history) >= started:
            return min(len(_losses(history)) / epochs, 1.0)
    return 0.0  # There is none, or that of an earlier attempt.


def _state(workdir):
    """What has become of a run, as `Job.state` says it."""
    if workdir.results is not None:
        return "finished"
    losses = _losses(workdir.file("history.csv"))
    with contextlib.suppress(IndexError, TypeError, ValueError):
        # Training stops at such a loss.
        if workdir.has_begun and not math.isfinite(float(losses[-1])):
            return "diverged"
    return "elsewhere" if is_locked(workdir.path) else None


_SENTENCES = {
    "diverged": "diverged: {name}, see {log}; it is run again if {folder} is "
    "removed",
    "interrupted": "interrupted: {name}; the same command goes on with it",
    "elsewhere": "elsewhere: {name}, which another process runs",
    "failed": "failed (exit code {code}): {name}, see {log}",
}


def _summary(runner, jobs, workdir):
    lines = []
    for job in jobs:
        how = runner.ended.get(job.name)
        if how in _SENTENCES:
            sentence = _SENTENCES[how].format(
                name=job.name,
                log=job.log_file,
                folder=os.path.dirname(job.log_file),
                code=runner.codes.get(job.name),
            )
            lines.append(sentence)
        if how == "failed" and (last_line := _last_line(job.log_file)):
            lines.append(f"    {last_line}")
    done = f"{runner.count('finished')} of {len(jobs)} runs are finished"
    for how in ("diverged", "elsewhere"):
        if runner.count(how):
            done += f", {runner.count(how)} {how}"
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

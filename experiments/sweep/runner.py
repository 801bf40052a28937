"""Runs the runs of a sweep in processes of their own."""

import collections
import csv
import math
import os
import subprocess
import sys
import time

from tqdm import tqdm

from experiments.config import scaled_down
from experiments.process.bars import progress_bar
from experiments.process.interruption import SIGNALS, Interruption, exit_code
from experiments.process.locks import is_locked
from experiments.process.own_files import check_log, make_log
from experiments.run_folder import OUTPUT_LOG, WorkDir, unwritable

# How long a process may take to end after it was asked to: it ends the step
# that it is in, a whole pass of the data for NGD, and writes a checkpoint.
_GRACE_SECONDS = 120
_POLL_SECONDS = 0.5

# Exit codes of a process that was told to end, or that had no handler yet.
_INTERRUPTED = {code for n in SIGNALS for code in (exit_code(n), -n)}

# How a run can have ended, and what is said of it.
_SENTENCES = {
    "finished": "{0.name} is finished",
    "diverged": "{0.name} has diverged, see {0.log}; it is run again if "
    "{0.folder} is removed",
    "failed": "{0.name} has failed (exit code {0.code}), see {0.log}",
    "interrupted": "{0.name} was interrupted; the same command goes on with it",
    "elsewhere": "{0.name} is run by another process",
}

# Asks Linux for SIGTERM when the parent dies, however it dies, and becomes the
# program, which keeps that request. A `preexec_fn` would need no interpreter,
# but runs in a fork of a process with threads. The parent may be dead already.
_TIED = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
if os.getppid() != int(sys.argv[1]):
    os.kill(os.getpid(), signal.SIGTERM)
os.execvp(sys.argv[2], sys.argv[2:])
"""


class Job:
    """A `SweptRun`: its folder, its process, and how it has ended.

    Attributes:
        ended: a key of `_SENTENCES`: "finished" or "diverged", now or before;
            "failed"; "interrupted", where someone else has told its process to
            end; "elsewhere", where another process runs it; or None.
        cost: a number that is proportional to the time it takes.
        process: its `subprocess.Popen`, once it is started.
    """

    def __init__(self, run, folder, command):
        config = scaled_down(run.config)
        self.name, self.folder = run.name, folder
        self.log = os.path.join(folder, OUTPUT_LOG)
        self.cost = config.epochs * config.ell * (config.num_examples or 1)
        self.process = None
        self._epochs = config.epochs
        self._workdir = WorkDir(folder, config.to_dict())
        self._command = [*command, *run.arguments]
        self._command += [f"--workdir={folder}", "--alone"]
        self.ended = self._state()

    def __str__(self):
        """How it has ended, in words."""
        return _SENTENCES[self.ended].format(self)

    def check_folder(self):
        """Raises a `ValueError` if there is no place for it, or its log."""
        try:
            os.makedirs(self.folder, exist_ok=True)
        except OSError as error:
            raise unwritable(self.folder, error) from error
        check_log(self.log)

    def start(self):
        """Starts its process, unless another process has run it meanwhile.

        On Linux the process gets SIGTERM when this one is gone, even by
        SIGKILL; elsewhere it then goes on. Ctrl-C in a terminal does not reach
        it.
        """
        self.ended = self._state()
        if self.ended:
            return
        tie = [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid())]
        make_log(self.log, self.name)
        self._started = time.monotonic()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                tie * (sys.platform == "linux") + self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def look(self):
        """Whether its process has ended, of which `ended` then says how."""
        self.code = self.process.poll()
        if self.code is None:
            return False
        self.ended = self._state() if self.code else "finished"
        if self.ended in (None, "elsewhere") and self.code in _INTERRUPTED:
            self.ended = "interrupted"
        self.ended = self.ended or "failed"
        self.took = tqdm.format_interval(time.monotonic() - self._started)
        return True

    @property
    def done(self):
        """How much of `cost` is done."""
        share = 1 if self.ended else len(self._losses()) / self._epochs
        return self.cost * min(share, 1)

    @property
    def last_line(self):
        """What its process has printed last, below the head of its log."""
        try:
            with open(self.log, encoding="utf-8", errors="replace") as file:
                lines = [line.strip() for line in file][1:]
        except OSError:
            return ""
        return next(filter(None, reversed(lines)), "")

    def _state(self):
        """What has become of the run by what its folder holds, or None."""
        if self._workdir.results is not None:
            return "finished"
        losses = self._losses()
        if self._workdir.has_begun and losses and not math.isfinite(losses[-1]):
            return "diverged"  # Training stops at such a loss.
        return "elsewhere" if is_locked(self.folder) else None

    def _losses(self):
        """Those of the epochs so far."""
        path = self._workdir.file("history.csv")
        try:
            with open(path, newline="", encoding="utf-8") as file:
                return [float(row["loss"]) for row in csv.DictReader(file)]
        except (OSError, ValueError, KeyError, TypeError):
            return []


def run_jobs(jobs, parallel):
    """Runs the jobs that have not ended, so many at a time, and says how far.

    One that fails does not stop the others. If this process is told to end, by
    SIGINT or one of its kin, it tells the running ones and waits until they
    have saved their state; asked twice, it waits no longer. Returns the number
    of the signal that ended it, or None.
    """
    # Another process that runs one may be gone when its turn comes.
    waiting = [j for j in jobs if j.ended not in ("finished", "diverged")]
    running = []
    is_terminal = sys.stdout.isatty()
    done = sum(job.done for job in jobs)
    bar = progress_bar("", sum(job.cost for job in jobs), done, is_terminal)

    def show(line=""):
        ended = collections.Counter(job.ended for job in jobs if job.ended)
        parts = [f"[{ended.total()}/{len(jobs)}]"]
        parts += [f"{job.name} {job.done / job.cost:.0%}" for job in running]
        parts += [f"{n} {how}" for how, n in ended.items() if how != "finished"]
        if line:
            bar.clear()
            print(line, flush=True)
        bar.n = max(bar.initial, sum(job.done for job in jobs))
        bar.set_description_str("  ".join([*parts, ""]))
        if line and not is_terminal:
            print(bar, flush=True)

    with Interruption() as interruption:
        try:
            while (waiting or running) and interruption.signal is None:
                while waiting and len(running) < parallel:
                    job = waiting.pop(0)
                    job.start()
                    running.append(job) if job.process else show(f"{job}.")
                show()
                time.sleep(_POLL_SECONDS)
                for job in [job for job in running if job.look()]:
                    running.remove(job)
                    show(f"{job}, after {job.took}.")
        finally:
            bar.leave = False
            bar.close()
            _end([job.process for job in running])
        return interruption.signal


def _end(processes):
    for process in processes:
        process.terminate()
    if processes:
        print(
            f"Waiting up to {_GRACE_SECONDS} s for the running ones to save "
            "their state; a second Ctrl-C does not wait.",
            flush=True,
        )
    deadline = time.monotonic() + _GRACE_SECONDS
    for process in processes:
        try:
            process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

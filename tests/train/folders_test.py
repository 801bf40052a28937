"""Folders with files of somebody else, and such as may not be written.

Each byte that the run, the sweep or the report has not written stays.
"""

import os
import random
import sys
import time

import pytest

from experiments.report.writing import write_report
from tests.helpers.contents import contents_of
from tests.helpers.processes import Program
from tests.helpers.synthetic_runs import write_run

pytestmark = pytest.mark.slow

# All names that a run, a sweep or a report has ever used, and others.
FOLDERS = ["train", "validation", "checkpoints", "gradient_noise", "figures"]
FOLDERS += ["report", "linear_scaling", "scaling_rule", "ell=1", ".git", "é"]
OF_A_RUN = ["config.json", "history.csv", "results.json", "model.keras"]
OTHERS = ["output.log", "report.md", "step-7.npz", "step-500.npz", "notes.txt"]
OTHERS += ["events.out.tfevents.1.host.2.0.v2", ".report.json", "0.jpg"]
OTHERS += ["config.json.partial", "svag-1-curves.png", "model.weights.h5"]
ARGUMENTS = (
    "--checkpoint_every=1",
    "--config.epochs=8",
    "--config.num_examples=256",
    "--config.batch_size=32",
    "--config.lsr.enabled=False",
    "--config.model.hidden_units=(8,)",
)


def put(folder, depth=1, files=(*OF_A_RUN, *OTHERS)):
    """Foreign files, folders and links, where nothing is yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in files:
        if not os.path.lexists(folder / name):
            (folder / name).write_text(f"hers: {folder / name}")
    for index, name in enumerate(FOLDERS):
        if depth and not (folder / name).is_file():
            put(folder / name, depth - 1)
            link = folder / name / "link"
            if not os.path.lexists(link):
                link.symlink_to(["0.jpg", "..", "nowhere"][index % 3])


def check_kept(before, folder):
    now = contents_of(folder)
    assert not [path for path in before if now.get(path, 0) != before[path]]


def end(name, *arguments):
    """What a user's program is told: the exit code and stderr."""
    program = Program(
        "tests/helpers/unprivileged.py", name, *arguments, UMASK="027"
    )
    _, errors = program.communicate()
    return program.returncode, errors


def train(workdir):
    return end("train.py", f"--workdir={workdir}", *ARGUMENTS)


def refused(workdir):
    code, errors = train(workdir)
    assert code == 1, errors
    [line] = errors.splitlines()
    assert line.startswith("train.py: ")
    return line


def test_a_run_that_is_killed_among_them_leaves_them_and_ends(tmp_path):
    run = tmp_path / "run"
    moments = random.Random(0)
    hers = {}
    for condition in (
        lambda: (run / "config.json").exists(),
        lambda: list(run.glob("train/events*")),
        lambda: len(list(run.glob("checkpoints/step-*.*.npz"))) > 1,
        lambda: list(run.glob("checkpoints/*.partial.npz")),
    ):
        program = Program("train.py", f"--workdir={run}", *ARGUMENTS)
        deadline = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.2))
        program.kill()
        program.communicate()
        check_kept(hers, run)
        if not hers:
            before = contents_of(run)
            put(run, files=OTHERS)
            added = contents_of(run)
            hers = {p: c for p, c in added.items() if p not in before}
            assert len(hers) > 100
    assert train(run) == (0, "")
    check_kept(hers, run)
    # All of the run's own checkpoints are gone.
    left = {str(path) for path in (run / "checkpoints").iterdir()}
    assert left == {p for p in hers if os.path.dirname(p).endswith("points")}
    for name in ("results.json", "model.keras"):
        assert (run / name).stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", ["report.md", "figures", "report"])
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_a_report_takes_no_place_of_hers(tmp_path, name, kind):
    runs, hers = tmp_path / "runs", tmp_path / "hers"
    for ell in (1, 2):
        write_run(runs / f"ell={ell}", ell=ell)
    put(hers, 0)
    if kind == "folder":
        put(runs / name, 0)
    elif kind == "link":
        (runs / name).symlink_to(hers)
    else:
        (runs / name).write_text("hers")
    before = contents_of(tmp_path)
    with pytest.raises(ValueError, match=f"{name} is not as a report has"):
        write_report(str(runs))
    assert contents_of(tmp_path) == before
    write_report(str(runs), str(tmp_path / "output"))
    check_kept(before, tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's modes")
def test_what_may_not_be_read_or_written_is_said(tmp_path):
    runs = tmp_path / "runs"
    for ell in (1, 2, 4):
        write_run(runs / f"ell={ell}", ell=ell)
    hidden = runs / "ell=4"
    hidden.chmod(0)
    runs.chmod(0o555)
    try:
        line = refused(runs / "new")
        assert "new' cannot be written (Permission denied); give ano" in line
        line = refused(hidden)
        assert "config.json cannot be read (Permission denied): allow" in line
        code, errors = end("experiments.report", runs)
        assert code == 1
        assert f"cannot be written to '{runs}' (Permission denied)" in errors
        output = tmp_path / "output"
        code, _ = end("experiments.report", runs, f"--output={output}")
    finally:
        runs.chmod(0o755)
        hidden.chmod(0o755)
    assert code == 0
    text = (output / "report.md").read_text()
    assert "cannot be read (Permission denied): allow it" in text
    assert "| 2 |" in text

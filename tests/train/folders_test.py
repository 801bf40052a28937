"""Folders with files of somebody else, and such as may not be written.

Each byte that the run, the sweep or the report has not written stays.
"""

import os
import sys

import pytest

from experiments.report.writing import write_report
from tests.helpers.contents import contents_of
from tests.helpers.processes import Program
from tests.helpers.synthetic_runs import write_run

pytestmark = pytest.mark.slow

# Names that a run, a sweep or a report has ever used, and others.
FOLDERS = ["train", "validation", "checkpoints", "gradient_noise", "figures"]
FOLDERS += ["report", "linear_scaling", "scaling_rule", "ell=1", ".git", "é"]
FILES = ["output.log", "report.md", "step-7.npz", "step-500.npz", "notes.txt"]
FILES += ["events.out.tfevents.1.host.2.0.v2", ".report.json", "0.jpg"]
FILES += ["config.json.partial", "svag-1-curves.png", "model.weights.h5"]
ARGUMENTS = (
    "--checkpoint_every=1",
    "--config.epochs=8",
    "--config.num_examples=256",
    "--config.batch_size=32",
    "--config.lsr.enabled=False",
    "--config.model.hidden_units=(8,)",
)


def put(folder, depth=1):
    """Foreign files, folders and links, where nothing is yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
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


def test_a_run_that_is_killed_among_them_leaves_them_and_ends(tmp_path):
    run = tmp_path / "run"
    program = Program("train.py", f"--workdir={run}", *ARGUMENTS)
    program.wait_until(lambda: [*run.glob("checkpoints/step-*.*.npz")])
    program.kill()
    program.communicate()
    before = contents_of(run)
    put(run)
    hers = {p: c for p, c in contents_of(run).items() if p not in before}
    assert train(run) == (0, "")
    check_kept(hers, run)
    # All of the run's own checkpoints are gone.
    left = {str(path) for path in (run / "checkpoints").iterdir()}
    assert left == {p for p in hers if os.path.dirname(p).endswith("points")}
    for name in ("results.json", "model.keras"):
        assert (run / name).stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", ["report.md", "figures", "report"])
@pytest.mark.parametrize("is_link", [False, True])
def test_a_report_takes_no_place_of_hers(tmp_path, name, is_link):
    runs, hers = tmp_path / "runs", tmp_path / "hers"
    for ell in (1, 2):
        write_run(runs / f"ell={ell}", ell=ell)
    put(hers if is_link else runs / name, 0)
    if is_link:
        (runs / name).symlink_to(hers)
    before = contents_of(tmp_path)
    with pytest.raises(ValueError, match=f"{name} is not as a report has"):
        write_report(str(runs))
    assert contents_of(tmp_path) == before
    write_report(str(runs), str(tmp_path / "output"))
    check_kept(before, tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's modes")
def test_what_may_not_be_read_or_written_is_said(tmp_path):
    runs, output = tmp_path / "runs", tmp_path / "output"
    for ell in (1, 2, 4):
        write_run(runs / f"ell={ell}", ell=ell)
    hidden = runs / "ell=4"
    hidden.chmod(0)
    runs.chmod(0o555)
    try:
        refused = [train(runs / "new"), train(hidden)]
        refused.append(end("experiments.report", runs))
        code, _ = end("experiments.report", runs, f"--output={output}")
    finally:
        runs.chmod(0o755)
        hidden.chmod(0o755)
    for (status, errors), says in zip(
        refused,
        (
            "new' cannot be written (Permission denied); give another",
            "config.json cannot be read (Permission denied): allow",
            f"cannot be written to '{runs}' (Permission denied)",
        ),
        strict=True,
    ):
        assert status == 1 and says in errors
        assert errors.count("\n") == 1
    assert code == 0
    text = (output / "report.md").read_text()
    assert "cannot be read (Permission denied): allow it" in text
    assert "| 2 |" in text

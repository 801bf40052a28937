"""All that writes, among files of somebody else: each byte stays in place."""

import os
import random
import time

import pytest

from experiments.report.writing import write_report
from tests.helpers.processes import Program
from tests.helpers.synthetic_runs import write_run

pytestmark = pytest.mark.slow

# All names that a run, a sweep or a report has ever used, and others.
FOLDERS = ["train", "validation", "checkpoints", "gradient_noise", "figures"]
FOLDERS += ["report", "linear_scaling", "scaling_rule", "ell=1", ".git", "é"]
FILES = ["config.json", "history.csv", "results.json", "model.keras"]
FILES += ["output.log", "report.md", "step-7.npz", "step-500.npz", "notes.txt"]
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


def put(folder, depth=1, files=FILES):
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


def contents(folder):
    """What each path is: the bytes of a file, what a link leads to, None."""
    found = {}
    for path, folders, files in os.walk(folder):
        for name in (*folders, *files):
            place = os.path.join(path, name)
            if os.path.islink(place):
                found[place] = os.readlink(place)
            elif os.path.isdir(place):
                found[place] = None
            else:
                with open(place, "rb") as file:
                    found[place] = file.read()
    return found


def check_kept(before, folder):
    now = contents(folder)
    changed = [path for path in before if now.get(path, 0) != before[path]]
    assert not changed


def start(workdir, *arguments):
    return Program("train.py", f"--workdir={workdir}", *ARGUMENTS, *arguments)


def refused(program):
    output, errors = program.communicate()
    assert program.returncode == 1, (output, errors)
    [line] = errors.splitlines()
    assert line.startswith("train.py: ")
    return line


def wait_for(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_folder_of_hers_is_refused_whole(tmp_path):
    put(tmp_path / "hers")
    (tmp_path / "link").symlink_to("hers")
    (tmp_path / "hers/config.json").unlink()
    put(tmp_path / "sweep" / "ell=1")
    before = contents(tmp_path)
    assert len(before) > 200
    for folder in ("hers", "link"):
        line = refused(start(tmp_path / folder))
        assert "it holds '.git', '.report.json', '0.jpg' and " in line
    line = refused(start(tmp_path / "sweep", "--sweep=ell=1"))
    assert "sweep/ell=1/config.json " in line
    assert contents(tmp_path) == before


def test_a_run_that_is_killed_among_them_leaves_them_and_ends(tmp_path):
    run = tmp_path / "run"
    moments = random.Random(0)
    its_own = ["config.json", "history.csv", "results.json", "model.keras"]
    hers = {}
    for condition in (
        lambda: (run / "config.json").exists(),
        lambda: list(run.glob("train/events*")),
        lambda: len(list(run.glob("checkpoints/step-*.*.npz"))) > 1,
        lambda: list(run.glob("checkpoints/*.partial.npz")),
    ):
        program = start(run)
        wait_for(condition)
        time.sleep(moments.uniform(0, 0.2))
        program.kill()
        program.communicate()
        check_kept(hers, run)
        if not hers:
            before = contents(run)
            put(run, files=[name for name in FILES if name not in its_own])
            added = contents(run)
            hers = {p: c for p, c in added.items() if p not in before}
            assert len(hers) > 100
    program = start(run)
    output, errors = program.communicate()
    assert program.returncode == 0, (output, errors)
    check_kept(hers, run)
    # All of the run's own checkpoints are gone.
    left = {str(path) for path in (run / "checkpoints").iterdir()}
    assert left == {p for p in hers if os.path.dirname(p).endswith("points")}


@pytest.mark.parametrize("name", ["results.json", "model.keras", "train"])
@pytest.mark.parametrize("is_link", [False, True])
def test_what_stands_in_an_unfinished_runs_place_is_refused(
    tmp_path, name, is_link
):
    run, hers = tmp_path / "run", tmp_path / "hers"
    program = start(run)
    wait_for((run / "history.csv").exists)
    program.kill()
    program.communicate()
    if (run / name).exists():
        (run / name).rename(tmp_path / "away")
    hers.mkdir()
    (hers / "0.jpg").write_text("hers")
    if is_link:
        (run / name).symlink_to(hers / "0.jpg" if "." in name else hers)
    else:
        (run / name).write_text('{"accuracy": 1.0}')
    before = contents(tmp_path)
    assert f"{run / name} " in refused(start(run))
    check_kept(before, tmp_path)


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
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=f"{name} is not as a report has"):
        write_report(str(runs))
    assert contents(tmp_path) == before
    write_report(str(runs), str(tmp_path / "output"))
    check_kept(before, tmp_path)

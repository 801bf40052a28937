import json
import os

import pytest

from configs import digits
from experiments.config import scaled_down
from experiments.process.own_files import make_log
from experiments.run_folder import WorkDir, configuration_checksum
from experiments.sweep.command import run_sweep
from experiments.sweep.grid import swept_runs

# Stands in for train.py: fails with ell=3, has the sweep interrupted with
# ell=5, diverges with ell=6, is interrupted itself with ell=7.
PROGRAM = """
import json, os, signal, sys

def write(name, text):
    with open(os.path.join(flags["workdir"], name), "w") as file:
        file.write(text)

flags = dict(a.lstrip("-").split("=", 1) for a in sys.argv[1:])
with open(sys.argv[0].replace("program.py", "configurations")) as file:
    configurations = json.load(file)
if flags["config.ell"] == "3":
    print("a step before")
    sys.exit("train.py: it did not work.")
if flags["config.ell"] == "5":
    os.kill(os.getppid(), signal.SIGTERM)
    signal.pause()
if flags["config.ell"] == "7":
    sys.exit(143)
config, done = configurations[flags["workdir"]]
write("config.json", json.dumps(config))
if flags["config.ell"] == "6":
    write("history.csv", "epoch,loss\\n0,2.3\\n1,nan\\n")
    sys.exit("train.py: The loss is not finite.")
write("results.json", json.dumps({**done, **flags}))
"""


@pytest.fixture
def sweep(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    def run(*specifications, parallel=1, arguments=(), shard=None, **overrides):
        config = digits.get_config()
        config.update(overrides)
        command = [str(program), *arguments, *specifications]
        workdir = str(tmp_path / "runs")
        swept = [s.removeprefix("--sweep=") for s in specifications]
        configurations = {
            os.path.join(workdir, run.name): (
                scaled_down(run.config).to_dict(),
                done(scaled_down(run.config).to_dict()),
            )
            for run in swept_runs(swept, config)
        }
        (tmp_path / "configurations").write_text(json.dumps(configurations))
        return run_sweep(
            swept,
            config,
            workdir,
            command,
            parallel,
            shard,
        )

    return run


def done(config):
    """What results.json holds in any case."""
    return {"configuration_checksum": configuration_checksum(config)}


def configuration(**keys):
    config = digits.get_config()
    config.update(keys)
    return config.to_dict()


@pytest.fixture
def write_folder(tmp_path):
    def write(name, **files):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        for stem, content in files.items():
            path = folder / stem.replace("_", ".")
            is_text = isinstance(content, str)
            path.write_text(content if is_text else json.dumps(content))

    return write


def results(tmp_path):
    found = {
        path.parent.name: json.loads(path.read_text())
        for path in (tmp_path / "runs").glob("*/results.json")
    }
    for content in found.values():
        del content["configuration_checksum"]
    return found


def test_every_run_has_a_folder_and_its_flags(sweep, tmp_path, capsys):
    arguments = ["--data_dir=data", "--jobs=2", "--workdir=elsewhere"]
    code = sweep(
        "--sweep=ell=1,2", "--sweep=seed=0,1", parallel=2, arguments=arguments
    )
    assert code == 0
    assert "4 of 4 runs are finished, in" in capsys.readouterr().out
    for ell in "12":
        for seed in "01":
            name = f"ell={ell},seed={seed}"
            assert results(tmp_path)[name] == {
                "data_dir": "data",
                "config.ell": ell,
                "config.seed": seed,
                "workdir": str(tmp_path / "runs" / name),
            }


def test_what_is_finished_is_skipped_and_the_rest_is_run(sweep, tmp_path):
    assert sweep("--sweep=ell=1,2") == 0
    first, second = (
        tmp_path / "runs" / f"ell={ell}" / "results.json" for ell in (1, 2)
    )
    first.write_text(json.dumps(done(configuration(ell=1))))
    second.unlink()
    assert sweep("--sweep=ell=1,2,4") == 0
    assert results(tmp_path)["ell=1"] == {}
    assert set(results(tmp_path)) == {"ell=1", "ell=2", "ell=4"}


def test_failed_run_is_reported_at_the_end(sweep, tmp_path, capsys):
    assert sweep("--sweep=ell=1,3,4") == 1
    assert set(results(tmp_path)) == {"ell=1", "ell=4"}
    *_, failed, reason, summary = capsys.readouterr().out.splitlines()
    log = tmp_path / "runs" / "ell=3" / "output.log"
    assert failed == f"failed (exit code 1): ell=3, see {log}"
    assert reason.strip() == "train.py: it did not work."
    assert summary.startswith("2 of 3 runs are finished")
    head, printed, *_ = log.read_text().splitlines()
    assert head == "# A run of a sweep of train.py, ell=3"
    assert printed == "a step before"


def test_interrupted_sweep_says_how_it_goes_on(sweep, tmp_path, capsys):
    assert sweep("--sweep=ell=1,5,4") == 143
    assert set(results(tmp_path)) == {"ell=1"}
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == (
        "Interrupted: 1 of 3 runs are finished; the same command goes on "
        "from here."
    )


def test_a_diverged_run_is_listed_and_not_run_again(sweep, tmp_path, capsys):
    folder = tmp_path / "runs" / "ell=6"
    assert sweep("--sweep=ell=1,6") == 0
    *_, diverged, summary = capsys.readouterr().out.splitlines()
    assert diverged.startswith("diverged: ell=6, see ")
    assert f"if {folder} is removed" in diverged
    assert summary.startswith("1 of 2 runs are finished, 1 diverged, in")
    (folder / "output.log").write_text("of the first time")
    assert sweep("--sweep=ell=1,6") == 0
    assert (folder / "output.log").read_text() == "of the first time"
    assert "diverged: ell=6" in capsys.readouterr().out


def test_a_run_whose_losses_are_finite_is_run_again(
    sweep, tmp_path, write_folder
):
    history = "epoch,loss\n0,nan\n1,2.3\n"
    write_folder("ell=1", config_json=configuration(ell=1), history_csv=history)
    assert sweep("--sweep=ell=1") == 0
    assert set(results(tmp_path)) == {"ell=1"}


def test_an_interrupted_run_is_no_failure(sweep, tmp_path, capsys):
    assert sweep("--sweep=ell=1,7,4") == 130
    assert set(results(tmp_path)) == {"ell=1", "ell=4"}
    *_, interrupted, summary = capsys.readouterr().out.splitlines()
    assert interrupted == "interrupted: ell=7; the same command goes on with it"
    assert summary.startswith("2 of 3 runs are finished, in")
    assert sweep("--sweep=ell=1,3,7") == 1


def test_a_run_of_another_process_is_no_failure(sweep, tmp_path, capsys):
    folder = tmp_path / "runs" / "ell=2"
    other = WorkDir(str(folder), configuration(ell=2))
    other.begin()
    make_log(str(folder / "output.log"), "of the other process")
    log = (folder / "output.log").read_text()
    assert sweep("--sweep=ell=1,2,4") == 0
    *_, elsewhere, summary = capsys.readouterr().out.splitlines()
    assert elsewhere == "elsewhere: ell=2, which another process runs"
    assert summary.startswith("2 of 3 runs are finished, 1 elsewhere, in")
    assert (folder / "output.log").read_text() == log
    del other
    assert sweep("--sweep=ell=1,2,4") == 0
    assert set(results(tmp_path)) == {"ell=1", "ell=2", "ell=4"}


def test_shards_share_the_runs(sweep, tmp_path, capsys, monkeypatch):
    sweeps = ("--sweep=ell=1,2", "--sweep=seed=0,1")
    assert sweep(*sweeps, shard="1/2") == 0
    assert "Shard 1 of 2: 2 of the 4 runs." in capsys.readouterr().out
    first = set(results(tmp_path))
    assert len(first) == 2
    for name, value in (("ID", 7), ("MIN", 6), ("COUNT", 2)):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    assert sweep(*sweeps) == 0
    assert "2 of 2 runs are finished, in" in capsys.readouterr().out
    assert len(results(tmp_path)) == 4
    assert all("shard" not in flags for flags in results(tmp_path).values())


def test_folder_of_other_runs_is_refused_before_any_is_run(
    sweep, tmp_path, write_folder
):
    write_folder("ell=2", config_json=configuration(ell=2, epochs=7))
    with pytest.raises(ValueError, match="differs in epochs"):
        sweep("--sweep=ell=1,2")
    assert results(tmp_path) == {}


def test_scale_is_part_of_what_a_run_is(sweep, tmp_path, write_folder):
    half = configuration(ell=1, scale=0.5, epochs=40, num_examples=718)
    half["model"]["hidden_units"] = (32, 32)
    write_folder("ell=1", config_json=half, results_json=done(half))
    assert sweep("--sweep=ell=1", scale=0.5) == 0
    assert results(tmp_path) == {"ell=1": {}}


@pytest.mark.parametrize("name", ["output.log", "photo.jpg", "results.json"])
def test_folder_of_somebody_elses_is_refused_before_any_is_run(
    sweep, tmp_path, name
):
    foreign = tmp_path / "runs" / "ell=2" / name
    foreign.parent.mkdir(parents=True)
    foreign.write_text("hers")
    with pytest.raises(ValueError, match=f"it holds '{name}'; give another"):
        sweep("--sweep=ell=1,2")
    assert foreign.read_text() == "hers"
    assert not (tmp_path / "runs" / "ell=1").exists()


@pytest.mark.parametrize("is_link", [True, False])
def test_a_log_that_the_sweep_did_not_write_is_refused(
    sweep, tmp_path, write_folder, is_link
):
    write_folder("ell=2", config_json=configuration(ell=2))
    log = tmp_path / "runs" / "ell=2" / "output.log"
    hers = tmp_path / "hers" if is_link else log
    hers.write_text("# A run of mine")
    if is_link:
        log.symlink_to(hers)
    with pytest.raises(ValueError, match="output.log is not what this run"):
        sweep("--sweep=ell=1,2")
    assert results(tmp_path) == {}
    assert hers.read_text() == "# A run of mine"


def test_a_log_that_appears_meanwhile_is_kept(tmp_path):
    log = tmp_path / "output.log"
    log.write_text("hers")
    with pytest.raises(ValueError, match="output.log is not what this run"):
        make_log(str(log), "ell=1")
    assert log.read_text() == "hers"

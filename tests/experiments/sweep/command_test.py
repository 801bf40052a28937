"""A sweep from its flags to its exit code, with a stand-in for train.py."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from configs import digits
from experiments.config import scaled_down
from experiments.process.own_files import make_log
from experiments.run_folder import WorkDir, configuration_checksum
from experiments.sweep import runner
from experiments.sweep.command import run_sweep
from experiments.sweep.grid import swept_runs
from tests.helpers.contents import contents_of
from tests.helpers.paths import ROOT

# Fails with ell=3, has the sweep interrupted with ell=5, diverges with ell=6,
# is interrupted itself with ell=7, and does not end when told to with ell=8.
PROGRAM = """
import json, os, signal, sys, time

def write(name, value):
    with open(os.path.join(flags["workdir"], name), "w") as file:
        file.write(value if isinstance(value, str) else json.dumps(value))

flags = [a.lstrip("-").partition("=") for a in sys.argv[1:]]
assert flags.pop() == ("alone", "", "")
flags = {name: value for name, _, value in flags}
with open(sys.argv[0].replace("program.py", "configurations")) as file:
    config, done = json.load(file)[flags["workdir"]]
if flags["config.ell"] == "3":
    print("a step before")
    sys.exit("train.py: it did not work.")
if flags["config.ell"] in "58":
    if flags["config.ell"] == "8":
        signal.signal(signal.SIGTERM, lambda *_: None)
    write("pid", os.getpid())
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(60)
if flags["config.ell"] == "7":
    sys.exit(143)
write("config.json", config)
if flags["config.ell"] == "6":
    write("history.csv", "epoch,loss\\n0,2.3\\n1,nan\\n")
    sys.exit("train.py: The loss is not finite.")
write("results.json", done | flags)
"""


def configuration(**keys):
    config = digits.get_config()
    config.update(keys)
    return config.to_dict()


def done(config):
    """What results.json holds in any case."""
    return {"configuration_checksum": configuration_checksum(config)}


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def sweep(tmp_path, runs, capsys, monkeypatch):
    """Runs a sweep; returns the exit code and the lines that it prints."""
    monkeypatch.setattr(runner, "_POLL_SECONDS", 0.02)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    def sweep(*swept, parallel=1, arguments=(), shard=None, **overrides):
        config = digits.get_config()
        config.update(overrides)
        configurations = {}
        for run in swept_runs(swept, config):
            own = scaled_down(run.config).to_dict()
            configurations[str(runs / run.name)] = own, done(own)
        (tmp_path / "configurations").write_text(json.dumps(configurations))
        command = [str(program), *arguments]
        code = run_sweep(swept, config, str(runs), command, parallel, shard)
        return code, capsys.readouterr().out.splitlines()

    return sweep


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for stem, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / stem.replace("_", ".")).write_text(text)


def results(runs):
    """`{run: what its results.json holds beside what all hold}`."""
    found = {}
    for path in runs.glob("*/results.json"):
        content = found[path.parent.name] = json.loads(path.read_text())
        del content["configuration_checksum"]
    return found


def test_every_run_has_a_folder_and_its_flags(sweep, runs):
    arguments = ["--data_dir=data", "--jobs=2", "--workdir=elsewhere"]
    code, lines = sweep("ell=1,2", "seed=0,1", parallel=2, arguments=arguments)
    assert code == 0
    assert lines[-1].startswith("4 of 4 runs are finished, in")
    assert [line[:5] for line in lines if line[0] == "["][-1] == "[4/4]"
    assert results(runs) == {
        f"ell={ell},seed={seed}": {
            "data_dir": "data",
            "jobs": "2",
            "config.ell": ell,
            "config.seed": seed,
            "workdir": str(runs / f"ell={ell},seed={seed}"),
        }
        for ell in "12"
        for seed in "01"
    }


def test_what_is_finished_is_skipped_and_the_rest_is_run(sweep, runs):
    sweep("ell=1,2")
    write(runs / "ell=1", results_json=done(configuration(ell=1)))
    (runs / "ell=2" / "results.json").unlink()
    code, lines = sweep("ell=1,2,4")
    assert code == 0 and "1 of 3 runs are finished already." in lines
    assert not [line for line in lines if line.startswith("ell=1")]
    assert results(runs)["ell=1"] == {}
    assert set(results(runs)) == {"ell=1", "ell=2", "ell=4"}


def test_a_run_that_fails_or_is_interrupted_does_not_stop_the_others(
    sweep, runs
):
    code, [*_, failed, reason, summary] = sweep("ell=1,3,4")
    assert code == 1
    assert set(results(runs)) == {"ell=1", "ell=4"}
    log = runs / "ell=3" / "output.log"
    assert failed == f"ell=3 has failed (exit code 1), see {log}"
    assert reason == "    train.py: it did not work."
    assert summary.startswith("2 of 3 runs are finished, in")
    head, printed, *_ = log.read_text().splitlines()
    assert head == "# A run of a sweep of train.py, ell=3"
    assert printed == "a step before"
    code, [*_, interrupted, _] = sweep("ell=1,7")
    assert code == 130
    assert interrupted.startswith("ell=7 was interrupted; the same command")
    assert sweep("ell=1,3,7")[0] == 1


@pytest.mark.parametrize("ell", [5, 8])
def test_an_interrupted_sweep_ends_its_processes(sweep, runs, ell, monkeypatch):
    monkeypatch.setattr(runner, "_GRACE_SECONDS", 0.5)
    code, lines = sweep(f"ell=1,{ell},4")
    assert code == 143
    assert set(results(runs)) == {"ell=1"}
    assert lines[-1].startswith("Interrupted: 1 of 3 runs are finished; the")
    assert not is_running((runs / f"ell={ell}" / "pid").read_text())


def test_a_diverged_run_is_listed_and_not_run_again(sweep, runs):
    for is_first in (True, False):
        code, [*_, diverged, summary] = sweep("ell=1,6")
        assert code == 0
        assert diverged.startswith("ell=6 has diverged, see ")
        assert diverged.endswith(f"if {runs / 'ell=6'} is removed")
        assert summary.startswith("1 of 2 runs are finished, 1 diverged, in")
        log = runs / "ell=6" / "output.log"
        assert is_first or log.read_text() == "of the first time"
        log.write_text("of the first time")
    # A loss that is finite again is no such end.
    history = "epoch,loss\n0,nan\n1,2.3\n"
    config = configuration(ell=1)
    write(runs / "ell=1", config_json=config, history_csv=history)
    (runs / "ell=1" / "results.json").unlink()
    assert sweep("ell=1")[0] == 0 and set(results(runs)) == {"ell=1"}


def test_a_run_of_another_process_is_no_failure(sweep, runs):
    log = runs / "ell=2" / "output.log"
    other = WorkDir(str(log.parent), configuration(ell=2))
    other.begin()
    make_log(str(log), "of the other process")
    text = log.read_text()
    code, [*_, elsewhere, summary] = sweep("ell=1,2,4")
    assert code == 0
    assert elsewhere == "ell=2 is run by another process"
    assert summary.startswith("2 of 3 runs are finished, 1 elsewhere, in")
    assert log.read_text() == text
    del other
    assert sweep("ell=1,2,4")[0] == 0
    assert set(results(runs)) == {"ell=1", "ell=2", "ell=4"}


def test_shards_share_the_runs(sweep, runs, monkeypatch):
    _, [first, *_] = sweep("ell=1,2", "seed=0,1", shard="1/2")
    assert first == "Shard 1 of 2: 2 of the 4 runs."
    assert len(results(runs)) == 2
    for name, value in (("ID", 7), ("MIN", 6), ("COUNT", 2)):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    _, [*_, summary] = sweep("ell=1,2", "seed=0,1")
    assert summary.startswith("2 of 2 runs are finished, in")
    assert len(results(runs)) == 4


def test_scale_is_part_of_what_a_run_is(sweep, runs):
    half = configuration(ell=1, scale=0.5, epochs=40, num_examples=718)
    half["model"]["hidden_units"] = (32, 32)
    write(runs / "ell=1", config_json=half, results_json=done(half))
    sweep("ell=1", scale=0.5)
    assert results(runs) == {"ell=1": {}}


ONE = configuration(ell=2)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"config_json": ONE | {"epochs": 7}}, "it differs in epochs"),
        ({"photo_jpg": "hers"}, "it holds 'photo.jpg'; give another"),
        ({"output_log": "hers"}, "it holds 'output.log'; give another"),
        ({"config_json": ONE, "output_log": "# A run of me"}, "is not what"),
    ],
)
def test_a_folder_of_others_is_refused_before_any_is_run(
    sweep, runs, files, says
):
    write(runs / "ell=2", **files)
    before = contents_of(runs / "ell=2")
    with pytest.raises(ValueError, match=says):
        sweep("ell=1,2")
    assert contents_of(runs / "ell=2") == before
    assert not (runs / "ell=1" / "results.json").exists()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_has_one_line_of_progress(sweep, runs, monkeypatch):
    history = "epoch,loss\n" + "0,2.3\n" * 20
    write(runs / "ell=1", config_json=configuration(ell=1))
    write(runs / "ell=1", history_csv=history)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    sweep("ell=1,3")
    bar, *_, summary, _ = terminal.getvalue().split("\n")
    # 20 of its 80 epochs, or of the 80 + 3 * 80 of both, were done before.
    assert "\r[0/2]  ell=1 25%  " in bar and "\rell=1 is finished, after" in bar
    assert " ? left" in bar
    assert summary.startswith("1 of 2 runs are finished, in")


def is_running(pid):
    try:
        # Nobody need have waited for it yet.
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has it.")
def test_a_killed_sweep_takes_its_processes_along(tmp_path):
    program = tmp_path / "program.py"
    sleeper = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    program.write_text(sleeper)
    code = "from configs import digits; from experiments.sweep.command import "
    code += "run_sweep; run_sweep(['ell=1'], digits.get_config(), "
    code += f"{str(tmp_path / 'runs')!r}, [{str(program)!r}], 1)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment)
    log, text = tmp_path / "runs" / "ell=1" / "output.log", ""
    deadline = time.monotonic() + 300
    while text.count("\n") < 2:
        text = log.read_text() if log.exists() else ""
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child = text.split()[-1]
    assert is_running(child)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    # Long before it would end by itself.
    deadline = time.monotonic() + 30
    while is_running(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)

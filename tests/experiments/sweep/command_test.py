import json

import pytest

from configs import digits
from experiments.config import scaled_down
from experiments.process.own_files import make_log
from experiments.run_folder import WorkDir, configuration_checksum
from experiments.sweep.command import run_sweep
from experiments.sweep.grid import swept_runs
from tests.helpers.contents import contents_of

# Stands in for train.py: fails with ell=3, has the sweep interrupted with
# ell=5, diverges with ell=6, is interrupted itself with ell=7.
PROGRAM = """
import json, os, signal, sys

def write(name, value):
    with open(os.path.join(flags["workdir"], name), "w") as file:
        file.write(value if isinstance(value, str) else json.dumps(value))

flags = dict(a.lstrip("-").split("=", 1) for a in sys.argv[1:])
with open(sys.argv[0].replace("program.py", "configurations")) as file:
    config, done = json.load(file)[flags["workdir"]]
if flags["config.ell"] == "3":
    print("a step before")
    sys.exit("train.py: it did not work.")
if flags["config.ell"] == "5":
    os.kill(os.getppid(), signal.SIGTERM)
    signal.pause()
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
def sweep(tmp_path, runs, capsys):
    """Runs a sweep; returns the exit code and the lines that it prints."""
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
        command = [str(program), *arguments, *(f"--sweep={s}" for s in swept)]
        code = run_sweep(swept, config, str(runs), command, parallel, shard)
        return code, capsys.readouterr().out.splitlines()

    return sweep


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for stem, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / stem.replace("_", ".")).write_text(text)


def results(runs):
    found = {
        path.parent.name: json.loads(path.read_text())
        for path in runs.glob("*/results.json")
    }
    for content in found.values():
        del content["configuration_checksum"]
    return found


def test_every_run_has_a_folder_and_its_flags(sweep, runs):
    arguments = ["--data_dir=data", "--jobs=2", "--workdir=elsewhere"]
    code, lines = sweep("ell=1,2", "seed=0,1", parallel=2, arguments=arguments)
    assert code == 0
    assert lines[-1].startswith("4 of 4 runs are finished, in")
    assert results(runs) == {
        f"ell={ell},seed={seed}": {
            "data_dir": "data",
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
    assert sweep("ell=1,2,4")[0] == 0
    assert results(runs)["ell=1"] == {}
    assert set(results(runs)) == {"ell=1", "ell=2", "ell=4"}


def test_failed_run_is_reported_at_the_end(sweep, runs):
    code, [*_, failed, reason, summary] = sweep("ell=1,3,4")
    assert code == 1
    assert set(results(runs)) == {"ell=1", "ell=4"}
    log = runs / "ell=3" / "output.log"
    assert failed == f"failed (exit code 1): ell=3, see {log}"
    assert reason.strip() == "train.py: it did not work."
    assert summary.startswith("2 of 3 runs are finished")
    head, printed, *_ = log.read_text().splitlines()
    assert head == "# A run of a sweep of train.py, ell=3"
    assert printed == "a step before"


def test_interrupted_sweep_says_how_it_goes_on(sweep, runs):
    code, lines = sweep("ell=1,5,4")
    assert code == 143
    assert set(results(runs)) == {"ell=1"}
    assert lines[-1] == (
        "Interrupted: 1 of 3 runs are finished; the same command goes on "
        "from here."
    )


def test_an_interrupted_run_is_no_failure(sweep, runs):
    code, [*_, interrupted, summary] = sweep("ell=1,7,4")
    assert code == 130
    assert set(results(runs)) == {"ell=1", "ell=4"}
    assert interrupted == "interrupted: ell=7; the same command goes on with it"
    assert summary.startswith("2 of 3 runs are finished, in")
    assert sweep("ell=1,3,7")[0] == 1


def test_a_diverged_run_is_listed_and_not_run_again(sweep, runs):
    for log in (None, "of the first time"):
        if log:
            write(runs / "ell=6", output_log=log)
        code, [*_, diverged, summary] = sweep("ell=1,6")
        assert code == 0
        assert diverged.startswith("diverged: ell=6, see ")
        assert f"if {runs / 'ell=6'} is removed" in diverged
        assert summary.startswith("1 of 2 runs are finished, 1 diverged, in")
    assert (runs / "ell=6" / "output.log").read_text() == log


def test_a_run_whose_losses_are_finite_is_run_again(sweep, runs):
    history = "epoch,loss\n0,nan\n1,2.3\n"
    config = configuration(ell=1)
    write(runs / "ell=1", config_json=config, history_csv=history)
    assert sweep("ell=1")[0] == 0
    assert set(results(runs)) == {"ell=1"}


def test_a_run_of_another_process_is_no_failure(sweep, runs):
    log = runs / "ell=2" / "output.log"
    other = WorkDir(str(log.parent), configuration(ell=2))
    other.begin()
    make_log(str(log), "of the other process")
    text = log.read_text()
    code, [*_, elsewhere, summary] = sweep("ell=1,2,4")
    assert code == 0
    assert elsewhere == "elsewhere: ell=2, which another process runs"
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


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"config_json": configuration(ell=2, epochs=7)}, "differs in epochs"),
        ({"photo_jpg": "hers"}, "it holds 'photo.jpg'; give another"),
        ({"output_log": "hers"}, "it holds 'output.log'; give another"),
        (
            {
                "config_json": configuration(ell=2),
                "output_log": "# A run of me",
            },
            "output.log is not what this run",
        ),
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


@pytest.mark.parametrize("is_link", [True, False])
def test_a_log_that_appears_meanwhile_is_kept(tmp_path, is_link):
    log, theirs = tmp_path / "output.log", tmp_path / "theirs"
    log.write_text("# A run of mine")
    if is_link:
        # Also where the link leads to a log of a sweep.
        make_log(str(theirs), "ell=1")
        log.unlink()
        log.symlink_to(theirs)
    before = log.read_bytes()
    with pytest.raises(ValueError, match="output.log is not what this run"):
        make_log(str(log), "ell=2")
    assert log.read_bytes() == before and log.is_symlink() == is_link

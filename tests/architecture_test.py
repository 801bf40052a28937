"""Every room imports only from lower floors."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# The rooms of every floor. A room is a subpackage or some modules, which may
# import one another; it is called after the first.
FLOORS = {
    0: [
        ["version"],
        ["arguments"],
        ["markdown"],
        ["multi_worker"],
        ["replica_values"],
        ["interruption"],
    ],
    1: [["fieller"], ["wording"], ["configuration"]],
    2: [
        ["scaling", "scaling_rules", "closeness", "verdict", "linear_scaling"],
        ["estimate", "observations", "pooling"],
        ["noise"],
        ["svag", "weights", "hyperparameters"],
        ["schedules"],
        ["strategies"],
    ],
    3: [
        ["metrics"],
        ["wrapping"],
        ["simulation"],
        ["step_grouping"],
        ["applications"],
        ["datasets"],
    ],
    4: [
        ["training"],
        ["ngd"],
        [
            "probe",
            "probe_moments",
            "examples",
            "invariance",
            "model_state",
            "sequential_gradients",
        ],
    ],
    5: [
        ["callbacks"],
        ["history"],
        ["checkpoint", "resuming"],
        ["configured_model", "configured_data"],
        ["recipes"],
        ["workdir"],
        [
            "linear_scaling_check",
            "linear_scaling_report",
            "learning_rates",
            "noise_epochs",
            "noise_summaries",
            "preconditions",
            "run_conditions",
        ],
    ],
    6: [
        ["configured_check"],
        ["results"],
        [
            "report",
            "comparison",
            "figures",
            "ngd_study",
            "report_sections",
            "report_summaries",
            "runs",
            "scaling_figure",
            "scaling_section",
            "scaling_study",
            "seed_statistics",
            "svag_study",
            "svag_verdict",
        ],
        [
            "sweep",
            "child_process",
            "sweep_command",
            "sweep_progress",
            "sweep_runner",
        ],
    ],
    7: [["keras_svag"]],
    8: [["train"]],
}

# What a room must not import from outside the project.
FORBIDDEN = {
    "fieller": {"keras", "tensorflow"},
    "wording": {"keras", "tensorflow"},
    "scaling": {"keras", "tensorflow"},
    "estimate": {"keras", "tensorflow"},
    "svag": {"tensorflow"},
    "recipes": {"keras", "tensorflow"},
    "interruption": {"keras", "tensorflow"},
    "checkpoint": {"tensorflow"},
    "report": {"keras"},
    "sweep": {"keras", "tensorflow"},
    "workdir": {"keras", "tensorflow"},
}


def source_files():
    files = sorted((ROOT / "keras_svag").rglob("*.py"))
    return [p.relative_to(ROOT).as_posix() for p in files] + ["train.py"]


def module_of(source):
    return (
        source.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    )


def floor_and_room_of(module):
    name = module.removeprefix("keras_svag.").split(".")[0]
    for floor, rooms in FLOORS.items():
        for room in rooms:
            if name in room:
                return floor, room[0]
    raise AssertionError(f"{module} stands on no floor: add it to FLOORS")


def is_module(name):
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def imported_modules(source):
    """The modules that a file imports, at any depth of its code."""
    for node in ast.walk(ast.parse((ROOT / source).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if is_module(full) else node.module


@pytest.mark.parametrize("source", source_files())
def test_room_imports_only_from_lower_floors(source):
    floor, room = floor_and_room_of(module_of(source))
    for module in imported_modules(source):
        if module.split(".")[0] not in ("keras_svag", "train"):
            continue
        imported_floor, imported_room = floor_and_room_of(module)
        assert imported_room == room or imported_floor < floor, (
            f"{source}, on floor {floor}, imports {module} from floor"
            f" {imported_floor}"
        )


@pytest.mark.parametrize("source", source_files())
def test_room_does_not_know_what_it_must_not_know(source):
    _, room = floor_and_room_of(module_of(source))
    imported = {module.split(".")[0] for module in imported_modules(source)}
    forbidden = imported & FORBIDDEN.get(room, set())
    assert not forbidden, f"{source} imports {sorted(forbidden)}"

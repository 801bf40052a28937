"""The wheel: its version, what it requires, and what it contains."""

import email
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.helpers.paths import ROOT

PACKAGING_FILES = ("setup.py", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source = tmp_path_factory.mktemp("source")
    for name in PACKAGING_FILES:
        shutil.copy(ROOT / name, source)
    shutil.copytree(
        ROOT / "keras_svag",
        source / "keras_svag",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps"]
    # Without build isolation pip needs no network.
    command += ["--no-build-isolation", "--quiet", "--wheel-dir", str(target)]
    subprocess.run([*command, str(source)], check=True)
    (path,) = target.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel):
    (name,) = (n for n in wheel.namelist() if n.endswith("/METADATA"))
    return email.message_from_bytes(wheel.read(name))


def test_wheel_has_the_version_of_version_py(metadata):
    text = (ROOT / "keras_svag" / "version.py").read_text()
    assert metadata["Version"] == re.search(r'"(.+)"', text)[1]


def test_wheel_requires_python_3_11(metadata):
    assert metadata["Requires-Python"] == ">=3.11"


def test_wheel_requires_what_the_package_imports(metadata):
    required = {
        re.match(r"[\w.-]+", requirement)[0].replace("_", "-")
        for requirement in metadata.get_all("Requires-Dist")
        if "extra ==" not in requirement
    }
    assert {
        "tensorflow",
        "keras",
        "tensorflow-datasets",
        "importlib-resources",
        "tensorboard",
        "absl-py",
        "ml-collections",
        "scikit-learn",
    } <= required


def test_wheel_contains_every_file_of_the_package_and_nothing_else(wheel):
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "keras_svag").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {n for n in wheel.namelist() if ".dist-info/" not in n}
    assert packed == expected


def test_wheel_carries_the_license(wheel):
    assert any(n.endswith("LICENSE") for n in wheel.namelist())

"""The wheel: its version, what it requires, and what it contains."""

import email
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
import yaml
from packaging.requirements import Requirement

from keras_svag.version import __version__
from tests.helpers.paths import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source, target = map(tmp_path_factory.mktemp, ("source", "wheel"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    without = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "keras_svag", source / "keras_svag", ignore=without)
    # Without build isolation pip needs no network.
    command = "-m pip wheel --no-deps --no-build-isolation --quiet --wheel-dir"
    command = [sys.executable, *command.split(), target, source]
    subprocess.run(command, check=True)
    (path,) = target.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel):
    (name,) = (n for n in wheel.namelist() if n.endswith("/METADATA"))
    return email.message_from_bytes(wheel.read(name))


def test_changelog_begins_with_the_version_and_its_date(metadata):
    assert metadata["Version"] == __version__
    assert metadata["Requires-Python"] == ">=3.10"
    text = (ROOT / "CHANGELOG.md").read_text()
    version, date = re.search(r"^## (\S+) - (\S+)$", text, re.M).groups()
    assert version == __version__
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == version
    assert str(cited["date-released"]) == date


def test_every_address_is_in_the_one_repository_of_setup_py(metadata):
    source = (ROOT / "setup.py").read_text()
    (repository,) = re.findall(r"https://[^/\s]+/[^\s\"{}]+", source)
    assert metadata["Home-page"] == repository
    for label_and_address in metadata.get_all("Project-URL"):
        _, address = label_and_address.split(", ")
        assert address.startswith(f"{repository}/")
    for name in ("README.md", "CITATION.cff", "CONTRIBUTING.md", "SECURITY.md"):
        assert repository not in (ROOT / name).read_text(), name


def test_wheel_requires_keras_and_one_backend_is_an_extra(metadata):
    required = {"keras", "numpy", "scipy"}
    requirements = [*map(Requirement, metadata.get_all("Requires-Dist"))]
    for extra in ("", "tensorflow", "jax", "torch"):
        names = {
            requirement.name
            for requirement in requirements
            if not requirement.marker
            or requirement.marker.evaluate({"extra": extra})
        }
        added = {extra, "tensorboard"} if extra else set()
        assert names - required == added and required <= names


def test_wheel_contains_every_module_of_the_package_and_nothing_else(wheel):
    modules = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "keras_svag").rglob("*.py")
    }
    packed = {n for n in wheel.namelist() if ".dist-info/" not in n}
    assert packed == modules | {"keras_svag/py.typed"}

"""Settings that must stand before any test imports TensorFlow."""

import gc
import os

import hypothesis

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# The same examples every time, so that no run fails for luck; 10,000 others
# by `pytest --hypothesis-profile=thorough tests/*/properties_test.py`.
COMMON = {"deadline": None, "database": None}
for name, count in (("quick", 100), ("many", 1000), ("thorough", 10_000)):
    hypothesis.settings.register_profile(
        name, max_examples=count, derandomize=name == "quick", **COMMON
    )
hypothesis.settings.load_profile("quick")

# What takes longest begins first: begun last, it would leave a worker idle.
_LONGEST_FILES = (
    "tests/tutorials_test.py",
    "train/multi_worker_test.py",
    "models/multi_worker_test.py",
    "models/distribution_test.py",
    "experiments/fit_test.py",
    "callbacks/bits_test.py",
    "train/train_test.py",
    "train/resume_test.py",
    "train/sweep_test.py",
    "models/svag_model_test.py",
    "callbacks/monitor_test.py",
    "branching/branches_test.py",
    "optimizers/svag_test.py",
    "callbacks/life_of_fit_test.py",
)


def pytest_collection_modifyitems(items):
    def place(item):
        ends = map(item.path.as_posix().endswith, _LONGEST_FILES)
        return (*ends, True).index(True)

    items.sort(key=place)


def pytest_collection_finish():
    """What is imported is not searched for garbage again and again."""
    gc.collect()
    gc.freeze()

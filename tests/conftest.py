"""Settings that must stand before any test imports TensorFlow."""

import os
import sys

import hypothesis

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# The same examples every time, so that no run fails for luck; 10,000 others
# by `pytest --hypothesis-profile=thorough tests/*/properties_test.py`.
hypothesis.settings.register_profile(
    "quick",
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
)
hypothesis.settings.register_profile(
    "thorough", max_examples=10_000, deadline=None, database=None
)
hypothesis.settings.load_profile("quick")


def pytest_addoption(parser):
    parser.addoption("--optimize_graphs", action="store_true")


def pytest_collection_finish(session):
    """Has TensorFlow run graphs as they were traced.

    Its optimizer takes a third of the time of tests that trace much and run
    little. The programs that tests start are left as users have them.
    """
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow and not session.config.option.optimize_graphs:
        tensorflow.config.optimizer.set_experimental_options(
            {"disable_meta_optimizer": True}
        )

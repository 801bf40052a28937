"""Settings that must stand before any test imports TensorFlow."""

import os

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

"""Tests of keras_svag and of its experiments, in the folders of the code."""

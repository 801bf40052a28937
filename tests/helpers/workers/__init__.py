"""Checks that run on several workers, each a process."""

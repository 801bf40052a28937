"""Optimizers that simulate SDEs."""

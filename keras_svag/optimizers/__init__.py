"""Optimizers that simulate SDEs, and learning-rate schedules."""

"""Models measured, not trained."""

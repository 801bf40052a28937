"""Many runs: every combination of some values."""

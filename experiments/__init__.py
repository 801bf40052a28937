"""From a configuration to a run: what train.py stands on."""

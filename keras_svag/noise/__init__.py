"""The gradient noise of pairs of batches, with error bars."""

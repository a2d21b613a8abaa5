"""The benchmark: ours beside nginx and distribution, in one run on one machine."""

"""Testing: `evaluate` restores and measures the images of a data set; `run_test` and `sweep` are runs of it, with reports."""

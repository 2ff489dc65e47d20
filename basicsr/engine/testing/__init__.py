"""Testing: `evaluate` restores and measures the images of a data set; `run_test` and `sweep` run it, each with its reports."""

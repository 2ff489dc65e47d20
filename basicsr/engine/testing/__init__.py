"""Testing: `evaluate` measures images; `run_test` makes a `trial` of the options, `sweep` tries windows; both write reports."""

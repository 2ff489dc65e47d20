"""The training loop, evaluation and reports."""

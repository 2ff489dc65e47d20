"""Training: `fit` makes the parts of a run from its options, `loop` conducts them; each part has a file of its own."""

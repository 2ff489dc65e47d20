"""Training: `fit` conducts a run; the plan, the batches, what is saved and what is shown each have a file of their own."""

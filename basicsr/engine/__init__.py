"""What the commands do: training, testing and restoring in rooms of their own, `build` and `export` beside them."""

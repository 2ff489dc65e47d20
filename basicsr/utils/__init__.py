"""Image files, checkpoints, devices and logging."""

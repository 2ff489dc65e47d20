"""TLC restoration toolbox: image restorers, the Test-time Local Converter, training and evaluation."""

from basicsr.environment import keep_freed_memory, let_threads_sleep

__version__ = "0.1.0"

keep_freed_memory()  # before torch allocates
let_threads_sleep()  # before torch is imported

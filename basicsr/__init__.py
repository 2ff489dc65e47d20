"""TLC restoration toolbox: image restorers, the Test-time Local Converter, training and evaluation."""

from basicsr.allocator import keep_freed_memory

__version__ = "0.1.0"

keep_freed_memory()  # before torch allocates

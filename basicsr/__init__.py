"""TLC restoration toolbox: image restorers, the Test-time Local Converter, training and evaluation."""

__version__ = "0.1.0"

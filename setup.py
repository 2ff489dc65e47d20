"""For `python setup.py develop`; everything is declared in pyproject.toml."""

from setuptools import setup

setup()

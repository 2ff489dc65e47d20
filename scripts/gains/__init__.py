"""What TLC gains: the parts of scripts/evidence.py, of which scripts/compare_ways.py uses some."""

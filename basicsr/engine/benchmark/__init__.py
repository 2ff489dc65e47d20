"""How fast networks and data sets are on this machine.

`measure` for networks, with `meters`, `floor` and `results`; `show` for what came out; `data` for loading.
"""

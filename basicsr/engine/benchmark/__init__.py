"""How fast networks and data sets are on this machine: `measure` for one case, `show` for what came out, `data` for loading."""

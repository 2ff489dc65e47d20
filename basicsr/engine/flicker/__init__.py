"""How steady a restored video is. `run_flicker` is the door; `clips` are frames that follow one another; `measure`, `show`."""

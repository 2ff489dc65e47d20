"""What a converted net runs: local means, norms, statistics and attention as pure functions, and the layers made of them.

Whoever writes a rule reads `layers` and `functional`. Nothing here knows how windows are found, nor what a net looks like.
"""

Size = tuple[int, int]  # rows, columns

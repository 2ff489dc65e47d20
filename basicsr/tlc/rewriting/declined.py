"""What every step of rewriting raises where a forward has no local form that is known here."""


class Declined(Exception):
    """Why a module is left as it is. `outward`: the module around it may know more."""

    def __init__(self, reason: str, outward: bool = False) -> None:
        super().__init__(reason)
        self.outward = outward

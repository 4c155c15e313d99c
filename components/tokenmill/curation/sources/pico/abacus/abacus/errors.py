"""What can go wrong on an abacus."""


class NegativeNumber(ValueError):
    """There are no beads for numbers below zero."""

    def __init__(self, number: int) -> None:
        super().__init__(f"{number} is below zero; an abacus has no such beads")

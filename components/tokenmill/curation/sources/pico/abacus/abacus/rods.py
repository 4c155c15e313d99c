"""A number as beads on rods."""

from .errors import NegativeNumber


class Rods:
    """The digits of a number, lowest first."""

    def __init__(self, number: int) -> None:
        if number < 0:
            raise NegativeNumber(number)
        self.digits = [int(digit) for digit in reversed(str(number))]

    def number(self) -> int:
        return sum(digit * 10**place for place, digit in enumerate(self.digits))

"""Addition, rod by rod."""

from abacus.rods import Rods


def add(a: int, b: int) -> int:
    """The sum of two numbers; a rod with ten beads carries one."""
    left, right = Rods(a).digits, Rods(b).digits
    carry, total = 0, list[int]()
    for place in range(max(len(left), len(right))):
        beads = carry + sum(digits[place] for digits in (left, right) if place < len(digits))
        carry, rest = divmod(beads, 10)
        total.append(rest)
    rods = Rods(0)
    rods.digits = total + [carry] * bool(carry)
    return rods.number()

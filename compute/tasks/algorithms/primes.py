"""Prime counting by a segmented sieve of Eratosthenes over the odd numbers."""

from collections.abc import Callable
from math import isqrt

# Odd numbers in one segment, which fits into a processor's cache.
SEGMENT = 1 << 19
SPAN = 2 * SEGMENT  # of all numbers


def count_primes(
    start: int,
    stop: int,
    on_progress: Callable[[float], None] | None = None,
    every: int = 1,
) -> tuple[int, int]:
    """Return the number of primes p with start <= p < stop, and the largest (or 0).

    With `every`, only those of one segment of so many: SPAN numbers from the start on.
    """
    count, largest = (1, 2) if start <= 2 < stop else (0, 0)
    first = max(start, 3) | 1
    divisors = _odd_primes_below(isqrt(max(stop - 1, 0)) + 1)
    for low in range(first, stop, SPAN * every):
        size = min(SEGMENT, (stop - low + 1) // 2)
        is_prime = _sieve(low, size, divisors)
        if found := is_prime.count(1):
            count += found
            largest = low + 2 * is_prime.rfind(1)
        if on_progress:
            on_progress((low - first) / (stop - first))
    return count, largest


def _sieve(low: int, size: int, divisors: list[int]) -> bytearray:
    """Return a 1 for each prime among the odd numbers low, low + 2, and so on."""
    is_prime = bytearray(b"\1") * size
    high = low + 2 * size
    for divisor in divisors:
        square = divisor * divisor
        if square >= high:
            break
        multiple = max(square, low + -low % divisor)
        # The first odd multiple; from there each one is `divisor` places on.
        place = (multiple + divisor * (multiple % 2 == 0) - low) // 2
        is_prime[place::divisor] = bytes(len(range(place, size, divisor)))
    return is_prime


def _odd_primes_below(limit: int) -> list[int]:
    is_prime = bytearray(b"\1") * limit
    found = []
    for number in range(3, limit, 2):
        if is_prime[number]:
            found.append(number)
            multiples = range(number * number, limit, number)
            is_prime[number * number :: number] = bytes(len(multiples))
    return found

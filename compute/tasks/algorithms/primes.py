"""Counting primes by the sieve of Eratosthenes, a stretch of odd numbers at a time."""

from collections.abc import Callable, Iterator
from math import isqrt

# Odd numbers sieved together: few enough for a processor's cache.
SEGMENT = 1 << 19


def count_primes(
    start: int, stop: int, tell: Callable[[float], None] | None = None
) -> tuple[int, int]:
    """Return how many primes p there are with start <= p < stop, and the largest.

    The largest is 0 if there is none. `tell` is told the share that is done.
    """
    count, largest = (1, 2) if start <= 2 < stop else (0, 0)
    first = max(start, 3) | 1
    divisors = _odd_primes_below(isqrt(max(stop - 1, 0)) + 1)
    for low in range(first, stop, 2 * SEGMENT):
        size = min(SEGMENT, (stop - low + 1) // 2)
        is_prime = _sieve(low, size, divisors)
        if found := is_prime.count(1):
            count += found
            largest = low + 2 * is_prime.rfind(1)
        if tell:
            tell((low - first) / (stop - first))
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
    return list(_odd_primes(limit))


def _odd_primes(limit: int) -> Iterator[int]:
    is_prime = bytearray(b"\1") * limit
    for number in range(3, limit, 2):
        if is_prime[number]:
            yield number
            is_prime[number * number :: number] = bytes(
                len(range(number * number, limit, number))
            )

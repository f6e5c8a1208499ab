"""A clock that a test sets."""


class Clock:
    """Seconds since any moment: `clock.now += 5` lets five pass."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

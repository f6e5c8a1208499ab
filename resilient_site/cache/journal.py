"""What has to be said to Redis when it is back."""

from collections.abc import Iterable

MAX_KEYS = 10_000


class Journal:
    """The keys that changed and that Redis could not be told of."""

    def __init__(self) -> None:
        self.changes = 0
        self.keys: dict[str, int] = {}
        self.all = False
        self.overflowed = False

    def note(self, keys: Iterable[str]) -> None:
        self.changes += 1
        self.keys.update(dict.fromkeys(keys, self.changes))
        if len(self.keys) > MAX_KEYS:
            self.keys.clear()
            self.overflowed = True

    def note_all(self) -> None:
        self.changes += 1
        self.keys.clear()
        self.all = True

    def settle(self, settled: dict[str, int]) -> None:
        """Forget what was told, unless it changed again meanwhile."""
        for key, change in settled.items():
            if self.keys.get(key) == change:
                del self.keys[key]

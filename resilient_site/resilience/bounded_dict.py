"""Dictionary of the keys that were set last."""

from collections import OrderedDict


class BoundedDict[K, V](OrderedDict[K, V]):
    """Dictionary of the `max_entries` keys that were set last; threads may share it."""

    def __init__(self, max_entries: int) -> None:
        super().__init__()
        self.max_entries = max_entries

    def __setitem__(self, key: K, value: V) -> None:
        # Each is one step: what another thread does in between does no harm.
        self.pop(key, None)
        super().__setitem__(key, value)
        if len(self) > self.max_entries:
            self.popitem(last=False)

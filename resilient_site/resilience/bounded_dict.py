"""Dictionary of the keys that were set last."""

from collections import OrderedDict
from typing import Any
from weakref import WeakValueDictionary


class BoundedDict[K, V](OrderedDict[K, V]):
    """Dictionary of the `max_entries` keys that were set last; threads may share it.

    The status page shows how full it is, under `name`.
    """

    def __init__(self, max_entries: int, name: str) -> None:
        super().__init__()
        self.max_entries = max_entries
        bounded_dicts[name] = self

    def __setitem__(self, key: K, value: V) -> None:
        # Each is one step: what another thread does in between does no harm.
        self.pop(key, None)
        super().__setitem__(key, value)
        if len(self) > self.max_entries:
            self.popitem(last=False)


bounded_dicts: WeakValueDictionary[str, BoundedDict[Any, Any]] = WeakValueDictionary()

"""What a process notes of many, as long as it is among the latest."""

from collections import OrderedDict
from typing import Any
from weakref import WeakValueDictionary


class Latest[K, V](OrderedDict[K, V]):
    """A dictionary of the `most` keys that were set last, for threads too.

    It has a `name` for those who look what the process holds.
    """

    def __init__(self, most: int, name: str) -> None:
        super().__init__()
        self.most = most
        all_latest[name] = self

    def __setitem__(self, key: K, value: V) -> None:
        # Each is one step: what another thread does in between does no harm.
        self.pop(key, None)
        super().__setitem__(key, value)
        if len(self) > self.most:
            self.popitem(last=False)


all_latest: WeakValueDictionary[str, Latest[Any, Any]] = WeakValueDictionary()

"""Types of the ASGI interface."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

type Headers = list[tuple[bytes, bytes]]
type Message = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[Message]]
type Send = Callable[[Message], Awaitable[None]]

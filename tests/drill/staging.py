"""A site that is not ours to break: load and checks alone."""

import http.client
import json
import ssl
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from tests.drill.api import API, Api
from tests.drill.clients import Clients
from tests.drill.knowledge import Found, Knowledge
from tests.drill.stack import Stack
from tests.load.connections import Address
from tests.running import Answer

TIMEOUT_S = 20


class Staging(Stack):
    """The site at a URL. What is written there is deleted in the end."""

    name = "staging"

    def __init__(self, url: str, token: str) -> None:
        super().__init__()
        self._address, self.token = Address.of(url), token
        self.name = url
        # Without a token nobody can write.
        self.paths = API if token else API._replace(jobs="")
        if not token:
            self.lacking.append("no token was given, so that only strangers read")

    def _start(self, cleanup: ExitStack) -> None:
        """Nothing is started there."""

    @property
    def address(self) -> Address:
        return self._address

    def begin(self) -> None:
        self.api = Api(self._ask, self.token)

    def knowledge(self) -> Knowledge:
        return self.api.knowledge()

    def check(self, found: Found, clients: Clients) -> None:
        try:
            self.api.check(found, clients)
        finally:
            for item_id in clients.knowledge.written:
                self.api.delete(item_id)

    def _ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        host, port, is_secure = self._address
        connection: http.client.HTTPConnection
        if is_secure:
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(
                host, port, timeout=TIMEOUT_S, context=context
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

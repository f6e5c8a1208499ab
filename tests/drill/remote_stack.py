"""A running site elsewhere: load and checks without faults."""

import http.client
import json
import ssl
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from tests.drill.api import API, Api
from tests.drill.clients import Clients
from tests.drill.history import Findings, History
from tests.drill.stack import Stack
from tests.load.connections import Address
from tests.running import Answer

TIMEOUT_S = 20


class RemoteStack(Stack):
    """The site at a URL. Written items are deleted in the end."""

    name = "remote"

    def __init__(self, url: str, token: str) -> None:
        super().__init__()
        self._address, self.token = Address.of(url), token
        self.name = url
        # Writes need a token.
        self.paths = API if token else API._replace(jobs="")
        if not token:
            self.missing.append("no token was given: anonymous reads only")

    def _start(self, cleanup: ExitStack) -> None:
        """Do nothing: the site is running."""

    @property
    def address(self) -> Address:
        return self._address

    def record_start(self) -> None:
        self.api = Api(self._ask, self.token)

    def history(self) -> History:
        return self.api.history()

    def check(self, found: Findings, clients: Clients) -> None:
        try:
            self.api.check(found, clients)
        finally:
            for item_id in clients.history.written:
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

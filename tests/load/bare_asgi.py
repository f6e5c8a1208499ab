"""Upper limits: an ASGI application with one constant response, and nothing else.

It is a short one, or where RESPONSE_OF has a URL the response from there, headers and
all: what the server itself takes to send that.
"""

import os
from urllib.request import urlopen

BODY = b'{"id":1,"name":"Germany","description":"A country"}'
HEADERS = [
    (b"content-type", b"application/json"),
    (b"content-length", str(len(BODY)).encode()),
]
if url := os.environ.get("RESPONSE_OF"):
    with urlopen(url) as response:
        BODY = response.read()
        HEADERS = [
            (name.lower().encode(), value.encode())
            for name, value in response.headers.items()
            # The server sends its own; `urlopen` asks to close the connection.
            if name.lower() not in ("date", "server", "connection")
        ]


async def app(scope, receive, send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})

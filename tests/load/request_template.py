"""Request templates, for Python and for wrk."""

import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.load.connections import HOST, request_bytes

ANY = re.compile("{any}")
LUA = """
math.randomseed(os.time())
wrk.method = {method}
{headers}
local count = os.time() * 1000
function request()
  count = count + 1
  local values = function(name)
    if name == "{{any}}" then return math.random({numbers}) end
    if name == "{{n}}" then return count % {numbers} + 1 end
    if name == "{{count}}" then return count end
  end
  local path = ({path}):gsub("{{%a+}}", values)
  local body = ({body}):gsub("{{%a+}}", values)
  if body == "" then body = nil end  -- else it has a Content-Length
  return wrk.format(nil, path, nil, body)
end
"""


@dataclass(frozen=True)
class RequestTemplate:
    """A request in which `{count}` is a new number each time, and `{n}` cycles.

    Each `{any}` is a random number.
    """

    port: int
    path: str
    method: str = "GET"
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    numbers: int = 1_000  # `{n}` and `{any}` are from 1 to this

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}{self.path}"

    @property
    def is_constant(self) -> bool:
        return not self.body and "{" not in self.path

    def as_bytes(self, count: int) -> bytes:
        path, body = self._fill(self.path, count), self._fill(self.body, count)
        return request_bytes(self.method, path, body.encode(), self.headers)

    def as_lua(self) -> str:
        """Return the script for wrk."""
        headers = self.headers | {"Content-Type": "application/json"}
        fields = (f"wrk.headers[{_lua(n)}] = {_lua(v)}" for n, v in headers.items())
        return LUA.format(
            method=_lua(self.method),
            headers="\n".join(fields),
            path=_lua(self.path),
            body=_lua(self.body),
            numbers=self.numbers,
        )

    def _fill(self, text: str, count: int) -> str:
        number = str(count % self.numbers + 1)
        text = text.replace("{n}", number).replace("{count}", str(count))
        return ANY.sub(lambda _: str(random.randint(1, self.numbers)), text)


def _lua(text: str) -> str:
    # JSON strings without Unicode escapes are valid in Lua.
    return json.dumps(text, ensure_ascii=False)

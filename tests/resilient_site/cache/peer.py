"""Another process with the same Redis: runs the statements it is given, one a line.

After each it prints a line: what it evaluated to, as JSON.
"""

import json
import sys

import django

django.setup()

from django.core.cache import cache  # noqa: E402

for line in sys.stdin:
    print(json.dumps(eval(line, {"cache": cache})), flush=True)  # noqa: S307

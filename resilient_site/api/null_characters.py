"""Null characters in JSON: no database of the site stores them."""

import re

# After an even number of backslashes; after an odd one it is six letters.
has_null_character = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000").search

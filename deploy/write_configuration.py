"""Write deploy/CONFIGURATION.md from .env.example: `write_configuration.py [FILE]`."""

import re
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
VARIABLE = re.compile(r"# ([A-Z][A-Z0-9_]+)=(.*)")
HEAD = """# Configuration

Environment variables are the only configuration; none has to be set to try the site.
A secret may be in a file, which the variable with `_FILE` names: `DATABASE_URL_FILE`.
A value shown is the default or an example. Made from `.env.example` by
`make configuration`.
"""


def render(lines: list[str]) -> str:
    """Return the page; a comment belongs to the variables that follow it."""
    parts, comment, after_variable = [HEAD], [], False
    for line in lines:
        if line.startswith("# --- "):
            title = line.removeprefix("# --- ").capitalize()
            parts.append(f"\n## {title}\n\n| variable | value | meaning |\n")
            parts.append("| --- | --- | --- |\n")
            comment = []
        elif match := VARIABLE.fullmatch(line):
            value = f"`{match[2]}`" if match[2] else ""
            text = " ".join(comment).replace("|", "\\|")
            parts.append(f"| `{match[1]}` | {value} | {text} |\n")
            after_variable = True
        elif line.startswith("# "):
            if after_variable:
                comment = []
            comment.append(line.removeprefix("# "))
            after_variable = False
    return "".join(parts)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if sys.argv[1:] else FOLDER / "CONFIGURATION.md"
    example = FOLDER.parent / ".env.example"
    target.write_text(render(example.read_text().splitlines()))

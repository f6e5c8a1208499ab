"""Report of the benchmarks in Markdown."""

from collections.abc import Iterator, Sequence
from statistics import median

from tests.load.bench.results import RATIO, Curves, Missing, Report, Table, Values

METHODS = (
    "What is compared runs in turns within one run, in every second round in the "
    "opposite order, and ratios are taken round by round: other programs on a shared "
    "machine then affect both sides. Ratios are to be trusted more than rates, and a "
    "narrow spread more than a wide one.",
    "Rates are those of a closed loop of 16 connections, and count successful "
    "responses. They show capacity, not latency.",
    "Latency is that of an open loop: requests are sent at random times, "
    "independent of responses, and latency counts from the time at which a request "
    "was due (no coordinated omission). Rejected and timed-out requests count as "
    "infinite.",
    "The cost of one response is measured the same way, at a fifth of the rate of "
    "one connection, so that requests hardly ever queue.",
    "A web server has one process. Those of Django under gunicorn have eight threads, "
    "as this site has, and keep their connections to the database. All use one private "
    "PostgreSQL that syncs every commit, and one private Redis.",
    "Where a web server is measured, it has the servers' cores, with the database, and "
    "the load generator has its own; all come before other programs where the kernel "
    "allows it. Where the pool is measured, all share all cores.",
    "Rate limits are off. Everything else has its defaults, but in the sections "
    "about large catalogues its read cache is off.",
)


def as_markdown(report: Report) -> str:
    return "\n".join(_paragraphs(report))


def _paragraphs(report: Report) -> Iterator[str]:
    yield "# Benchmarks\n"
    yield "![Responses a second: this site, its peers, the limit](report.svg)\n"
    yield from (f"- {name}: {value}" for name, value in report.machine.items())
    yield "\n## Goals\n"
    yield goals_table(report)
    if missing := report.missing():
        yield "## What could not be measured\n"
        yield from (f"- {what}: {why}\n" for what, why in missing)
    yield "## Methods\n"
    yield from (f"- {text}\n" for text in METHODS)
    for section in report.sections.values():
        yield f"## {section.title}\n"
        load = f"load average at the beginning: {section.load_average}"
        yield f"{section.seconds} s; {load}\n"
        for piece in section.pieces:
            if not isinstance(piece, Missing):
                yield table_of(piece)


def goals_table(report: Report) -> str:
    rows = []
    for table, row in report.goals():
        unit = "" if table.unit == RATIO else f" {table.unit}"
        summary = table.summarize(row)
        least, *_, most = map(short, summary.values())
        value = summary[row.goal.of]
        name, verdict = f"{table.title}: {row.name}", row.goal.verdict(value)
        goal, found = f"{row.goal}{unit}", f"{short(value)}{unit}"
        rows.append([name, goal, found, f"{least} – {most}", verdict])
    return _table(["what", "goal", "found", "spread", "result"], rows)


def table_of(piece: Table | Curves) -> str:
    title = f"{piece.title}, {piece.unit}"
    if isinstance(piece, Curves):
        places = sorted({place for line in piece.lines.values() for place in line})
        rows = [
            [name, *(_spread(line.get(place, ())) for place in places)]
            for name, line in piece.lines.items()
        ]
        columns = [f"{title}; {piece.over}:", *(f"{place:,}" for place in places)]
        return _table(columns, rows)
    has_goals = any(row.goal for row in piece.rows)
    rows = []
    for row in piece.rows:
        summary = piece.summarize(row)
        goal = row.goal and f"{row.goal}: {row.goal.verdict(summary[row.goal.of])}"
        rows.append(
            [row.name, *map(short, summary.values()), *[goal or ""] * has_goals]
        )
    return _table([title, *piece.statistics, *["goal"] * has_goals], rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rules = ["---", *["---:"] * (len(columns) - 1)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (columns, rules, *rows))


def _spread(values: Values) -> str:
    if len(values) < 2:
        return "".join(map(short, values))
    return f"{short(median(values))} ({short(min(values))} – {short(max(values))})"


def short(value: float) -> str:
    if value == float("inf"):
        return "∞"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 0.1 or not value else f"{value:.2g}"

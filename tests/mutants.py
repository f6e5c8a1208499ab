"""Change the code in small ways and see whether a test fails (mutation testing).

    make mutants                                                 all core modules
    make mutants ARGS="--mutate items/search.py tests/items"     one, by these tests
    make mutants ARGS="--sample 200"                             200 of the changes

A plugin of pytest. It runs the tests once, notes which functions each one calls, and
forks for every change: the child exchanges the code of the function in place, runs the
tests that call it until one fails, and ends. What is changed: bodies of functions, and
whole numbers at the top of a module. What is not seen: code that another process runs.
`mutants.toml` names the core modules, and the changes that no user can notice.

Before the first change and after the last, all tests run in one such child without a
change, in the same order. What fails the first time is left out, by name; what fails
the second time makes the figures doubtful, and is named too.
"""

import ast
import copy
import ctypes
import functools
import gc
import os
import random
import select
import signal
import sys
import time
import tomllib
import types
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from _pytest.runner import runtestprotocol
from django.core.management import call_command
from django.db import connections
from pytest_django.plugin import blocking_manager_key

ROOT = Path(__file__).parent.parent
LIST = tomllib.loads(Path(__file__).with_name("mutants.toml").read_text())
OURS = ("items", "compute", "resilient_site")
TOOL = sys.monitoring.PROFILER_ID
FALSE = ("None", "False")  # of which no caller makes a difference
CACHE = functools._lru_cache_wrapper
PR_SET_PDEATHSIG = 1
# How a test ended, which a child writes to its parent.
PASSED, FAILED, HUNG = b"p", b"f", b"h"
OPPOSITES: dict[type, Callable[[], Any]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
}


@dataclass
class Mutant:
    path: str  # of the module, as items/search.py
    line: int
    name: str  # of the function, or of the number
    changes: list[list[str]]  # before and after: the statement, the part of it
    callers: list[pytest.Item]
    apply: Callable[[], None]

    @property
    def is_left_out(self) -> bool:
        function = f"{self.path}:{self.name}"
        if function in LIST["unseen"]:
            return True
        listed = LIST["equivalent"].get(function, [])
        return any(change in listed for change in self.changes)

    def __str__(self) -> str:
        before, after = self.changes[0]
        return f"{self.path}:{self.line} {self.name}\n    - {before}\n    + {after}"


# --- the changes


def changed(node: ast.AST, field: str) -> Any:  # noqa: C901 - a table
    """Return what the node in this field of its parent is replaced by, or None."""
    match node:
        case ast.Compare(left=left, ops=[op], comparators=others) if (
            opposite := OPPOSITES.get(type(op))
        ):
            return ast.Compare(left, [opposite()], others)
        case ast.BoolOp(op=op, values=values):
            return ast.BoolOp(OPPOSITES[type(op)](), values)
        case ast.BinOp(left=left, op=op, right=right) if opposite := OPPOSITES.get(
            type(op)
        ):
            return ast.BinOp(left, opposite(), right)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return operand
        case ast.Constant(value=bool(value)):
            return ast.Constant(not value)
        case ast.Constant(value=int(value)):
            return ast.Constant(value + 1)
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name("logger")))):
            return None  # nobody promises a log line
        case ast.Raise(exc=ast.Call(func=ast.Name("AssertionError"))):
            return None
        case ast.Expr(value=ast.Call() | ast.Await()) | ast.Raise() | ast.AugAssign():
            return ast.Pass()
        case ast.Return(value=value) if value and ast.unparse(value) not in FALSE:
            return ast.Return(ast.Constant(None))
        case ast.expr() if field == "test":
            return ast.UnaryOp(ast.Not(), node)
    return None


def places(tree: ast.AST) -> Iterator[tuple[ast.AST, str, Callable[[Any], None]]]:
    """Yield each node, the field of its parent it is in, and what replaces it there."""
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            if isinstance(value, ast.AST):
                yield value, field, functools.partial(setattr, parent, field)
            elif isinstance(value, list):
                for index, node in enumerate(value):
                    if isinstance(node, ast.AST):
                        put = functools.partial(value.__setitem__, index)
                        yield node, field, cast(Callable[[Any], None], put)


def statements(tree: ast.AST) -> dict[ast.AST, ast.AST]:
    """Return the innermost statement that holds each expression."""
    return {
        node: statement
        for statement in ast.walk(tree)  # the outer ones first
        if isinstance(statement, ast.stmt)
        for node in ast.walk(statement)
        if not isinstance(node, ast.stmt)
    }


def first_line(node: ast.AST) -> str:
    return ast.unparse(node).partition("\n")[0]


def key_of(code: types.CodeType) -> tuple[str, int]:
    return code.co_qualname, code.co_firstlineno


def codes(code: types.CodeType) -> dict[tuple[str, int], types.CodeType]:
    """Return the code of all functions and classes in `code`, by name and line."""
    found = {}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found[key_of(constant)] = constant
            found |= codes(constant)
    return found


def function_mutants(path: str, calls: "Calls") -> Iterator[Mutant]:
    filename = str(ROOT / path)
    tree = ast.parse((ROOT / path).read_text())
    original = codes(compile(tree, filename, "exec"))
    within = statements(tree)
    functions = defaultdict(list)
    for one in calls.functions:
        if one.__code__.co_filename == filename:
            functions[key_of(one.__code__)].append(one)
    cached = {key_of(cache.__wrapped__.__code__) for cache in calls.caches}
    for node, field, put in places(tree):
        if (other := changed(node, field)) is None:
            continue
        other = copy.deepcopy(other)  # its place must not become that of its parts
        changes = [[ast.unparse(node), ast.unparse(other)]]
        before = first_line(within.get(node, node))
        put(ast.fix_missing_locations(ast.copy_location(other, node)))
        try:
            mutated = codes(compile(tree, filename, "exec"))
            if node in within and before != (after := first_line(within[node])):
                changes.insert(0, [before, after])
        finally:
            put(node)
        differing = {
            key: code
            for key, code in mutated.items()
            if key in original and code != original[key]
        }
        # The innermost last: those around it differ as they hold its code.
        names = sorted(differing, key=lambda key: key[0].count("."))
        fitting = [
            (function, differing[key])
            for key in names
            for function in functions[key]
            # Else it can't have the code: without its `super()`, say.
            if len(function.__code__.co_freevars) == len(differing[key].co_freevars)
        ]
        if not fitting:
            continue  # also of a class, a default or a decorator

        key = names[-1]
        # Only the first test calls one whose result is cached; the others ask for it.
        asked = key[0].rpartition(".")[2] if key in cached else None

        def apply(fitting: list[Any] = fitting) -> None:
            for function, code in fitting:
                function.__code__ = code

        yield Mutant(
            path,
            getattr(node, "lineno", 0),
            key[0].replace(".<locals>", ""),
            changes,
            calls.of(lambda code: key_of(code) == key or asked in code.co_names),  # noqa: B023
            apply,
        )


def number_mutants(path: str, calls: "Calls") -> Iterator[Mutant]:
    for node in ast.parse((ROOT / path).read_text()).body:
        match node:
            case ast.Assign(targets=[ast.Name(name)], value=ast.Constant(int(number))):
                pass
            case _:
                continue
        if isinstance(number, bool) or name.endswith(("_S", "_MS")):
            continue

        def apply(name: str = name, number: int = number) -> None:
            for module in [*sys.modules.values()]:
                if vars(module).get(name) == number:
                    setattr(module, name, number + 1)

        callers = calls.of(lambda code: name in code.co_names)  # noqa: B023
        if not callers:
            continue  # only what runs before the tests reads it
        changes = [[ast.unparse(node), f"{name} = {number + 1}"]]
        yield Mutant(path, node.lineno, name, changes, callers, apply)


# --- the tests


class Calls:
    """Which functions of ours each test calls, by the interpreter's own events."""

    def __init__(self) -> None:
        self.tests: dict[types.CodeType, list[pytest.Item]] = defaultdict(list)
        self.seconds: dict[pytest.Item, float] = {}
        self.functions: list[types.FunctionType] = []
        self.caches: list[Any] = []
        self.pools: list[Any] = []  # whose threads no child has

    def end(self) -> None:
        """Look through all objects here, once, and so that no child does."""
        sys.monitoring.set_events(TOOL, sys.monitoring.events.NO_EVENTS)
        sys.monitoring.free_tool_id(TOOL)
        for one in gc.get_objects():
            kind = type(one)  # `isinstance` would ask a weak reference
            if kind is types.FunctionType:
                self.functions.append(one)
            elif kind is ThreadPoolExecutor:
                self.pools.append(one)
            elif kind is CACHE and str(one.__module__).startswith(OURS):
                self.caches.append(one)
        gc.freeze()

    def run(self, item: pytest.Item, nextitem: Any) -> bool:
        """Run the test, and return whether it passed."""

        def on_start(code: types.CodeType, offset: int) -> object:
            if code.co_filename.startswith(str(ROOT)):
                self.tests[code].append(item)
            return sys.monitoring.DISABLE

        sys.monitoring.register_callback(TOOL, sys.monitoring.events.PY_START, on_start)
        sys.monitoring.restart_events()
        started = time.monotonic()
        reports = runtestprotocol(item, log=True, nextitem=nextitem)
        self.seconds[item] = time.monotonic() - started
        return all(report.passed for report in reports)

    def of(self, is_meant: Callable[[types.CodeType], bool]) -> list[pytest.Item]:
        """Return the tests that call such a function, in order."""
        meant = {
            item
            for code, items in self.tests.items()
            if is_meant(code)
            for item in items
        }
        return self.in_order(meant & self.seconds.keys())

    def in_order(self, items: Iterable[pytest.Item]) -> list[pytest.Item]:
        """Those that end first first, but after all others those that commit rows."""
        return sorted(items, key=lambda item: (commits(item), self.seconds[item]))


def commits(item: pytest.Item) -> bool:
    """Return whether the test's rows stay in the database where it is killed."""
    marker = item.get_closest_marker("django_db")
    fixtures = {"transactional_db", "live_server"} & {*cast(Any, item).fixturenames}
    return bool(fixtures or (marker and marker.kwargs.get("transaction")))


class Everything:
    """Stands for the next test: fixtures of the session stay, all others end."""

    def __init__(self, session: pytest.Session) -> None:
        self.session = session

    def listchain(self) -> list[Any]:
        return [self.session]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("mutants")
    group.addoption("--mutate", action="append", metavar="PATH", help="a module")
    group.addoption("--sample", type=int, metavar="N", help="try N changes, at random")
    group.addoption("--seed", type=int, default=1, help="of the sample")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool:
    config = session.config
    after: Any = Everything(session)
    calls = Calls()
    sys.monitoring.use_tool_id(TOOL, "mutants")
    sys.monitoring.set_events(TOOL, sys.monitoring.events.PY_START)
    for item, following in zip(session.items, [*session.items[1:], after], strict=True):
        if not calls.run(item, following):
            del calls.seconds[item]  # fails or is skipped without a change
    calls.end()
    config.option.tbstyle = "line"  # nobody reads it
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what threads of the tests still log
    write = config.get_terminal_writer().line
    write()
    for item in failing_unchanged(calls):
        del calls.seconds[item]
        write(f"left out, as it fails in a forked process: {item.nodeid}")

    mutants = [
        mutant
        for path in config.option.mutate or LIST["modules"]
        for kind in (function_mutants, number_mutants)
        for mutant in kind(path, calls)
        if not mutant.is_left_out
    ]
    if config.option.sample:
        random.seed(config.option.seed)
        mutants = random.sample(mutants, min(config.option.sample, len(mutants)))
        mutants.sort(key=lambda mutant: (mutant.path, mutant.line))
    write(f"\n{len(mutants)} changes, {len(calls.seconds)} tests\n")
    survived: dict[str, list[bool]] = defaultdict(list)
    for mutant in mutants:
        ended = try_out(mutant, mutant.callers, calls) if mutant.callers else PASSED
        survived[mutant.path].append(not ended.strip(PASSED))
        if not ended.endswith(FAILED):
            why = "no test fails" if mutant.callers else "no test calls it"
            write(f"{mutant}\n    {'timed out' if ended.endswith(HUNG) else why}\n")
    for path, found in sorted(survived.items()):
        write(f"{share(found)}  {path}")
    write(f"{share([one for found in survived.values() for one in found])}  in all")
    for item in failing_unchanged(calls):
        write(f"doubtful, as it fails without a change now: {item.nodeid}")
    return True


def share(survived: list[bool]) -> str:
    caught = survived.count(False)
    return f"{caught:5} of {len(survived):5} caught = {caught / len(survived):4.0%}"


def try_out(mutant: Mutant | None, items: list[pytest.Item], calls: Calls) -> bytes:
    """Run the tests in a forked process; return how each ended.

    It ends with the first test that hangs, and where there is a change with the first
    that fails.
    """
    connections.close_all()
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of the tests
        child = os.fork()
    if child == 0:
        try:
            os.setsid()
            os.close(reader)
            if sys.platform == "linux":  # else it ends with its next test
                ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            run_child(mutant, items, writer, calls)
        finally:
            os._exit(0)
    os.close(writer)
    ended = b""
    while True:
        usual_s = calls.seconds[items[len(ended)]] if len(ended) < len(items) else 0
        if not select.select([reader], [], [], 20 + 5 * usual_s)[0]:
            ended += HUNG
            break
        if not (more := os.read(reader, 1 << 16)):
            if len(ended) < len(items) and not ended.endswith(FAILED):
                ended += FAILED  # the process has crashed
            break
        ended += more
    os.close(reader)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    ended = ended[: len(items)]
    if ended.strip(PASSED) and commits(items[len(ended) - 1]):
        flush(items[0])
    return ended


def flush(item: pytest.Item) -> None:
    """Delete what a test that did not end as it should has left."""
    with item.config.stash[blocking_manager_key].unblock():
        call_command("flush", verbosity=0, interactive=False)


def run_child(
    mutant: Mutant | None, items: list[pytest.Item], writer: int, calls: Calls
) -> None:
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    for cache in calls.caches:
        cache.cache_clear()
    for pool in calls.pools:
        pool.__init__(pool._max_workers, pool._thread_name_prefix)
    if mutant is not None:
        mutant.apply()
    session = items[0].session
    after: Any = Everything(session)
    for item, nextitem in zip(items, [*items[1:], after], strict=True):
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        has_failed = any(report.failed for report in reports)
        os.write(writer, FAILED if has_failed else PASSED)
        if has_failed and mutant:
            break
    session._setupstate.teardown_exact(after)


def failing_unchanged(calls: Calls) -> list[pytest.Item]:
    """Return tests that fail or hang in a forked process without a change.

    They need a thread of this one, say, or what another test has left.
    """
    failing = []
    items = calls.in_order(calls.seconds)
    while items:
        ended = try_out(None, items, calls)
        ways = [bytes([way]) for way in ended]
        failing += [item for item, way in zip(items, ways) if way != PASSED]  # noqa: B905
        items = items[len(ended) :]
    return failing

"""Runs against each mutant the tests that reach it, until one fails.

    python -m tests.mutation.run                      all modules; resumes where it was interrupted
    python -m tests.mutation.run ledger masking       only the modules whose name ends so
    python -m tests.mutation.run --thorough           … and gives survivors every test that reaches them
    python -m tests.mutation.run --report             writes docs/mutation.md of what is known, and runs nothing

Each test is run once to see which lines it reaches and how long it takes. Then a process that has collected all tests
is forked for each mutant, the code of one function is exchanged in the child, and the tests that reach that line run in
it: first those that killed a mutant of the same function, then the fastest. What runs while a module is imported (its
constants, tables, decorators) needs the module anew: those children are forked from a process which has imported
nothing but other people's packages.

`.mutation/` keeps what was made, reached and found. A mutant is run again when the function around it has changed, a
survivor also when a test has changed.
"""

from __future__ import annotations

import argparse
import ast
import gc
import hashlib
import importlib
import itertools
import json
import os
import pickle
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.mutation import report
from tests.mutation.mutant import (
    IMPORT_ROOTS,
    ROOT,
    Finder,
    Mutant,
    NotInPlace,
    codes,
    functions_of,
    load,
    put_in_place,
)

STATE = ROOT / ".mutation"
MADE = STATE / "mutants.jsonl"
REACHED = STATE / "reached"
RESULTS = STATE / "results.jsonl"
AT_A_TIME = int(os.environ.get("AT_A_TIME", "2"))
# Small worlds first: they take milliseconds, and an invariant looks on at every write.
TESTS = (
    "tests/mutation/small_worlds.py",
    "tests/mutation/small_wire.py",
    "tests/unit",
    "tests/transport",
    "tests/integration",
    "tests/simulation/test_outages.py",
    "tests/simulation/test_backlog.py",
)
# Those about the code itself come before those that only pass through it.
NEAR = {
    "layers": ("tests/transport/", "tests/unit/"),
    "": ("tests/unit/", "tests/mutation/small_worlds.py"),
}
# They read other code than the gateway's.
IGNORED = ("aws", "devstack_*", "imports", "names", "openapi", "patterns", "sam_*", "template*")
# Tests that measure time fail on a busy machine whatever the code does.
MEASURE_TIME = ("takes_milliseconds", "takes_no_time", "fastest")
SLOW_SECONDS = 8  # a test that takes longer runs against no mutant
BUDGET_SECONDS = float(
    os.environ.get("BUDGET", "20")
)  # how long the tests of one mutant take together, when it survives; --thorough has none
# A test that takes so long hangs: twenty times its time, since the machine may be busy.
GRACE_SECONDS, GRACE_TIMES = 6.0, 10.0

TOOL = sys.monitoring.COVERAGE_ID


@dataclass
class Reached:
    """By test: what it takes. By file and line: the tests. `imported`: lines of functions that importing runs."""

    seconds: dict[str, float] = field(default_factory=dict)
    tests: dict[tuple[str, int], set[str]] = field(default_factory=dict)
    imported: set[tuple[str, int]] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    packages: list[str] = field(default_factory=list)

    def add(self, part: Reached) -> None:
        self.seconds |= part.seconds
        self.failed |= part.failed
        for line, tests in part.tests.items():
            self.tests.setdefault(line, set()).update(tests)


# ---- children


def in_children[T](jobs: Iterable[T], work: Callable[[T, int], None]) -> Iterator[tuple[T, str, bool]]:
    """Runs `work` in a fork for each job, some at a time; yields what it wrote and whether a signal ended it."""
    running: dict[int, tuple[T, int]] = {}
    remaining = iter(jobs)
    while True:
        for job in itertools.islice(remaining, AT_A_TIME - len(running)):
            reading, writing = os.pipe()
            sys.stdout.flush()
            process = os.fork()
            if not process:
                _work_and_exit(lambda job=job, writing=writing: work(job, writing))
            os.close(writing)
            running[process] = (job, reading)
        if not running:
            return
        process, status = os.waitpid(-1, 0)
        job, reading = running.pop(process)
        with os.fdopen(reading) as said:
            text = said.read()
        yield job, text, os.WIFSIGNALED(status)


def _work_and_exit(work: Callable[[], None]) -> None:
    try:
        null = os.open(os.devnull, os.O_RDWR)
        if not os.environ.get("MUTATION_SHOW"):
            for number in (0, 1, 2):
                os.dup2(null, number)
        work()
    except BaseException:
        import traceback

        (STATE / "child-error.txt").write_text(traceback.format_exc())
        os._exit(3)
    os._exit(0)


def first_failure(items: Sequence[pytest.Item], seconds: Mapping[str, float]) -> str | None:
    """The test that fails, if one does. A test that hangs ends the process."""
    from _pytest.runner import runtestprotocol

    for item, following in _with_following(items):
        signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS + GRACE_TIMES * seconds[item.nodeid])
        reports = runtestprotocol(item, log=False, nextitem=following)
        if any(report.failed for report in reports):
            return item.nodeid
    signal.setitimer(signal.ITIMER_REAL, 0)
    return None


def _with_following(items: Sequence[pytest.Item]) -> Iterator[tuple[pytest.Item, pytest.Item | None]]:
    """pytest keeps the fixtures that the following item shares."""
    return zip(items, [*items[1:], None], strict=False)


def pytest_arguments(paths: Iterable[str]) -> list[str]:
    ignored = [f"--ignore-glob=tests/unit/test_{name}.py" for name in IGNORED]
    quiet = ["-q", "-s", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    return [*quiet, *ignored, *paths]


class Hypothesis:
    """A pytest plugin: the same examples for every mutant, none remembered, a failing one not made smaller."""

    def pytest_configure(self) -> None:
        from hypothesis import HealthCheck, Phase, settings

        settings.register_profile(
            "mutation",
            database=None,
            deadline=None,
            derandomize=True,
            max_examples=50,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        settings.load_profile("mutation")


# ---- which tests reach what


class Reach:
    """A pytest plugin that runs each test once and records the lines it runs."""

    def __init__(self) -> None:
        self._files = sorted(file for root in IMPORT_ROOTS for file in root.rglob("*.py"))
        self.reached = Reached()
        self._paths = {str(file): str(file.relative_to(ROOT)) for file in self._files}
        self._lines: set[tuple[str, int]] = self.reached.imported
        sys.monitoring.use_tool_id(TOOL, "mutation")
        sys.monitoring.register_callback(TOOL, sys.monitoring.events.LINE, self._line)
        sys.monitoring.set_events(TOOL, sys.monitoring.events.LINE)

    def _line(self, code: Any, line: int) -> Any:
        file = self._paths.get(code.co_filename)
        if file is not None and code.co_flags & 1:  # CO_OPTIMIZED: a function's, no module's or class's
            self._lines.add((file, line))
        return sys.monitoring.DISABLE

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        sys.monitoring.set_events(TOOL, 0)
        found = {
            code for functions in functions_of(self._paths.values()).values() for code in codes(functions[0].__code__)
        }
        for code in found:
            sys.monitoring.set_local_events(TOOL, code, sys.monitoring.events.LINE)
        self.reached.packages = sorted(
            name
            for name, module in sys.modules.items()
            if "site-packages" in (getattr(module, "__file__", None) or "") and "pytest" not in name
        )
        by_file: dict[str, list[pytest.Item]] = defaultdict(list)
        for item in session.items:
            if not any(word in item.nodeid for word in MEASURE_TIME):
                by_file[item.nodeid.split("::")[0]].append(item)
        todo = {}
        for file, items in by_file.items():
            part = REACHED / f"{hash_of([*self._files, ROOT / file])}.pickle"
            if part.exists():
                self.reached.add(pickle.loads(part.read_bytes()))
            else:
                todo[part] = items
        for (part, items), said, died in in_children(todo.items(), self._measure):
            if died or said != "done":
                raise RuntimeError(f"{items[0].nodeid}'s file was not measured: see .mutation/child-error.txt")
            self.reached.add(pickle.loads(part.read_bytes()))
        return True

    def _measure(self, job: tuple[Path, Sequence[pytest.Item]], writing: int) -> None:
        from _pytest.runner import runtestprotocol

        part, items = job
        measured = Reached()
        signal.signal(signal.SIGALRM, _take_too_long)
        for item, following in _with_following(items):
            self._lines = set()
            sys.monitoring.restart_events()
            began = time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, 2 * SLOW_SECONDS)
            reports = runtestprotocol(item, log=False, nextitem=following)
            signal.setitimer(signal.ITIMER_REAL, 0)
            measured.seconds[item.nodeid] = time.monotonic() - began
            if any(report.failed for report in reports):
                measured.failed.add(item.nodeid)
            for line in self._lines:
                measured.tests.setdefault(line, set()).add(item.nodeid)
        part.write_bytes(pickle.dumps(measured))
        os.write(writing, b"done")


def _take_too_long(*_: object) -> None:
    raise TimeoutError("too slow to run against mutants")


def hash_of(files: Iterable[Path]) -> str:
    found = hashlib.sha256()
    for file in files:
        found.update(file.read_bytes())
    return found.hexdigest()[:16]


def measure(tests: Sequence[str]) -> Reached:
    """In a process of its own, so that this one imports nothing. A file of tests is measured again when it changed."""
    REACHED.mkdir(exist_ok=True)
    whole = STATE / "reached.pickle"
    process = os.fork()
    if not process:
        os.chdir(ROOT)
        plugin = Reach()
        code = pytest.main(pytest_arguments(tests), plugins=[plugin, Hypothesis()])
        whole.write_bytes(pickle.dumps(plugin.reached))
        os._exit(int(code not in (0, 5)))
    _, status = os.waitpid(process, 0)
    if status:
        raise SystemExit("the tests could not be measured")
    reached: Reached = pickle.loads(whole.read_bytes())
    if reached.failed:
        print(f"These fail without a mutant, or take too long, and are left out: {sorted(reached.failed)}", flush=True)
    return reached


# ---- which tests run against a mutant, in which order


class Selection:
    def __init__(self, reached: Reached, files: Iterable[str], thorough: bool) -> None:
        self._reached = reached
        self._thorough = thorough
        self._usable = {
            test for test, seconds in reached.seconds.items() if seconds <= SLOW_SECONDS and test not in reached.failed
        }
        self._by_file: dict[str, set[str]] = defaultdict(set)
        for (file, _), tests in reached.tests.items():
            self._by_file[file] |= tests
        self._uses, self._defined = _names(files)
        self.killers: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)

    def is_cold(self, mutant: Mutant) -> bool:
        return mutant.function is None or any((mutant.file, line) in self._reached.imported for line in mutant.lines)

    def tests(self, mutant: Mutant) -> list[str]:
        groups = [self._on((mutant.file, line) for line in mutant.lines)]
        if self.is_cold(mutant):
            users = (line for name in self._made_of(mutant.names) for line in self._uses[name])
            groups = [groups[0] | self._on(users), self._by_file[mutant.file]]
            if not any(groups):
                groups.append(self._usable)
        known = [test for test, _ in self.killers[mutant.file, mutant.where].most_common(6)]
        chosen: dict[str, None] = {}
        for group in groups:
            found = group & self._usable
            chosen |= dict.fromkeys(test for test in known if test in found)
            near = {
                test for test in found if test.startswith(NEAR["layers" if mutant.file.startswith("layers") else ""])
            }
            chosen |= dict.fromkeys([*self._fastest_first(near), *self._fastest_first(found - near)])
        return list(chosen) if self._thorough else self._within_budget(chosen)

    def _made_of(self, names: Iterable[str]) -> set[str]:
        """These names, and those of the constants that are computed from them."""
        found: set[str] = set()
        waiting = set(names)
        while waiting:
            found |= waiting
            waiting = {made for name in waiting for line in self._uses[name] for made in self._defined[line]} - found
        return found

    def _on(self, lines: Iterable[tuple[str, int]]) -> set[str]:
        return set().union(*(self._reached.tests.get(line, set()) for line in lines))

    def _fastest_first(self, tests: Iterable[str]) -> list[str]:
        """Of a test with many parameters its fastest variant first, and the others after all other tests."""
        variants: Counter[str] = Counter()
        ranks = {}
        for test in sorted(tests, key=lambda test: (self._reached.seconds[test], test)):
            name = test.split("[")[0]
            ranks[test] = (min(variants[name], 2), self._reached.seconds[test], test)
            variants[name] += 1
        return sorted(ranks, key=ranks.__getitem__)

    def _within_budget(self, tests: Iterable[str]) -> list[str]:
        chosen: list[str] = []
        seconds = 0.0
        for test in tests:
            seconds += self._reached.seconds[test]
            if seconds > BUDGET_SECONDS and len(chosen) >= 10:
                break
            chosen.append(test)
        return chosen


type Lines = dict[str, set[tuple[str, int]]]


def _names(files: Iterable[str]) -> tuple[Lines, dict[tuple[str, int], set[str]]]:
    """By name: the lines that use it. By line of what a module runs when it is imported: the names that it defines."""
    uses: Lines = defaultdict(set)
    defined: dict[tuple[str, int], set[str]] = defaultdict(set)
    for file in files:
        tree = ast.parse((ROOT / file).read_text())
        for node in ast.walk(tree):
            match node:
                case ast.Name(name) | ast.Attribute(attr=name):
                    uses[name].add((file, node.lineno))
                case ast.keyword(arg=str(name)):
                    uses[name].add((file, node.value.lineno))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        called = {
            node.func.id
            for statement in tree.body
            if not isinstance(statement, ast.FunctionDef | ast.ClassDef)
            for node in ast.walk(statement)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        for statement in tree.body:
            made: set[str] = set()
            match statement:
                case ast.Assign(targets=targets):
                    made = {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}
                case ast.AnnAssign(target=ast.Name(name)):
                    made = {name}
                case ast.FunctionDef(name=name) if name in functions & called:
                    made = {name}
            for line in range(statement.lineno, (statement.end_lineno or 0) + 1) if made else ():
                defined[file, line] |= made
    return uses, defined


# ---- results


def tests_hash(paths: Iterable[str]) -> str:
    found = hashlib.sha256("".join(paths).encode())
    for folder in ("tests", "testkit"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            if "mutation" not in file.parts:
                found.update(file.read_bytes())
    return found.hexdigest()[:16]


class Results:
    def __init__(self, paths: Iterable[str] = TESTS) -> None:
        self.by_id: dict[str, dict[str, Any]] = {}
        if RESULTS.exists():
            for line in RESULTS.read_text().splitlines():
                with suppress(ValueError):  # the line that an interrupted run was writing
                    result = json.loads(line)
                    self.by_id[result["id"]] = result
        self._tests = tests_hash(paths)

    def is_known(self, mutant: Mutant, thorough: bool) -> bool:
        result = self.by_id.get(mutant.id)
        if result is None:
            return False
        if result["status"] in ("killed", "timed out"):
            return True
        return bool(result["tests_hash"] == self._tests and result["thorough"] >= thorough)

    def add(self, mutant: Mutant, status: str, killer: str, tests: int, thorough: bool) -> None:
        result = {
            "id": mutant.id,
            "status": status,
            "by": killer,
            "tests": tests,
            "thorough": thorough,
            "tests_hash": self._tests,
            "label": mutant.label,
        }
        self.by_id[mutant.id] = result
        with RESULTS.open("a") as file:
            file.write(json.dumps(result, ensure_ascii=False) + "\n")


class Campaign:
    """All mutants that are not known yet, first those that can be put into loaded code."""

    def __init__(
        self, mutants: Sequence[Mutant], selection: Selection, reached: Reached, options: argparse.Namespace
    ) -> None:
        thorough = options.thorough
        self._paths = options.tests
        self._selection = selection
        self._reached = reached
        self._thorough = thorough
        self.results = Results(self._paths)
        self._to_do = [mutant for mutant in mutants if not self.results.is_known(mutant, thorough)]
        self._done = 0
        self._began = time.monotonic()
        self._statuses: Counter[str] = Counter()

    def run(self) -> None:
        warm = [mutant for mutant in self._to_do if not self._selection.is_cold(mutant)]
        cold = [mutant for mutant in self._to_do if self._selection.is_cold(mutant)]
        print(
            f"{len(self._to_do)} mutants to run: {len(warm)} in loaded code, {len(cold)} while it is loaded.",
            flush=True,
        )
        if warm:
            cold += self._run_warm(warm)
        if cold:
            self._run_cold(cold)

    def _run_warm(self, mutants: Sequence[Mutant]) -> list[Mutant]:
        """Answers those that could not be put into loaded code."""
        left = STATE / "not-in-place.json"
        process = os.fork()
        if not process:
            os.chdir(ROOT)
            plugin = Warm(self, mutants)
            code = pytest.main(pytest_arguments(self._paths), plugins=[plugin, Hypothesis()])
            left.write_text(json.dumps(plugin.not_in_place))
            os._exit(int(code not in (0, 5)))
        _, status = os.waitpid(process, 0)
        if status:
            raise SystemExit("the mutants could not be run")
        self.results = Results(self._paths)
        again = set(json.loads(left.read_text()))
        return [mutant for mutant in mutants if mutant.id in again]

    def _run_cold(self, mutants: Sequence[Mutant]) -> None:
        os.chdir(ROOT)
        from devstack.aws import prepare_environment  # the environment that tests/conftest.py prepares

        prepare_environment()
        os.environ |= {"POWERTOOLS_SERVICE_NAME": "qris-gateway", "POWERTOOLS_METRICS_NAMESPACE": "QrisGateway"}
        for name in self._reached.packages:
            with suppress(ImportError, AttributeError):
                importlib.import_module(name)
        gc.collect()
        gc.freeze()
        jobs = ((mutant, self._selection.tests(mutant)) for mutant in mutants)
        for (mutant, tests), said, died in in_children(jobs, self._run_imported):
            self.note(mutant, tests, said, died)

    def _run_imported(self, job: tuple[Mutant, Sequence[str]], writing: int) -> None:
        mutant, tests = job
        sys.meta_path.insert(0, Finder(mutant))
        # A module that cannot be imported any more ends collection with an error.
        signal.setitimer(signal.ITIMER_REAL, 120)
        plugin = Chosen(tests, self._reached.seconds)
        code = pytest.main(
            pytest_arguments(dict.fromkeys(test.split("::")[0] for test in tests)), plugins=[plugin, Hypothesis()]
        )
        killer = plugin.killer or ("cannot be imported" if code not in (0, 5) else "")
        os.write(writing, f"ran {killer}".encode())

    def note(self, mutant: Mutant, tests: Sequence[str], said: str, died: bool) -> None:
        if not tests:
            status = "not reached"
        elif died:
            status = "timed out"
        elif not said.startswith("ran"):
            raise RuntimeError(f"{mutant.label}: {said or 'no answer'}; see .mutation/child-error.txt")
        else:
            status = "killed" if said.removeprefix("ran ") else "survived"
        killer = said.removeprefix("ran ")
        if status == "killed":
            self._selection.killers[mutant.file, mutant.where][killer] += 1
        self.results.add(mutant, status, killer, len(tests), self._thorough)
        self._done += 1
        self._statuses[status] += 1
        if status not in ("killed", "timed out"):
            print(f"  {status} ({len(tests)} tests): {mutant.label}", flush=True)
        if self._done % 50 == 0:
            print(f"{self._done}: {dict(self._statuses)} in {time.monotonic() - self._began:.0f} s", flush=True)


class Chosen:
    """A pytest plugin that runs these tests, in this order, until one fails."""

    def __init__(self, tests: Sequence[str], seconds: Mapping[str, float]) -> None:
        self._tests = tests
        self._seconds = seconds
        self.killer: str | None = None

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            self.killer = "collection"
            return True
        items = {item.nodeid: item for item in session.items}
        self.killer = first_failure([items[test] for test in self._tests if test in items], self._seconds)
        return True


class Warm:
    """A pytest plugin that forks for each mutant, once everything is collected."""

    def __init__(self, campaign: Campaign, mutants: Sequence[Mutant]) -> None:
        self._campaign = campaign
        self._mutants = mutants
        self.not_in_place: list[str] = []

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            raise RuntimeError("the tests could not be collected")
        self._items = {item.nodeid: item for item in session.items}
        session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
        self._functions = functions_of({mutant.file for mutant in self._mutants})
        # Else each child's first collection of garbage would copy all of this process's memory.
        gc.collect()
        gc.freeze()
        jobs = ((mutant, self._campaign._selection.tests(mutant)) for mutant in self._mutants)
        for (mutant, tests), said, died in in_children(jobs, self._run):
            if said == "not in place":
                self.not_in_place.append(mutant.id)
            else:
                self._campaign.note(mutant, tests, said, died)
        return True

    def _run(self, job: tuple[Mutant, Sequence[str]], writing: int) -> None:
        mutant, tests = job
        try:
            put_in_place(mutant, self._functions)
        except NotInPlace:
            os.write(writing, b"not in place")
            return
        items = [self._items[test] for test in tests if test in self._items]
        killer = first_failure(items, self._campaign._reached.seconds)
        os.write(writing, f"ran {killer or ''}".encode())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation.run")
    parser.add_argument("modules", nargs="*")
    parser.add_argument("--thorough", action="store_true")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--tests", nargs="+", default=TESTS)
    options = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "functions"), str(ROOT / "layers" / "indodana")]
    STATE.mkdir(exist_ok=True)
    mutants = load(MADE)
    if options.report:
        return _report(mutants)
    files = sorted({mutant.file for mutant in mutants})
    reached = measure(options.tests)
    if options.modules:
        mutants = [mutant for mutant in mutants if mutant.module.endswith(tuple(options.modules))]
    Campaign(mutants, Selection(reached, files, options.thorough), reached, options).run()
    return _report(load(MADE))


def _report(mutants: Sequence[Mutant]) -> None:
    results = Results().by_id
    report.write(mutants, results)
    print(f"{report.REPORT.relative_to(ROOT)} is written.")
    if found := report.problems(mutants, results):
        raise SystemExit("\n".join(found))


if __name__ == "__main__":
    main()

"""The house rules that no linter knows, as tests of the source; each rule is itself tested.

A rule reads one file and yields what breaks it.  Beside each stands a planted violation that it
must find and an innocent neighbour that it must let pass.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 500
RUFF_IGNORES_MAX = 20
TOP_LEVEL = {
    ".ci",
    ".gitignore",
    "LICENSE",
    "README.md",
    "docs",
    "pyproject.toml",
    "scripts",
    "tests",
    "zmqex",
}
VAGUE_NAMES = re.compile(r"(^|_)(utils?|helpers?|common|misc|managers?)(_|$)")
PICTURES = re.compile("[\U0001f000-\U0001faff\u2600-\u27bf\ufe0f]")
# Split, so that this file keeps its own rules.
UNFINISHED = re.compile(r"\b(T[O]DO|F[I]XME)\b")
LOCAL_PATH = re.compile(r"(?<![\w.])/w[o]rk/")

Check = Callable[[str], Iterator[str]]


@dataclass(frozen=True)
class Rule:
    """One rule: which files it reads, what it looks for, and the proof that it can find it."""

    claim: str
    files: str
    check: Check
    planted: str
    innocent: str
    but: str = ""

    def covers(self, path: str) -> bool:
        """Whether the rule reads this file."""
        return fnmatch(path, self.files) and not fnmatch(path, self.but)


def functions(text: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function of a module, methods and nested ones too."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def long_functions(text: str) -> Iterator[str]:
    """Yield functions of more than 70 lines, signature and docstring counted."""
    for function in functions(text):
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        if lines > FUNCTION_LINES_MAX:
            yield f"{function.name}: {lines} lines"


def long_modules(text: str) -> Iterator[str]:
    """Yield one line for a module of more than 500 lines."""
    lines = len(text.splitlines())
    if lines > MODULE_LINES_MAX:
        yield f"{lines} lines"


def floats(text: str) -> Iterator[str]:
    """Yield float literals, the word float, and true division."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Constant(value=float()):
                yield f"line {node.lineno}: float {node.value!r}"
            case ast.Name(id="float"):
                yield f"line {node.lineno}: float"
            case ast.BinOp(op=ast.Div()) | ast.AugAssign(op=ast.Div()):
                yield f"line {node.lineno}: true division"
            case _:
                pass


def broad_excepts(text: str) -> Iterator[str]:
    """Yield handlers that swallow everything: bare, Exception or BaseException, alone or listed.

    One that ends by raising the same again hides nothing: it only cleans up on the way.
    """
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = ast.walk(node.type) if node.type else ()
        names = {inner.id for inner in caught if isinstance(inner, ast.Name)}
        passes_on = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
        if not passes_on and (node.type is None or names & {"Exception", "BaseException"}):
            yield f"line {node.lineno}"


def sleeps(text: str) -> Iterator[str]:
    """Yield sleeps of a thread, and sleeps of a task that no loop repeats until a condition."""
    tree = ast.parse(text)
    polling = {
        id(inner)
        for loop in ast.walk(tree)
        if isinstance(loop, ast.While | ast.For | ast.AsyncFor)
        for inner in ast.walk(loop)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="asyncio"), attr="sleep")):
                if id(node) not in polling and ast.unparse(node) != "asyncio.sleep(0)":
                    yield f"line {node.lineno}: a sleep is no condition"
            case ast.Attribute(value=ast.Name(id="time"), attr="sleep"):
                yield f"line {node.lineno}: time.sleep"
            case ast.ImportFrom(module="time" | "asyncio", names=names):
                if any(name.name == "sleep" for name in names):
                    yield f"line {node.lineno}: import of sleep"
            case _:
                pass


def mocks(text: str) -> Iterator[str]:
    """Yield imports of mocks, from wherever."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names=names):
                imported = [name.name for name in names]
            case ast.ImportFrom(module=module, names=names):
                imported = [f"{module}.{name.name}" for name in names]
            case _:
                continue
        yield from (name for name in imported if "mock" in name.split("."))


def claimless_tests(text: str) -> Iterator[str]:
    """Yield tests that cannot fail: no assert, no pytest.raises or warns, no assert_...()."""
    for function in functions(text):
        if function.name.startswith("test_") and not any(map(_claims, ast.walk(function))):
            yield function.name


def _claims(node: ast.AST) -> bool:
    match node:
        case ast.Assert():
            return True
        case ast.Attribute(value=ast.Name(id="pytest"), attr="raises" | "warns" | "fail"):
            return True
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return name.startswith("assert_") or name == "run_state_machine_as_test"
        case _:
            return False


def missing_docstring(text: str) -> Iterator[str]:
    """Yield one line for a module that does not say what it is for."""
    if not ast.get_docstring(ast.parse(text)):
        yield "no docstring"


def matches(pattern: re.Pattern[str]) -> Check:
    """Make a check that yields each line on which the pattern is found."""

    def check(text: str) -> Iterator[str]:
        for number, line in enumerate(text.splitlines(), 1):
            if pattern.search(line):
                yield f"line {number}: {line.strip()}"

    return check


LONG_BODY = "    x = 1\n"

RULES = [
    Rule(
        "no function has more than 70 lines",
        "*.py",
        long_functions,
        "def f():\n" + LONG_BODY * FUNCTION_LINES_MAX,
        "def f():\n" + LONG_BODY * (FUNCTION_LINES_MAX - 1),
    ),
    Rule(
        "no module has more than 500 lines",
        "*.py",
        long_modules,
        "x = 1\n" * (MODULE_LINES_MAX + 1),
        "x = 1\n" * MODULE_LINES_MAX,
    ),
    Rule("market counts in integers", "zmqex/market/*.py", floats, "x = 1 / 2", "x = 1 // 2"),
    Rule("trading counts in integers", "zmqex/trading/*.py", floats, "x /= y", "x //= y"),
    Rule("no float is named in market", "zmqex/market/*.py", floats, "x: float", "x: int"),
    Rule("no float is written in trading", "zmqex/trading/*.py", floats, "x = 0.5", "x = '0.5'"),
    Rule(
        "only the runtime catches everything",
        "zmqex/*.py",
        broad_excepts,
        "try:\n    x()\nexcept (OSError, Exception):\n    pass",
        "try:\n    x()\nexcept BaseException:\n    undo()\n    raise",
        but="zmqex/runtime*",
    ),
    Rule(
        "tests wait for conditions, not for time",
        "tests/*.py",
        sleeps,
        "import time\ntime.sleep(1)",
        "while not done():\n    await asyncio.sleep(0.01)",
    ),
    Rule(
        "a task in a test does not sleep outside a polling loop",
        "tests/*.py",
        sleeps,
        "await asyncio.sleep(1)",
        "await asyncio.sleep(0)",
    ),
    Rule(
        "nothing is mocked",
        "*.py",
        mocks,
        "from unittest import mock",
        "from zmqex.market import book",
    ),
    Rule(
        "every test can fail",
        "tests/*.py",
        claimless_tests,
        "def test_x():\n    run()",
        "def test_x():\n    with pytest.raises(ValueError):\n        run()",
    ),
    Rule("every module says what it is for", "*.py", missing_docstring, "x = 1", '"""Why."""'),
    Rule("nothing is left unfinished", "*", matches(UNFINISHED), "# T" + "ODO: x", "todos = 1"),
    Rule("no path of one machine is named", "*", matches(LOCAL_PATH), "cd /w" + "ork/x", "a/work/"),
    Rule("text has no pictures", "*", matches(PICTURES), "done \u2705", "a \u2192 b"),
]
every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.claim)


def tracked() -> list[str]:
    """Answer the paths of all files in version control that are there, relative to the root."""
    git = shutil.which("git")
    assert git, "git is needed to tell the project's files from others"
    listed = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
    paths = listed.stdout.decode().rstrip("\0").split("\0")
    return [path for path in paths if (ROOT / path).is_file()]


def read(path: str) -> str:
    """Answer a file's text; bytes that are no text stand as replacement characters."""
    return (ROOT / path).read_text(encoding="utf-8", errors="replace")


def violations(rule: Rule, paths: Iterable[str]) -> list[str]:
    """Answer what breaks the rule, each with its file."""
    return [
        f"{path}: {found}"
        for path in paths
        if rule.covers(path)
        for found in rule.check(read(path))
    ]


@every_rule
def test_the_source_keeps_the_rule(rule: Rule) -> None:
    """Every file in version control keeps the rule."""
    assert violations(rule, tracked()) == []


@every_rule
def test_the_rule_finds_a_planted_violation(rule: Rule) -> None:
    """A rule that finds nothing in a violation would find nothing in the source either."""
    assert list(rule.check(rule.planted))


@every_rule
def test_the_rule_lets_an_innocent_neighbour_pass(rule: Rule) -> None:
    """A rule that cries at everything would be switched off."""
    assert list(rule.check(rule.innocent)) == []


@every_rule
def test_the_rule_reads_at_least_one_file(rule: Rule) -> None:
    """A rule whose pattern fits no file would pass for ever."""
    assert any(rule.covers(path) for path in tracked())


def test_the_runtime_catches_everything_in_one_place() -> None:
    """One supervisor turns an unforeseen fault into a clean stop; nobody else hides faults."""
    found = [
        path
        for path in tracked()
        if fnmatch(path, "zmqex/runtime*.py")
        for _ in broad_excepts(read(path))
    ]
    assert len(found) <= 1, found


def unused_constants(definitions: str, sources: Iterable[str]) -> set[str]:
    """Answer the constants that `definitions` assigns and no expression in `sources` reads."""
    tree = ast.parse(definitions)
    targets = [node.target for node in tree.body if isinstance(node, ast.AnnAssign)]
    defined = {target.id for target in targets if isinstance(target, ast.Name)}
    read_names = {
        node.id if isinstance(node, ast.Name) else node.attr
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    return defined - read_names


def test_every_limit_is_enforced_somewhere() -> None:
    """A limit that nothing reads protects nobody."""
    sources = [read(path) for path in tracked() if fnmatch(path, "zmqex/*.py")]
    for path in ("zmqex/limits.py", "zmqex/dht/limits.py"):
        assert unused_constants(read(path), sources) == set()


def test_a_planted_limit_that_nothing_reads_is_found() -> None:
    """An import alone does not enforce a limit."""
    definitions = "A: Final = 1\nB: Final = A\nC: Final = 3"
    sources = [definitions, "from limits import B, C\nx = limits.C"]
    assert unused_constants(definitions, sources) == {"B"}


def misplaced(paths: Iterable[str]) -> list[str]:
    """Answer paths under unknown top-level entries, and modules with names that say nothing."""
    return [
        path
        for path in paths
        if path.split("/")[0] not in TOP_LEVEL
        or any(VAGUE_NAMES.search(part.removesuffix(".py")) for part in path.split("/"))
    ]


def test_every_file_has_its_room() -> None:
    """The top level holds what a newcomer expects, and no drawer for odds and ends."""
    assert misplaced(tracked()) == []


def test_a_planted_drawer_for_odds_and_ends_is_found() -> None:
    """Vague names and strangers at the top are found; words that contain them are not."""
    drawers = ["zmqex/utils.py", "zmqex/dht_helpers/x.py", "tests/common/x.py", "notes.txt"]
    assert misplaced([*drawers, "zmqex/commons.py", "zmqex/market/book.py"]) == drawers


def ruff_ignores(pyproject: str) -> tuple[int, list[str]]:
    """Answer how many ruff ignores there are, and the lines of those without a reason."""
    lint = tomllib.loads(pyproject)["tool"]["ruff"]["lint"]
    lists = [lint["ignore"], *lint.get("per-file-ignores", {}).values()]
    codes = [code for codes in lists for code in codes]
    bare = []
    for code in codes:
        lines = [line for line in pyproject.splitlines() if f'"{code}"' in line]
        bare += [line for line in lines if not re.search(r",\s*# \S.{9,}", line)]
    return len(codes), bare


def test_every_ruff_ignore_has_its_reason_and_they_are_few() -> None:
    """At most 20 in all, those for tests and scripts counted."""
    count, bare = ruff_ignores(read("pyproject.toml"))
    assert count <= RUFF_IGNORES_MAX
    assert bare == []


def test_a_planted_ruff_ignore_without_a_reason_is_found() -> None:
    """A code without a reason beside it is found, also among those for one folder."""
    planted = (
        "[tool.ruff.lint]\n"
        'ignore = [\n    "D203", # contradicts D211\n    "EM",\n]\n'
        '[tool.ruff.lint.per-file-ignores]\n"tests/**" = [\n    "S101",\n]\n'
    )
    assert ruff_ignores(planted) == (3, ['    "EM",', '    "S101",'])

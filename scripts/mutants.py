"""Small faults that a programmer could have made, one at a time, in a module's text.

A mutant is one change of one node of the syntax tree: another comparison, sum or word of logic, a
number that is one off, a constant turned round, a call left out, an answer that is None.
Not for running anything (`mutation`).
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

_COMPARED: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
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
}
_COMPUTED: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.Pow: ast.Mult,
}
# Options of dataclasses and structs that guard against misuse, not against wrong figures.
_RECORD: Final = frozenset({"frozen", "slots", "kw_only", "gc", "forbid_unknown_fields"})
_SWAPPED: Final = {"min": "max", "max": "min", "any": "all", "all": "any"}


class Mutant(NamedTuple):
    """One fault: where it stands, what it is, and the whole module with it."""

    name: str  # line:column what
    source: str


Change = Callable[[], None]


def mutants(source: str) -> Iterator[Mutant]:
    """Every mutant of a module, in the order of its lines."""
    tree = ast.parse(source)
    original = ast.unparse(tree)
    _mark_parents(tree)
    inert = {id(inner) for node in ast.walk(tree) for inner in _inert(node)}
    places = [
        one
        for one in ast.walk(tree)
        if isinstance(one, ast.expr | ast.stmt) and id(one) not in inert
    ]
    seen = {original}
    names: Counter[str] = Counter()
    for node in sorted(places, key=lambda one: (one.lineno, one.col_offset)):
        for what, do, undo in _changes(node):
            do()
            text = ast.unparse(ast.fix_missing_locations(tree))
            undo()
            if text not in seen:
                seen.add(text)
                name = f"{node.lineno}:{node.col_offset} {what}"
                names[name] += 1
                again = f" ({names[name]})" if names[name] > 1 else ""
                yield Mutant(name + again, text)


def _mark_parents(tree: ast.AST) -> None:
    for parent in ast.walk(tree):
        for child in ast.iter_child_nodes(parent):
            vars(child)["parent"] = parent


def _parent(node: ast.AST) -> Any:  # noqa: ANN401 - a node that `_mark_parents` has seen
    return vars(node)["parent"]


def _inert(node: ast.AST) -> Iterator[ast.AST]:
    """Everything below a node that is not run: annotations, and how a record is made."""
    for name in ("annotation", "returns"):
        inner = getattr(node, name, None)
        if isinstance(inner, ast.AST):
            yield from ast.walk(inner)
    if isinstance(node, ast.keyword) and node.arg in _RECORD:
        yield from ast.walk(node)


def _changes(node: ast.AST) -> Iterator[tuple[str, Change, Change]]:
    """Each change of one node: its name, how it is made and how it is taken back."""
    match node:
        case ast.Compare():
            for index, operator in enumerate(node.ops):
                other = _COMPARED[type(operator)]()
                yield _item(node.ops, index, other, _words(operator, other))
        case ast.BinOp() | ast.AugAssign() if type(node.op) in _COMPUTED:
            computed = _COMPUTED[type(node.op)]()
            yield _field(node, "op", computed, _words(node.op, computed))
        case ast.BoolOp():
            swapped = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield _field(node, "op", swapped, _words(node.op, swapped))
        case ast.UnaryOp(op=ast.Not()):
            yield _field(node, "op", ast.UAdd(), "not -> as it is")
        case ast.UnaryOp(op=ast.USub()):
            yield _field(node, "op", ast.UAdd(), "minus -> plus")
        case ast.If() | ast.IfExp() | ast.While() if not isinstance(node.test, ast.Compare):
            negated = ast.UnaryOp(ast.Not(), node.test)
            yield _field(node, "test", negated, "condition -> its contrary")
        case ast.Return(value=ast.AST()) if not _is_none(node.value):
            yield _field(node, "value", ast.Constant(None), "answer -> None")
        case ast.Constant():
            yield from _constants(node)
        case ast.Name() if node.id in _SWAPPED:
            yield _field(node, "id", _SWAPPED[node.id], f"{node.id} -> {_SWAPPED[node.id]}")
        case ast.Expr(value=ast.Call()) | ast.Raise() | ast.Break() | ast.Continue():
            yield from _left_out(node)
        case _:
            pass


def _constants(node: ast.Constant) -> Iterator[tuple[str, Change, Change]]:
    if isinstance(node.value, bool):
        yield _field(node, "value", not node.value, f"{node.value} -> {not node.value}")
    elif isinstance(node.value, int):
        yield _field(node, "value", node.value + 1, f"{node.value} -> {node.value + 1}")
    elif isinstance(node.value, str) and not _is_text(node):
        yield _field(node, "value", node.value + "?", f"{node.value!r} -> another word")


def _left_out(node: ast.stmt) -> Iterator[tuple[str, Change, Change]]:
    parent = _parent(node)
    for name in ("body", "orelse", "finalbody"):
        body = getattr(parent, name, None)
        if isinstance(body, list) and node in body:
            yield _item(body, body.index(node), ast.Pass(), f"{ast.unparse(node)[:40]} -> pass")


def _is_text(node: ast.Constant) -> bool:
    """Whether words are for people: documentation, an annotation, or a part of a message."""
    parent = _parent(node)
    while isinstance(parent, ast.JoinedStr | ast.BinOp | ast.FormattedValue | ast.Tuple):
        parent = _parent(parent)
    told = isinstance(parent, ast.Call) and ast.unparse(parent.func).endswith("Error")
    return told or isinstance(parent, ast.Expr | ast.AnnAssign | ast.arg | ast.Subscript)


def _is_none(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _words(before: ast.AST, after: ast.AST) -> str:
    return f"{type(before).__name__} -> {type(after).__name__}"


def _field(node: ast.AST, name: str, value: object, what: str) -> tuple[str, Change, Change]:
    before = getattr(node, name)
    return what, lambda: setattr(node, name, value), lambda: setattr(node, name, before)


def _item(items: list[Any], index: int, value: object, what: str) -> tuple[str, Change, Change]:
    before = items[index]
    return (
        what,
        lambda: items.__setitem__(index, value),
        lambda: items.__setitem__(index, before),
    )

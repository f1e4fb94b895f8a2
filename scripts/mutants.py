"""Small faults that a programmer could have made, one at a time, in a module's text.

A mutant is one change of one node of the syntax tree: another comparison, sum or word of logic, a
number that is one off, a constant turned round, another member of an enum, a row of a table or a
part of a condition left out, a statement left out, an answer that is None.  The text of an error is
for people and stays as it is.  Not for running anything (`mutation`).
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
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
    members = _members(tree)
    places = [
        one
        for one in ast.walk(tree)
        if isinstance(one, ast.expr | ast.stmt) and id(one) not in inert
    ]
    seen = {original}
    names: Counter[str] = Counter()
    for node in sorted(places, key=lambda one: (one.lineno, one.col_offset)):
        for what, do, undo in chain(_changes(node), _left_out(node), _another(node, members)):
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
        case ast.UnaryOp(op=ast.Invert()):
            yield _field(node, "op", ast.UAdd(), "inverted -> as it is")
        case ast.If() | ast.IfExp() | ast.While() if not _is_question(node.test):
            negated = ast.UnaryOp(ast.Not(), node.test)
            yield _field(node, "test", negated, "condition -> its contrary")
        case ast.Return(value=ast.AST()) if not _is_none(node.value):
            yield _field(node, "value", ast.Constant(None), "answer -> None")
        case ast.Constant():
            yield from _constants(node)
        case ast.Name() if node.id in _SWAPPED:
            yield _field(node, "id", _SWAPPED[node.id], f"{node.id} -> {_SWAPPED[node.id]}")
        case _:
            pass


def _constants(node: ast.Constant) -> Iterator[tuple[str, Change, Change]]:
    if isinstance(node.value, bool):
        yield _field(node, "value", not node.value, f"{node.value} -> {not node.value}")
    elif isinstance(node.value, int):
        yield _field(node, "value", node.value + 1, f"{node.value} -> {node.value + 1}")
    elif isinstance(node.value, str) and not _is_text(node):
        yield _field(node, "value", node.value + "?", f"{node.value!r} -> another word")


def _another(
    node: ast.AST, members: Mapping[str, list[str]]
) -> Iterator[tuple[str, Change, Change]]:
    """The next member of its enum, of those that the module speaks of."""
    match node:
        case ast.Attribute(value=ast.Name(id=name), attr=attr) if attr.isupper():
            known = members[name]
            other = known[(known.index(attr) + 1) % len(known)]
            yield _field(node, "attr", other, f"{attr} -> {other}")


def _members(tree: ast.AST) -> dict[str, list[str]]:
    """The names in capitals that are asked of each name, sorted."""
    found: dict[str, set[str]] = defaultdict(set)
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr=attr) if attr.isupper():
                found[name].add(attr)
    return {name: sorted(members) for name, members in found.items()}


def _left_out(node: ast.AST) -> Iterator[tuple[str, Change, Change]]:
    """A statement, a part of a condition, or a row of a table that is not there."""
    match node:
        case ast.Expr(value=ast.Call()) | ast.Raise() | ast.Break() | ast.Continue():
            yield from _statement_left_out(node)
        case ast.Delete() | ast.AugAssign() | ast.Return(value=None):
            yield from _statement_left_out(node)
        case ast.Return(value=ast.Constant(None)) if isinstance(_parent(node), ast.If):
            yield from _statement_left_out(node)
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript(), *_]):
            yield from _statement_left_out(node)
        case ast.BoolOp():
            for index, value in enumerate(node.values):
                rest = [*node.values[:index], *node.values[index + 1 :]]
                whole = ast.BoolOp(node.op, rest) if len(rest) > 1 else rest[0]
                yield _instead(node, whole, f"without {ast.unparse(value)[:40]}")
        case ast.Dict():
            for index, value in enumerate(node.values):
                key = node.keys[index]
                what = f"without {ast.unparse(key or value)[:40]}"
                table = ast.Dict(_without(node.keys, index), _without(node.values, index))
                yield _instead(node, table, what)
        case ast.Set() | ast.Tuple() | ast.List() if _is_table(node):
            for index, element in enumerate(node.elts):
                what = f"without {ast.unparse(element)[:40]}"
                yield _field(node, "elts", _without(node.elts, index), what)
        case _:
            pass


def _statement_left_out(node: ast.stmt) -> Iterator[tuple[str, Change, Change]]:
    parent = _parent(node)
    for name in ("body", "orelse", "finalbody"):
        body = getattr(parent, name, None)
        if isinstance(body, list) and node in body:
            yield _item(body, body.index(node), ast.Pass(), f"{ast.unparse(node)[:40]} -> pass")


def _is_table(node: ast.Set | ast.Tuple | ast.List) -> bool:
    """Whether its members stand side by side, so that one could have been forgotten."""
    if isinstance(node, ast.Set):
        return True
    told = ast.Assign | ast.AnnAssign | ast.Dict | ast.ExceptHandler
    return len(node.elts) > 1 and isinstance(node.ctx, ast.Load) and isinstance(_parent(node), told)


def _is_question(node: ast.AST) -> bool:
    """Whether another comparison turns it round already."""
    return isinstance(node, ast.Compare) and not any(
        isinstance(one, ast.Lt | ast.LtE | ast.Gt | ast.GtE) for one in node.ops
    )


def _is_text(node: ast.Constant) -> bool:
    """Whether words are for people: documentation or an error's message; or a key, read at once."""
    parent = _parent(node)
    while isinstance(parent, ast.JoinedStr | ast.BinOp | ast.FormattedValue):
        parent = _parent(parent)
    if isinstance(parent, ast.Assign):
        return ast.unparse(parent.targets[0]) == "msg"
    told = isinstance(parent, ast.Call) and ast.unparse(parent.func).endswith("Error")
    return told or isinstance(parent, ast.Expr | ast.Subscript)


def _is_none(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _words(before: ast.AST, after: ast.AST) -> str:
    return f"{type(before).__name__} -> {type(after).__name__}"


def _field(node: ast.AST, name: str, value: object, what: str) -> tuple[str, Change, Change]:
    before = getattr(node, name)
    return what, lambda: setattr(node, name, value), lambda: setattr(node, name, before)


def _instead(node: ast.AST, other: ast.AST, what: str) -> tuple[str, Change, Change]:
    """Another node in the place of this one."""
    parent = _parent(node)
    for name, value in ast.iter_fields(parent):
        if value is node:
            return _field(parent, name, other, what)
        if isinstance(value, list) and node in value:
            return _item(value, value.index(node), other, what)
    raise LookupError(ast.dump(node))


def _without(items: list[Any], index: int) -> list[Any]:
    return [*items[:index], *items[index + 1 :]]


def _item(items: list[Any], index: int, value: object, what: str) -> tuple[str, Change, Change]:
    before = items[index]
    return (
        what,
        lambda: items.__setitem__(index, value),
        lambda: items.__setitem__(index, before),
    )

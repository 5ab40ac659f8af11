"""The rows of a board to show: conditions on columns, an order, and one row per variant.

A condition is read by Python's parser and evaluated here, so it can compare columns and do nothing
else. What is shown does not change verdicts and ranks, which are those of the whole board.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

import pandas as pd

from analysis.tables import QUESTION
from samtune.errors import SamtuneError
from samtune.messages import nearest, quoted

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_EXAMPLE = (
    "write it like `variant in (sam, asam) and test_acc_mean > 0.9`, texts such as '2x' in quotes"
)


class SelectionError(SamtuneError):
    """A condition or an order that the board cannot follow."""

    exit_code = 2


def where(board: pd.DataFrame, condition: str) -> pd.DataFrame:
    """Return the rows for which a condition holds; a null fulfils none but `!=` and `not in`.

    Args:
        board: Rows of a table.
        condition: Comparisons of columns with numbers, texts, True, False, and lists of these,
            joined by `and`, `or`, `not`. A word that is no column is a text.

    Raises:
        SelectionError: The condition cannot be read, or names a column that is not there.

    """
    try:
        tree = ast.parse(condition.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise SelectionError(
            f"cannot read the condition {quoted(condition)}; {_EXAMPLE}"
        ) from None
    return board[_holds(tree, board)]


def order(board: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the rows of each question sorted by a column, descending with `-` before its name.

    Raises:
        SelectionError: There is no such column.

    """
    name = _column(column.removeprefix("-"), board)
    by = board.assign(
        _place=range(len(board)), _question=board.groupby(QUESTION, sort=False).ngroup()
    )
    ascending = [True, not column.startswith("-"), True]
    found = by.sort_values(["_question", name, "_place"], ascending=ascending)
    return found.drop(columns=["_place", "_question"])


def best_of_variants(board: pd.DataFrame) -> pd.DataFrame:
    """Return one row per question and variant: the one of which validation promises most."""
    promise = [
        row["select_mean"] if not pd.isna(row["select_mean"]) else row[f"best_{row['metric']}"]
        for row in board.to_dict("records")
    ]
    sign = board["mode"].map({"max": -1.0, "min": 1.0})
    by = sign * pd.Series(promise, index=board.index, dtype=float)
    first = by.sort_values(kind="stable").index
    kept = board.loc[first].drop_duplicates([*QUESTION, "variant"]).index
    return board.loc[board.index.isin(kept)]


def _holds(node: ast.expr, board: pd.DataFrame) -> pd.Series[bool]:
    match node:
        case ast.BoolOp(op=ast.And(), values=values):
            found = _holds(values[0], board)
            for value in values[1:]:
                found &= _holds(value, board)
            return found
        case ast.BoolOp(values=values):
            found = _holds(values[0], board)
            for value in values[1:]:
                found |= _holds(value, board)
            return found
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return ~_holds(operand, board)
        case ast.Compare(left=ast.Name(id=name), ops=[op], comparators=[right]):
            return _compared(board[_column(name, board)], op, right)
        case ast.Name(id=name) if board[_column(name, board)].dtype == bool:
            return board[name].astype(bool)
    raise SelectionError(f"cannot compare by `{ast.unparse(node)}`; {_EXAMPLE}")


def _compared(column: pd.Series[Any], op: ast.cmpop, right: ast.expr) -> pd.Series[bool]:
    if isinstance(op, ast.In | ast.NotIn):
        inside = column.isin(_values(right))
        return inside if isinstance(op, ast.In) else ~inside
    known = _COMPARISONS.get(type(op))
    if known is None:
        raise SelectionError(f"a condition has no `is`; {_EXAMPLE}")
    value = _value(right)
    try:
        found = known(column, value)
    except TypeError:
        raise SelectionError(f"{column.name} cannot be compared with {quoted(value)}") from None
    return pd.Series(found, index=column.index).fillna(isinstance(op, ast.NotEq)).astype(bool)


def _values(node: ast.expr) -> list[Any]:
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return [_value(each) for each in node.elts]
    return [_value(node)]


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=str() | int() | float() as value):
            return value
        case ast.Name(id=name):
            return name
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.BinOp(op=ast.Sub()):
            # A name such as sgd-2x, which Python reads as a difference.
            return ast.unparse(node).replace(" ", "")
    raise SelectionError(f"`{ast.unparse(node)}` is no value; quote a text: 'sgd-2x'")


def _column(name: str, board: pd.DataFrame) -> str:
    if name not in board.columns:
        raise SelectionError(f"the board has no column {name!r}; {nearest(name, board.columns)}")
    return name

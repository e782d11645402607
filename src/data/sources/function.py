"""Values of a function that is given as text, at points of one's choice of range and number."""

import ast
import operator
from typing import Any

import numpy as np

from src.data.rows import Rows, Signature, Source

FUNCTIONS = (
    *("sin", "cos", "tan", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "exp", "log"),
    *("sqrt", "abs", "sign", "floor", "minimum", "maximum"),
)
OPERATORS: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


class Function(Source):
    """A function of x, or of x and y, at points spread evenly and at random; to regress on.

    Each of `num_rows` equal parts of the range of each variable has one point (a Latin hypercube).

    Args:
        expression: Numbers, x, y, pi, + - * / % **, brackets, and numpy's sin, cos, tan, arcsin,
            arccos, arctan, sinh, cosh, tanh, exp, log, sqrt, abs, sign, floor, minimum, maximum.
        low: Least value of each variable.
        high: Greatest value of each variable, above `low`.
        num_rows: Number of points, 1 or more.
        noise: Standard deviation of what is added to each value, 0 or more.
        seed: Another seed draws other points and noise.
    """

    def __init__(
        self,
        expression: str,
        low: float = 0.0,
        high: float = 1.0,
        num_rows: int = 4000,
        noise: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.expression, self.low, self.high = expression, low, high
        self.num_rows, self.noise, self.seed = num_rows, noise, seed
        if not low < high or num_rows < 1 or noise < 0:
            what = f"`low` {low:g}, `high` {high:g}, `num_rows` {num_rows}, `noise` {noise:g}"
            rule = "low is below high, there is a row or more, and noise is not negative"
            raise ValueError(f"`data.source` has {what}: {rule}")
        try:
            self.tree = ast.parse(expression.strip(), mode="eval").body
            self(np.full((1, 2), low))  # what can't be read is an error at once
        except (SyntaxError, RecursionError, MemoryError, OverflowError):
            what = f"`data.source.expression` is {expression!r:.60}, no expression"
            raise ValueError(f"{what}: write one as 'sin(2*pi*x)'") from None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The values at points, `(N, D) -> (N,)` float64, without noise."""
        with np.errstate(all="ignore"):
            values: np.ndarray = evaluate(self.tree, {"x": x[:, 0], "y": x[:, -1], "pi": np.pi})
        return values + np.zeros(len(x))

    def load(self, signature: Signature | None = None) -> Rows:
        names = {node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name)}
        columns = ("x", "y") if "y" in names else ("x",)
        rng = np.random.default_rng(self.seed)
        cells = np.tile(np.arange(self.num_rows), (len(columns), 1))
        cells[1:] = rng.permuted(cells[1:], axis=1)
        parts = (cells.T + rng.random(cells.T.shape)) / self.num_rows
        x = (self.low + (self.high - self.low) * parts).astype(np.float32)
        y = self(x.astype(np.float64))
        if not np.isfinite(y).all():
            at = ", ".join(f"{v:g}" for v in x[~np.isfinite(y)][0])
            what = f"`data.source.expression` {self.expression!r} is not finite at {at}"
            raise ValueError(f"{what}: change it, or `low` and `high`")
        y += self.noise * rng.normal(size=len(y))
        signature = Signature((len(columns),), "float32", (), ("value",), columns)
        return Rows(x, y.astype(np.float32), signature)


def evaluate(node: ast.AST, values: dict[str, Any]) -> Any:
    """The value of an expression. Nothing but arithmetic can be said: it may be a stranger's."""
    match node:
        case ast.Constant(value=int() | float() as number):
            return np.float64(number)
        case ast.Name(id=name) if name in values:
            return values[name]
        case ast.UnaryOp(op=op, operand=a) if type(op) in OPERATORS:
            return OPERATORS[type(op)](evaluate(a, values))
        case ast.BinOp(left=a, op=op, right=b) if type(op) in OPERATORS:
            return OPERATORS[type(op)](evaluate(a, values), evaluate(b, values))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
            function = getattr(np, name)
            if len(args) == function.nin:  # one more would be written to
                return function(*(evaluate(arg, values) for arg in args))
    what = f"`data.source.expression` has {ast.unparse(node)!r:.40}, which is not known"
    raise ValueError(f"{what}: it may have x, y, pi, numbers, + - * / % ** and {FUNCTIONS}")

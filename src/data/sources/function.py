"""Values of a function that is given as text, at random points."""

import ast
from typing import Any

import numpy as np

from src.data.rows import Rows, Signature, Source

FUNCTIONS = (
    "sin cos tan arcsin arccos arctan sinh cosh tanh exp log sqrt abs sign floor minimum maximum"
)
OPERATORS = {"Add": "add", "Sub": "subtract", "Mult": "multiply", "Div": "divide"}
OPERATORS |= {"Mod": "mod", "Pow": "power", "USub": "negative", "UAdd": "positive"}


class Function(Source):
    """A function of x, or of x and y, at random points that are spread evenly; to regress on.

    Each of `num_rows` equal parts of the range of a variable has one point (a Latin hypercube).

    Args:
        expression: Numbers, x, y, pi, + - * / % **, brackets, and numpy's sin, cos, tan, arcsin,
            arccos, arctan, sinh, cosh, tanh, exp, log, sqrt, abs, sign, floor, minimum, maximum.
        low: Least value of each variable.
        high: Greatest value of each variable.
        num_rows: Number of points.
        noise: Standard deviation of what is added to each value.
        seed: Another seed draws other points and other noise.
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
        if num_rows < 1:
            raise ValueError(f"`data.source.num_rows` is {num_rows}, not 1 or more")
        try:
            self.tree = ast.parse(expression.strip(), mode="eval").body
            self(np.full((1, 2), low))  # what can't be read is an error at once
        except (SyntaxError, RecursionError, MemoryError, OverflowError):
            what = f"`data.source.expression` is {expression!r:.60}, no expression"
            raise ValueError(f"{what}: write one as 'sin(2*pi*x)'") from None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The values at points, `(N, D) -> (N,)` float64, without noise."""
        with np.errstate(all="ignore"):
            values = evaluate(self.tree, {"x": x[:, 0], "y": x[:, -1], "pi": np.pi})
        return np.broadcast_to(values, len(x))

    def load(self, signature: Signature | None = None) -> Rows:
        names = {node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name)}
        columns = ("x", "y") if "y" in names else ("x",)
        rng = np.random.default_rng(self.seed)
        cells = rng.permuted(np.tile(np.arange(self.num_rows), (len(columns), 1)), axis=1).T
        parts = (cells + rng.random(cells.shape)) / self.num_rows
        x = (self.low + (self.high - self.low) * parts).astype(np.float32)
        y = self(x.astype(np.float64)) + self.noise * rng.normal(size=len(x))
        if not np.isfinite(y).all():
            what = f"`data.source.expression` {self.expression!r} is not finite at"
            at = ", ".join(f"{value:g}" for value in x[~np.isfinite(y)][0])
            raise ValueError(f"{what} {at}: change it, or `low` and `high`")
        signature = Signature((len(columns),), "float32", (), ("value",), columns)
        return Rows(x, y.astype(np.float32), signature)


def evaluate(node: ast.AST, values: dict[str, Any]) -> Any:
    """The value of an expression, which can say nothing but arithmetic: it may be a stranger's."""
    args: list[ast.expr] = []
    name = ""
    match node:
        case ast.Constant(value=int() | float() as number):
            return np.float64(number)
        case ast.Name(id=variable) if variable in values:
            return values[variable]
        case ast.UnaryOp(op=op, operand=a):
            name, args = OPERATORS.get(type(op).__name__, ""), [a]
        case ast.BinOp(left=a, op=op, right=b):
            name, args = OPERATORS.get(type(op).__name__, ""), [a, b]
        case ast.Call(func=ast.Name(id=called), args=args, keywords=[]):
            name = called if called in FUNCTIONS.split() else ""
    function: Any = getattr(np, name, None)
    if function is None or len(args) != function.nin:  # one more would be written to
        what = f"`data.source.expression` has {ast.unparse(node)!r:.60}, which is not known"
        raise ValueError(f"{what}: there are x, y, pi, numbers, + - * / % ** and {FUNCTIONS}")
    return function(*(evaluate(arg, values) for arg in args))

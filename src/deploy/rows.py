"""Rows as JSON or images, read as strictly as a door needs it, into the rows that a model takes."""

from __future__ import annotations

import base64
import json
import math
from types import NoneType
from typing import Any

import numpy as np

from src.errors import hint, short
from src.pixels import Form, decode

MAX_PIXELS = 16_000_000  # of all images of a request as they are sent, before they are resized


class Reader:
    """Reads rows by the signature of an export.

    Args:
        signature: `Signature` as a dict, of JSON types.
    """

    def __init__(self, signature: dict[str, Any]) -> None:
        self.shape, self.dtype = tuple(signature["in_shape"]), np.dtype(signature["dtype"])
        self.names, coded = [*signature["feature_names"]], signature["categories"].items()
        self.codes = {k: {v: i for i, v in enumerate((None, *values))} for k, values in coded}
        self.is_whole = self.dtype == np.uint8
        self.takes_images = self.is_whole and len(self.shape) == 3 and self.shape[0] in (1, 3)

    def row(self, value: Any, where: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """One row `(*in_shape)`, of its features by name or in their order, or an image in base64.

        Raises:
            ValueError: It is no such row; the message begins with `where`.
        """
        if isinstance(value, str) and self.takes_images:
            try:
                content = base64.b64decode(value, validate=True)
            except ValueError as error:
                raise ValueError(f"{where} is no base64: {error}") from None
            return self.image(content, where, max_pixels)
        if self.names and isinstance(value, dict):
            for name in value:
                if name not in self.names:
                    close = hint(name[:60], self.names)
                    raise ValueError(f"{where} has the unknown field {shown(name)}{close}")
            for name in self.names:
                if name not in value:
                    raise ValueError(f"{where} lacks `{name}`: give null if it is unknown")
            value = [value[name] for name in self.names]
        leaves = [value]
        for size in self.shape:
            if any(type(part) is not list or len(part) != size for part in leaves):
                what = f"a list of {len(self.names)} values, or an object of them by name"
                what = what if self.names else f"nested lists of shape {list(self.shape)}"
                raise ValueError(f"{where} is not {what}{', or an image' * self.takes_images}")
            leaves = [leaf for part in leaves for leaf in part]
        for i, name in enumerate(self.names):
            if codes := self.codes.get(name):
                if not isinstance(leaves[i], str | None) or leaves[i] not in codes:
                    close = hint(str(leaves[i])[:60], [*codes][1:])
                    raise ValueError(f"{where}.{name} is {shown(leaves[i])}{close}")
                leaves[i] = codes[leaves[i]]
        return self._numbers(leaves, where).reshape(self.shape)

    def _numbers(self, leaves: list[Any], where: str) -> np.ndarray:
        def at(i: int) -> str:
            places = np.unravel_index(i, self.shape)
            return f"{where}.{self.names[i]}" if self.names else f"{where}{[*map(int, places)]}"

        for i, leaf in enumerate(leaves):
            if type(leaf) not in ((int,) if self.is_whole else (int, float, NoneType)):
                what = "a whole number from 0 to 255" if self.is_whole else "a number or null"
                raise ValueError(f"{at(i)} is {shown(leaf)}, not {what}")
        try:
            values = np.array([math.nan if leaf is None else leaf for leaf in leaves], np.float64)
        except OverflowError:  # an integer of hundreds of digits
            raise ValueError(f"{where} has a number that is too large") from None
        with np.errstate(over="ignore", invalid="ignore"):
            x = values.astype(self.dtype)
        bad = (values < 0) | (values > 255) if self.is_whole else np.isinf(x)
        if bad.any():
            what = "outside 0 to 255" if self.is_whole else f"too large for {self.dtype}"
            raise ValueError(f"{at(int(bad.argmax()))} is {what}")
        return x

    def image(self, content: bytes, where: str, max_pixels: int) -> np.ndarray:
        """One row of a PNG or JPEG, stretched to the size that the model takes.

        Raises:
            ValueError: This is none.
        """
        form: Form = (self.shape[1], self.shape[2]), "grey" if self.shape[0] == 1 else "rgb"
        try:
            return decode(content, form, ("PNG", "JPEG"), max_pixels)
        except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, ...
            why = str(error).partition(" <")[0] or type(error).__name__
            raise ValueError(f"{where} is no PNG or JPEG that can be used: {short(why)}") from None

    def shown(self, row: np.ndarray) -> Any:
        """A row as JSON, which `row` reads as that row: by name where features have names."""
        if self.is_whole:
            return row.tolist()
        values = [None if v != v else float(str(v)) for v in row.flat]  # 0.1, not 0.10000000149
        if not self.names:
            return np.array(values, object).reshape(row.shape).tolist()
        named: dict[str, Any] = dict(zip(self.names, values, strict=True))
        return named | {k: [*codes][int(named[k] or 0)] for k, codes in self.codes.items()}

    def schema(self) -> dict[str, Any]:
        """The JSON schema of one row."""
        whole = {"type": "integer", "minimum": 0, "maximum": 255}
        leaf: dict[str, Any] = whole if self.is_whole else {"type": ["number", "null"]}
        kinds = {name: {"enum": [*codes]} for name, codes in self.codes.items()}
        schema: dict[str, Any] = {"anyOf": [leaf, *kinds.values()]} if kinds else leaf
        for size in reversed(self.shape):
            schema = {"type": "array", "items": schema, "minItems": size, "maxItems": size}
        if self.names:
            fields = {name: kinds.get(name, leaf) for name in self.names}
            other = {"type": "object", "properties": fields, "required": self.names}
            return {"anyOf": [other | {"additionalProperties": False}, schema]}
        text = {"type": "string", "contentEncoding": "base64"}
        return {"anyOf": [schema, text]} if self.takes_images else schema


def parse(text: bytes) -> Any:
    """JSON without what its readers differ on: duplicate keys, NaN, infinite numbers.

    Raises:
        ValueError: It is no such JSON.
    """

    def fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the field {shown(twice)} is given twice")
        return found

    def constant(word: str) -> None:
        raise ValueError(f"{word} is no number of JSON: give null for a missing value")

    try:
        return json.loads(text.decode(), object_pairs_hook=fields, parse_constant=constant)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"the body is no JSON: {short(error, 100)}") from None


def shown(value: Any) -> str:
    """A value of a request as a message shows it."""
    words = "a list" if isinstance(value, list) else isinstance(value, dict) and "an object"
    return words or short(json.dumps(value), 60)

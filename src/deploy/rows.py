"""What requests and answers must fit, as pydantic models made from the signature of an export."""

from __future__ import annotations

import base64
import json
import re
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import HTTPException
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WrapValidator, create_model

from src.errors import hint, short
from src.pixels import Form, decode

MAX_PIXELS = 16_000_000  # of all images of a request as they are sent, before they are resized
MAX_STRAYS = 16  # unknown fields of an object: each makes a message, of which the first is shown
MAX_MEANT = 500  # categories among which the one that was meant is looked for
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
BASE64 = Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]


class Reader:
    """Reads requests by the signature of an export.

    Args:
        signature: `Signature` as a dict, of JSON types.
        max_rows: Of a request.
    """

    def __init__(self, signature: dict[str, Any], max_rows: int) -> None:
        self.shape, self.dtype = tuple(signature["in_shape"]), np.dtype(signature["dtype"])
        self.names, coded = [*signature["feature_names"]], signature["categories"].items()
        self.codes = {k: {v: i for i, v in enumerate((None, *values))} for k, values in coded}
        self.takes_images = self.dtype == np.uint8 and self.shape[:-2] in ((1,), (3,))
        number: Any = Annotated[int, Field(ge=0, le=255)]
        if self.dtype != np.uint8:
            most = float(np.finfo(self.dtype).max)
            number = Annotated[float, Field(ge=-most, le=most)] | None
        row: Any = number
        for size in reversed(self.shape):
            row = listed(row, size, size)
        shown = row | BASE64 if self.takes_images else row
        if self.names:
            fields = dict.fromkeys(self.names, number)
            for name, codes in self.codes.items():
                fields[name] = Annotated[Literal[*codes], AfterValidator(codes.__getitem__)]
            row = fitting("Row", fields)
            shown = row | tuple[*fields.values()]
        row = Annotated[row, WrapValidator(self._row, json_schema_input_type=shown)]
        rows: Any = (listed(row, 1, max_rows), ...)
        request: Any = create_model("Request", __config__=STRICT, rows=rows)
        self.request = Annotated[request, BeforeValidator(whole, json_schema_input_type=request)]

    def _row(self, value: Any, fit: Any) -> Any:
        if self.takes_images and isinstance(value, str | bytes):
            return base64.b64decode(value, validate=True) if isinstance(value, str) else value
        if self.names and isinstance(value, list) and len(value) == len(self.names):
            value = dict(zip(self.names, value, strict=True))
        elif self.names and not isinstance(value, dict):
            raise ValueError(f"give a list of {len(self.names)}, or an object of them by name")
        return fit(value)

    def array(self, rows: list[Any]) -> np.ndarray:
        """Rows that fit, as `(N, *in_shape)`; images are stretched to the size that is taken.

        Raises:
            HTTPException: One can't be read.
        """
        if self.names:
            return np.array([[*row.__dict__.values()] for row in rows], self.dtype)
        room, x = MAX_PIXELS // len(rows), np.empty((len(rows), *self.shape), self.dtype)
        for i, row in enumerate(rows):
            x[i] = self._image(row, f"rows[{i}]", room) if isinstance(row, bytes) else row
        return x

    def _image(self, content: bytes, where: str, max_pixels: int) -> np.ndarray:
        form: Form = (self.shape[1], self.shape[2]), "grey" if self.shape[0] == 1 else "rgb"
        try:
            return decode(content, form, ("PNG", "JPEG"), max_pixels)
        except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, ...
            why = str(error).partition(" <")[0] or type(error).__name__
            line = f"{where} is no PNG or JPEG that can be used: {short(why)}"
            raise HTTPException(422, line) from None

    def parse(self, text: bytes) -> Any:
        """JSON without what its readers differ on: duplicate keys, NaN, infinite numbers.

        Raises:
            HTTPException: It is no such JSON.
        """

        def fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            found = dict(pairs)
            if len(found) < len(pairs):
                names = [name for name, _ in pairs]
                twice = next(name for name in names if names.count(name) > 1)
                raise HTTPException(400, f"the field {shown(twice)} is given twice")
            if len(found) > len(self.names) + MAX_STRAYS:
                raise HTTPException(400, f"an object of {len(found)} fields is none that there is")
            return found

        def constant(word: str) -> None:
            raise HTTPException(400, f"{word} is no number of JSON: give null for a missing value")

        try:
            return json.loads(text.decode(), object_pairs_hook=fields, parse_constant=constant)
        except RecursionError:
            raise HTTPException(400, "the JSON is nested too deeply") from None
        except ValueError as error:
            raise HTTPException(400, f"the body is no JSON: {short(error, 100)}") from None

    def line(self, errors: list[dict[str, Any]]) -> str:
        """The first of pydantic's errors, or an unknown field, in a line that says where it is."""
        error = min(errors, key=lambda error: error["type"] != "extra_forbidden")
        kind, path, given = error["type"], error["loc"][1:], error["input"]
        if kind == "extra_forbidden":
            close = hint(path[-1][:60], self.names if path[1:] else ["rows"])
            return f"{where(path[:-1])} has the unknown field {shown(path[-1])}{close}"
        place = where(path) if kind == "missing" else f"{where(path)} is {shown(given)}"
        if kind == "literal_error":
            texts = [*self.codes[path[-1]]][1:MAX_MEANT]
            if isinstance(given, str):
                return f"{place}{hint(given[:60], texts)}"
            close = hint(json.dumps(str(given)[:60]), map(json.dumps, texts))
            return f"{place}, not a text{close}"
        text = re.sub("^Value error, | after validation", "", error["msg"])
        text = re.sub("dictionary or .*", "object", text[0].lower() + text[1:])
        may_lack = self.names and path[1:] and kind in ("missing", "float_type")
        return f"{place}: {text}{'; give null if it is unknown' if may_lack else ''}"


def whole(body: Any) -> Any:
    """An image as a request of one row."""
    return {"rows": [body]} if isinstance(body, bytes) else body


def listed(kind: Any, least: int, most: int) -> Any:
    """A list; what is wrong with it is looked for no further than to the first item."""
    return Annotated[list[kind], Field(min_length=least, max_length=most, fail_fast=True)]


def fitting(name: str, fields: dict[str, Any]) -> Any:
    """A model of an object with these fields and no others, whatever their names are."""
    made: Any = {f"f{i}": (kind, Field(alias=k)) for i, (k, kind) in enumerate(fields.items())}
    return create_model(name, __config__=STRICT, **made)


def where(path: tuple[str | int, ...]) -> str:
    """A place in a request, such as `rows[0].size`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(parts).lstrip(".") or "the body"


def shown(value: Any) -> str:
    """A value of a request as a message shows it."""
    words = "a list" if isinstance(value, list) else isinstance(value, dict) and "an object"
    text = words or json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]} ..."

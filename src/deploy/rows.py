"""What requests and answers must fit, as pydantic models made from the signature of an export."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, ConfigDict, Field, ValidationError, WrapValidator, create_model
from starlette.exceptions import HTTPException

from src.errors import hint, short
from src.pixels import Form, decode

MAX_PIXELS = 16_000_000  # of all images of a request as they are sent, before they are resized
MAX_STRAYS, MAX_MEANT = 16, 500  # unknown fields; categories among which the one meant is sought
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
        either = row | BASE64 if self.takes_images else row
        if self.names:
            fields = dict.fromkeys(self.names, number)
            for name, codes in self.codes.items():
                fields[name] = Annotated[Literal[*codes], AfterValidator(codes.__getitem__)]
            row = fitting("Row", fields)
            either = row | tuple[*fields.values()]  # type: ignore[misc]
        row = Annotated[row, WrapValidator(self._row, json_schema_input_type=either)]
        self.model = fitting("Request", {"rows": listed(row, 1, max_rows)})

    def read(self, text: bytes) -> Any:
        """The rows of a request, if it is JSON without what its readers differ on: duplicate keys,
        NaN, infinite numbers.

        Raises:
            HTTPException: It is no such JSON, or doesn't fit.
        """

        def fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            if len(pairs) > len(self.names) + MAX_STRAYS:
                raise HTTPException(400, f"an object of {len(pairs)} fields is none that there is")
            if len(found := dict(pairs)) < len(pairs):
                twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
                raise HTTPException(400, f"the field {shown(twice)} is given twice")
            return found

        def constant(word: str) -> None:
            raise HTTPException(400, f"{word} is no number of JSON: give null for a missing value")

        try:
            given = json.loads(text.decode(), object_pairs_hook=fields, parse_constant=constant)
            return self.model.model_validate(given).f0
        except RecursionError:
            raise HTTPException(400, "the JSON is nested too deeply") from None
        except ValidationError as error:
            raise HTTPException(422, self.line(error.errors())) from None
        except ValueError as error:
            raise HTTPException(400, f"the body is no JSON: {short(error, 100)}") from None

    def _row(self, value: Any, fit: Any) -> Any:
        if self.takes_images and isinstance(value, str):
            return base64.b64decode(value, validate=True)
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

    def line(self, errors: list[Any]) -> str:
        """The first of pydantic's errors, or an unknown field, in a line that says where it is."""
        error = min(errors, key=lambda error: error["type"] != "extra_forbidden")
        kind, path, given = error["type"], error["loc"], error["input"]
        if kind == "extra_forbidden":
            close = hint(path[-1][:60], self.names if path[1:] else ["rows"])
            return f"{where(path[:-1])} has the unknown field {shown(path[-1])}{close}"
        place = where(path) if kind == "missing" else f"{where(path)} is {shown(given)}"
        if kind == "literal_error":
            texts = map(json.dumps, [*self.codes[path[-1]]][1:MAX_MEANT])
            return f"{place}{hint(json.dumps(str(given)[:60]), texts)}"
        text = re.sub("^Value error, | after validation", "", error["msg"])
        text = re.sub("dictionary or .*", "object", text[0].lower() + text[1:])
        may_lack = self.names and path[1:] and kind in ("missing", "float_type")
        return f"{place}: {text}{'; give null if it is unknown' if may_lack else ''}"


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
    text = "a list" * isinstance(value, list) or "an object" * isinstance(value, dict)
    text = text or json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]} ..."

"""Takes out of a file what mentions a word: a case or a function, a sentence, a row, a line."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

SENTENCE = r"(?<=[.!?])\s+(?=[A-Z`*\[(])|(?<=[.!?][)`*\"])\s+(?=[A-Z`*\[(])"


def without_mentions(file: str, text: str, word: str) -> str:
    """A file without the pieces that mention what matches `word`."""
    pattern = re.compile(word, re.M)
    if not re.search(pattern, text):
        return text
    if file.endswith(".py"):
        return python_without(text, pattern)
    if file.endswith(".md"):
        return "".join(block_without(block, pattern) for block in blocks(text)).rstrip("\n") + "\n"
    return "".join(line for line in text.splitlines(True) if not re.search(pattern, line))


def blocks(text: str) -> Iterator[str]:
    """Paragraphs, tables and fenced code, each with the blank lines after it."""
    block, fence = "", False
    for line in text.splitlines():
        fence ^= line.startswith("```")
        block += line + "\n"
        if not line and not fence:
            yield block
            block = ""
    yield block


def block_without(block: str, word: re.Pattern[str]) -> str:
    """A block of Markdown without the lines, rows, list items or sentences that mention `word`."""
    if not re.search(word, block):
        return block
    lines = block.rstrip("\n").splitlines()
    if block.startswith(("```", "|")):
        kept = [line for line in lines if not re.search(word, line)]
        return "\n".join([*kept, "\n"]) if len(kept) > 2 else ""
    items: list[str] = []
    for item in re.split(r"\n(?=(?:- |\d+\. ))", "\n".join(lines)):
        first, *rest = re.split(f"({SENTENCE})", item)
        if re.search(word, first) and (item[0] in "-0123456789" or len(rest) < 2):
            continue
        sentences = zip(["", *rest[::2]], [first, *rest[1::2]], strict=True)
        left = "".join(a + b for a, b in sentences if not re.search(word, b)).lstrip()
        items += [left] * bool(left)
    return "\n".join([*items, "\n"]) if items else ""


def without_section(text: str, heading: str) -> str:
    """Markdown without the section of that heading, its own sections with it."""
    kept, level, fence = [], 0, False
    for line in text.splitlines(True):
        fence ^= line.startswith("```")
        depth = len(line) - len(line.lstrip("#")) if line.startswith("#") and not fence else 9
        if depth <= level:
            level = 0
        if depth < 9 and line.strip("# \n") == heading:
            level = depth
        kept += [line] * (not level)
    return "".join(kept)


def python_without(text: str, word: re.Pattern[str]) -> str:
    """Python without the cases, names and top-level statements that mention `word`.

    A case is an item of a collection at the top level, in a decorator, or that a loop goes through.
    What nothing uses any more goes, too.
    """
    before = text
    for node in reversed(ast.parse(text).body):
        part = source(text, node)
        if not re.search(word, part):
            continue
        shorter = text
        for group in reversed([*groups(node)]):
            gone = [item for item in group if re.search(word, span(text, item))]
            if len(gone) < len(group) or isinstance(node, ast.AnnAssign):
                shorter = re.sub(r"\{\s+\}", "{}", without_items(shorter, gone))
        left = next(n for n in ast.parse(shorter).body if first_line(n) == first_line(node))
        text = without(text, node) if re.search(word, source(shorter, left)) else shorter
    return without_unused(text, before)


def groups(node: ast.stmt) -> Iterator[list[list[ast.AST]]]:
    """The collections whose items are cases: each item as its first and its last node."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield [[name, name] for name in node.names]
    found: list[Any] = [getattr(node, "value", None)]
    for decorator in getattr(node, "decorator_list", ()):
        found += getattr(decorator, "args", [])[1:2]
    found += [n.iter for n in ast.walk(node) if isinstance(n, ast.For)]
    for value in found:
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
            value = value.func.value  # {...}.items()
        if isinstance(value, ast.Dict):
            yield [[k or v, v] for k, v in zip(value.keys, value.values, strict=True)]
        elif isinstance(value, ast.List | ast.Set | ast.Tuple):
            yield [[item, item] for item in value.elts]


def offset(text: str, line: int, column: int) -> int:
    """Where in a text the parser's line and column of bytes is."""
    lines = text.splitlines(True)
    return sum(map(len, lines[: line - 1])) + len(lines[line - 1].encode()[:column].decode())


def ends(text: str, item: list[Any]) -> tuple[int, int]:
    """Where an item begins and ends."""
    first, last = item
    begin = offset(text, first.lineno, first.col_offset)
    return begin, offset(text, last.end_lineno, last.end_col_offset)


def span(text: str, item: list[Any]) -> str:
    """An item as text."""
    begin, end = ends(text, item)
    return text[begin:end]


def without_items(text: str, gone: list[list[Any]]) -> str:
    """A text without some items of a collection, and without their commas."""
    for item in reversed(gone):
        begin, end = ends(text, item)
        line = text.rfind("\n", 0, begin) + 1
        if not text[line:begin].strip() and (own := re.compile(r",.*\n").match(text, end)):
            text = text[:line] + text[own.end() :]
        elif after := re.compile(r",\s*").match(text, end):
            text = text[:begin] + text[after.end() :]
        else:
            text = text[:begin].rstrip().removesuffix(",") + text[end:]
    return text


def first_line(node: Any) -> int:
    """The first line of a statement, or of its decorators."""
    first: int = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
    return first


def source(text: str, node: Any) -> str:
    """A statement as text, with its decorators."""
    return "".join(text.splitlines(True)[first_line(node) - 1 : node.end_lineno])


def without(text: str, node: Any) -> str:
    """A text without a top-level statement, with as many blank lines as were on one side of it."""
    lines = text.splitlines(True)
    above, below = "".join(lines[: first_line(node) - 1]), "".join(lines[node.end_lineno :])
    head, rest = above.rstrip("\n"), below.lstrip("\n")
    blanks = max(len(above) - len(head) - 1, len(below) - len(rest)) if rest else 0
    return head + "\n" * (1 + blanks) + rest if head else rest


def without_unused(text: str, before: str) -> str:
    """A text without the names that were used before and are no more."""

    def used(tree: ast.AST) -> Counter[str]:
        nodes = [*ast.walk(tree)]
        return Counter(str(getattr(n, key, "")) for n in nodes for key in ("id", "arg", "value"))

    tree = ast.parse(text)
    now, once = used(tree), used(ast.parse(before))
    for node in tree.body:
        targets = [getattr(target, "id", "") for target in getattr(node, "targets", ())]
        names: dict[str, Any] = dict.fromkeys([getattr(node, "name", ""), *targets])
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {(alias.asname or alias.name).split(".")[0]: alias for alias in node.names}
        own = used(node)
        for name, alias in names.items():
            if name and now[name] <= own[name] < once[name]:
                shorter = (
                    without_items(text, [[alias, alias]])
                    if alias and len(names) > 1
                    else without(text, node)
                )
                return without_unused(shorter, before)
    return text

"""What an ONNX file reads beside itself: the external data of its tensors, wherever in the file they stand.

Read off the protobuf's own bytes, since devices have no onnx package: a message is fields of (number << 3 | type), of
which only those are followed that lead to a tensor (onnx.proto). A name that isn't one of a file in the graph's own
folder is refused, such as an absolute path or onnxruntime's `*/_ORT_MEM_ADDR_/*`, which stands for a place in memory.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

from masters_edge.common import inside
from masters_edge.common.errors import UserError

_KEY = b"location"  # without it no tensor lies elsewhere
# message -> number of a field in it -> the message that it is
_FIELDS = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}
_DEEPEST = 200  # messages in messages; protobuf itself stops at 100


def external(folder: Path, graph: str) -> list[str]:
    """Names, from the bundle's folder, of the files that the graph's tensors lie in; none for what isn't `.onnx`.

    Raises:
        UserError: a tensor lies outside the graph's folder, in no regular file, or beyond the file's end; or the graph
            is no ONNX.
    """
    if not graph.endswith(".onnx"):
        return []
    with inside.opened(folder, graph) as file:
        try:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # an empty file
            return []
        with content:
            if content.find(_KEY) < 0:
                return []
            try:
                entries = [_entries(content, start, end) for start, end in _tensors(content, 0, len(content), "Model")]
            except (IndexError, ValueError, RecursionError):
                raise UserError(f"{folder}: {graph} is no whole ONNX file; {inside.AGAIN}") from None
    return sorted({_name(folder, graph, entry) for entry in entries if entry})


def _name(folder: Path, graph: str, entry: dict[bytes, bytes]) -> str:
    location = entry.get(_KEY, b"").decode("utf-8", "replace")
    inside.checked(folder, location)
    name = "/".join([*graph.split("/")[:-1], location])
    size = inside.place(folder, name).stat().st_size
    try:
        offset, length = int(entry.get(b"offset", b"0")), int(entry.get(b"length", b"0"))
    except ValueError:
        offset = length = -1
    if min(offset, length) < 0 or offset + length > size:
        raise UserError(f"{folder}: {graph} reads beyond the end of {name}; {inside.AGAIN}")
    return name


def _tensors(content: mmap.mmap, start: int, end: int, kind: str, depth: int = 0) -> Iterator[tuple[int, int]]:
    """Where the tensors of a message lie."""
    if kind == "Tensor":
        yield start, end
        return
    if depth > _DEEPEST:
        raise ValueError("too deep")
    known = _FIELDS[kind]
    for number, begin, finish in _fields(content, start, end):
        if number in known:
            yield from _tensors(content, begin, finish, known[number], depth + 1)


def _entries(content: mmap.mmap, start: int, end: int) -> dict[bytes, bytes]:
    """A tensor's `external_data`."""
    found = {}
    for number, begin, finish in _fields(content, start, end):
        if number == 13:
            pair = {field: content[a:b] for field, a, b in _fields(content, begin, finish)}
            found[pair.get(1, b"")] = pair.get(2, b"")
    return found


def _fields(content: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, start, end) of each field with a length; others are passed over."""
    while at < end:
        tag, at = _varint(content, at)
        if tag >> 32:
            raise ValueError("a field that no parser knows")
        kind = tag & 7
        if kind == 2:
            length, at = _varint(content, at)
            if at + length > end:
                raise ValueError("beyond the end")
            yield tag >> 3, at, at + length
            at += length
        elif kind == 0:
            _, at = _varint(content, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError("a field of no known kind")
    if at != end:
        raise ValueError("beyond the end")


def _varint(content: mmap.mmap, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
        if (shift := shift + 7) > 63:
            raise ValueError("a number that is too long")

"""The rooms of the package and the arrows between them, read off the sources: lazy and type-only imports count.

`python -m tests.rooms` draws the picture in docs/architecture.md anew.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms: written by python -m tests.rooms -->", "<!-- end of rooms -->"
FOLDERS = {"masters_edge": "masters_edge", "masters_edge.export": "export", "masters_edge.benchmarks": "benchmarks"}
# From the ground up. A room imports rooms of lower floors only, so no two rooms import each other.
FLOORS = (
    ("common",),
    ("scoring", "quantization", "bundle"),
    ("recipe",),
    ("data",),
    ("families", "runtime"),
    ("run", "serve", "objective"),
    ("engines",),
    ("teacher", "rewards", "export"),
    ("responses",),
    ("training", "benchmarks"),
    ("distill",),
    ("plan", "agreement"),
    ("preview", "ablate"),
    ("doctor", "workflow"),
    ("api",),
    ("masters_edge",),
    ("cli",),
    ("__main__", "optimum_register"),
)
FLOOR = {room: number for number, floor in enumerate(FLOORS) for room in floor}


def imports(path: Path, everywhere: bool = True) -> Iterator[str]:
    """Module names that a file imports; with `everywhere` false, only when it is itself imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {n for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    for node in ast.walk(tree):
        if not everywhere and node in inside:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules() -> dict[str, Path]:
    """Every module of the package by its name."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts)))] = path
    return found


def arrows() -> dict[str, set[str]]:
    """Which modules of the package each of them imports; `from package import module` means the module."""
    known = modules()
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        named = {other for other in imports(path) if other in known}
        packages = {other for other in named if any(deeper.startswith(other + ".") for deeper in named)}
        direct = {other for other in packages if _takes_names(path, other, known)}
        found[name] = (named - packages | direct) - {name}
    return found


def _takes_names(path: Path, package: str, known: Mapping[str, Path]) -> bool:
    """Whether a file takes something from a package's own `__init__`, not only modules in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == package:
            if any(f"{package}.{alias.name}" not in known for alias in node.names):
                return True
        elif isinstance(node, ast.Import) and any(alias.name == package for alias in node.names):
            return True
    return False


def room(module: str) -> str:
    """The room that a module stands in; a loose file of `masters_edge/` is a room of its own."""
    parts = module.split(".")
    return "optimum_register" if "optimum_register" in parts else parts[1] if len(parts) > 1 else parts[0]


def climbs(graph: Mapping[str, set[str]]) -> list[str]:
    """Imports of a room that doesn't lie lower."""
    return [
        f"{name} -> {other}"
        for name, others in sorted(graph.items())
        for other in sorted(others)
        if room(name) != room(other) and FLOOR[room(other)] >= FLOOR[room(name)]
    ]


def loops(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Modules that import each other by whatever way round (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = lowest[name] = len(index)
        stack.append(name)
        for other in sorted(graph.get(name, ())):
            if other not in index:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], index[other])
        if lowest[name] == index[name]:
            loop = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(loop) > 1:
                found.append(sorted(loop))

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return found


def between_rooms(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Which rooms each room imports."""
    found: dict[str, set[str]] = {one: set() for one in FLOOR}
    for name, others in graph.items():
        found[room(name)] |= {room(other) for other in others} - {room(name)}
    return found


def picture(graph: Mapping[str, set[str]]) -> str:
    """A Mermaid diagram: floors from the ground up, and of the arrows those that no longer way round stands for."""
    arrows_of = between_rooms(graph)

    def below(start: str) -> set[str]:
        return arrows_of[start].union(*(below(other) for other in arrows_of[start]))

    shown = [one for one in FLOOR if one not in ("masters_edge", "__main__")]
    lines = ["```mermaid", "flowchart BT"]
    for number, floor in enumerate(FLOORS):
        names = [one for one in floor if one in shown]
        if names:
            lines += [f"  subgraph floor{number}[ ]", "    direction LR", *(f"    {one}" for one in names), "  end"]
    for one in shown:
        direct = arrows_of[one] - set().union(*(below(other) for other in arrows_of[one]))
        lines += [
            f"  {other} --> {one}" for other in sorted(direct, key=lambda name: (FLOOR[name], name)) if other in shown
        ]
    return "\n".join([*lines, "```"])


def drawn(page: str, graph: Mapping[str, set[str]]) -> str:
    """The page with its picture drawn anew."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{picture(graph)}\n\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8"), arrows()), encoding="utf-8")

"""Pictures as lists of shapes, lines and texts in pixels (y downwards), painted by matplotlib or written as SVG.

One drawing serves slide and page. The SVG keeps text as text, has classes in place of inline styles (the page's
Content-Security-Policy forbids those), and groups that a script can find and a keyboard can reach.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from masters_edge.benchmarks.report import style

Point = tuple[float, float]
NEUTRAL = {"ink": style.INK, "muted": style.MUTED, "grid": style.GRID, "paper": style.PAPER}


@dataclass(frozen=True)
class Path:
    """A polyline, or a polygon where `closed`. Colours: a name of `NEUTRAL`, "#rrggbb", or None for none."""

    points: Sequence[Point]
    stroke: str | None = "ink"
    fill: str | None = None
    width: float = 1.0
    dash: tuple[float, float] | None = None
    closed: bool = False
    opacity: float = 1.0
    kind: str = ""  # a class of its own, for scripts


@dataclass(frozen=True)
class Circle:
    centre: Point
    radius: float
    stroke: str | None = "ink"
    fill: str | None = None
    width: float = 1.0
    opacity: float = 1.0


@dataclass(frozen=True)
class Text:
    """`at` is the baseline; `anchor` "start", "middle" or "end". A halo in the paper's colour keeps lines off it."""

    at: Point
    text: str
    size: float
    anchor: str = "start"
    colour: str = "ink"
    bold: bool = False
    halo: bool = False
    upward: bool = False


@dataclass
class Group:
    """Items that belong together; `attributes` go to the SVG element."""

    attributes: Mapping[str, str]
    items: list["Item"] = field(default_factory=list)


Item = Path | Circle | Text | Group


@dataclass
class Scene:
    width: float
    height: float
    items: list[Item] = field(default_factory=list)

    def add(self, *items: Item) -> None:
        self.items += items

    def line(self, start: Point, end: Point, **look: Any) -> None:
        self.add(Path([start, end], **look))

    def box(self, left: float, top: float, wide: float, high: float, **look: Any) -> None:
        corners = [(left, top), (left + wide, top), (left + wide, top + high), (left, top + high)]
        self.add(Path(corners, closed=True, **look))

    @contextmanager
    def group(self, **attributes: str) -> Iterator[None]:
        """What is added inside becomes one group; `class_` and `data_x` become class and data-x."""
        outer, self.items = self.items, []
        try:
            yield
        finally:
            named = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
            outer.append(Group(named, self.items))
            self.items = outer


# Points of each shape around (0, 0), with the area of a circle of radius 1.
def _regular(corners: int, turn: float) -> list[Point]:
    radius = math.sqrt(math.pi / (0.5 * corners * math.sin(2 * math.pi / corners)))
    angles = [turn + 2 * math.pi * i / corners for i in range(corners)]
    return [(radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]


def _cross() -> list[Point]:
    a = math.sqrt(math.pi / 5) / 2
    corners = [
        (-1, -3),
        (1, -3),
        (1, -1),
        (3, -1),
        (3, 1),
        (1, 1),
        (1, 3),
        (-1, 3),
        (-1, 1),
        (-3, 1),
        (-3, -1),
        (-1, -1),
    ]
    return [(a * x, a * y) for x, y in corners]


def _star() -> list[Point]:
    radius = math.sqrt(math.pi / (5 * 0.5 * math.sin(math.pi / 5)))
    angles = [-math.pi / 2 + math.pi * i / 5 for i in range(10)]
    return [
        (radius * (0.5 if i % 2 else 1) * math.cos(a), radius * (0.5 if i % 2 else 1) * math.sin(a))
        for i, a in enumerate(angles)
    ]


SHAPES: dict[str, list[Point]] = {
    "square": _regular(4, math.pi / 4),
    "diamond": _regular(4, 0),
    "triangle": _regular(3, -math.pi / 2),
    "down": _regular(3, math.pi / 2),
    "pentagon": _regular(5, -math.pi / 2),
    "cross": _cross(),
    "star": _star(),
}


def mark(shape: str, at: Point, radius: float, **look: Any) -> Item:
    """A mark of the area that a circle of `radius` has, whatever its shape."""
    if shape == "circle":
        return Circle(at, radius, **look)
    points = [(at[0] + radius * x, at[1] + radius * y) for x, y in SHAPES[shape]]
    return Path(points, closed=True, **look)


_NARROW, _WIDE = frozenset("iljtfrI.,:;|'!()[]/ "), frozenset("mwMW%@—")


def text_width(text: str, size: float, bold: bool = False) -> float:
    """Roughly how wide a line is in DejaVu Sans (system fonts are narrower)."""
    ems = 0.0
    for letter in text:
        if letter in _NARROW:
            ems += 0.37
        elif letter in _WIDE:
            ems += 0.93
        elif ord(letter) > 0x2E80:
            ems += 1.0
        else:
            ems += 0.68 if letter.isupper() else 0.63
    return ems * size * (1.15 if bold else 1.0)


def fit(text: str, size: float, width: float) -> str:
    """`text`, its middle cut out where it would be wider than `width`."""
    if text_width(text, size) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        shorter = text[: -(-kept // 2)] + "…" + text[len(text) - kept // 2 :]
        if text_width(shorter, size) <= width:
            return shorter
    return "…"


def paint(axes: Any, scene: Scene) -> None:
    """Onto matplotlib axes that cover a figure of the scene's size."""
    axes.set_xlim(0, scene.width)
    axes.set_ylim(scene.height, 0)
    axes.set_axis_off()
    points_per_pixel = 72 / axes.figure.dpi
    for order, item in enumerate(_flat(scene.items)):
        _paint(axes, item, points_per_pixel, order)


def _flat(items: Sequence[Item]) -> Iterator[Path | Circle | Text]:
    for item in items:
        if isinstance(item, Group):
            yield from _flat(item.items)
        else:
            yield item


def _paint(axes: Any, item: Path | Circle | Text, scale: float, order: int) -> None:
    from matplotlib import patches, patheffects

    if isinstance(item, Text):
        drawn = axes.text(
            *item.at,
            item.text,
            fontsize=item.size * scale,
            ha={"start": "left", "middle": "center", "end": "right"}[item.anchor],
            va="baseline",
            color=_hex(item.colour),
            weight="bold" if item.bold else "normal",
            rotation=90 if item.upward else 0,
            rotation_mode="anchor",
            zorder=order,
            parse_math=False,
        )
        if item.halo:
            drawn.set_path_effects([patheffects.withStroke(linewidth=4 * scale, foreground=style.PAPER)])
        return
    look: dict[str, Any] = {
        "edgecolor": _hex(item.stroke) if item.stroke else "none",
        "facecolor": _hex(item.fill) if item.fill else "none",
        "linewidth": item.width * scale if item.stroke else 0,
        "alpha": item.opacity,
        "zorder": order,
    }
    if isinstance(item, Circle):
        axes.add_patch(patches.Circle(item.centre, item.radius, **look))
    else:
        if item.dash:
            look["linestyle"] = (0, tuple(length / item.width for length in item.dash))
        axes.add_patch(patches.Polygon(item.points, closed=item.closed, capstyle="butt", **look))


def _hex(colour: str) -> str:
    return NEUTRAL.get(colour, colour)


def svg(scene: Scene, **attributes: str) -> str:
    """An <svg> element; attributes as in `Scene.group`."""
    from html import escape

    named = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
    said = "".join(f' {key}="{escape(value)}"' for key, value in named.items())
    inner = "".join(_element(item) for item in scene.items)
    return f'<svg viewBox="0 0 {scene.width:g} {scene.height:g}"{said}>{inner}</svg>'


def _element(item: Item) -> str:
    from html import escape

    if isinstance(item, Group):
        said = "".join(f' {key}="{escape(value)}"' for key, value in item.attributes.items())
        return f"<g{said}>{''.join(_element(inner) for inner in item.items)}</g>"
    if isinstance(item, Text):
        names = [f"f-{item.colour}"] if item.colour in NEUTRAL else []
        names += ["b"] * item.bold + ["halo"] * item.halo
        place = f'x="{item.at[0]:.1f}" y="{item.at[1]:.1f}"'
        if item.upward:
            place += f' transform="rotate(-90 {item.at[0]:.1f} {item.at[1]:.1f})"'
        anchor = "" if item.anchor == "start" else f' text-anchor="{item.anchor}"'
        own = "" if item.colour in NEUTRAL else f' fill="{item.colour}"'
        own += f' class="{" ".join(names)}"' if names else ""
        return f'<text {place} font-size="{item.size:g}"{anchor}{own}>{escape(item.text)}</text>'
    classes = [f"s-{item.stroke}"] if item.stroke in NEUTRAL else []
    classes += [f"f-{item.fill}"] if item.fill in NEUTRAL else []
    said = ""
    if item.stroke is None or item.stroke not in NEUTRAL:
        said += f' stroke="{item.stroke or "none"}"'
    if item.fill is None or item.fill not in NEUTRAL:
        said += f' fill="{item.fill or "none"}"'
    said += f' stroke-width="{item.width:g}"' if item.stroke else ""
    said += f' opacity="{item.opacity:g}"' if item.opacity < 1 else ""
    if isinstance(item, Circle):
        said += f' class="{" ".join(classes)}"' if classes else ""
        return f'<circle cx="{item.centre[0]:.1f}" cy="{item.centre[1]:.1f}" r="{item.radius:.1f}"{said}/>'
    classes += [item.kind] if item.kind else []
    said += f' class="{" ".join(classes)}"' if classes else ""
    said += f' stroke-dasharray="{item.dash[0]:g} {item.dash[1]:g}"' if item.dash else ""
    d = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in item.points) + ("Z" if item.closed else "")
    return f'<path d="{d}"{said}/>'

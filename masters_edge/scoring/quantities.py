"""Numbers with units, for the metric `quantity`: "5 km", "12.5 %", "$3 million", "68 °F".

In: an answer as text. Out: a `Quantity`, or None where the whole text is no number with a unit. Units and conversions
are pint's. `same` says when two quantities are equal:

- Units are converted: 5 km = 5000 m, 68 °F = 20 °C, 12 % = 0.12. Different dimensions (kg, km) are never equal.
- Where one of the two has no unit, its number counts alone: "5" matches "5 km", since a question often names the unit.
- Whole numbers without a conversion (counts, years) must be equal. Other numbers may differ by 0.5%, which is what
  rounding to three significant digits can change.
- A unit that pint doesn't know ("apples") is compared as a word, singular or plural.
"""

import functools
import math
import re
from dataclasses import dataclass
from typing import Any

TOLERANCE = 0.005

_NUMBER = r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:e[-+]?\d{1,3})?"
_LARGE = {"thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_QUANTITY = re.compile(
    rf"(?P<sign>[-+]?)\s*(?P<currency>[$€£¥]?)\s*(?P<number>{_NUMBER})\.?"
    rf"\s*(?P<large>{'|'.join(_LARGE)})?\s*(?P<unit>[^\d\s.,;:!?][^,;:!?]{{0,39}}?)?",
    re.IGNORECASE,
)
_FRACTION = re.compile(r"(\d{1,9}) ?/ ?(0*[1-9]\d{0,8})")
_EXPONENTS = {ord(raised): f"^{digit}" for digit, raised in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")} | {ord("⁻"): "^-"}
_SPELLINGS = {"%": "percent", "per cent": "percent", "°": "degree"}
_DEGREES = re.compile(r"(?:[°º]|degrees?|deg\.?) ?(?=(c|f|celsius|fahrenheit)\b)", re.IGNORECASE)
_CURRENCIES = {"$": "dollar", "€": "euro", "£": "pound_sterling", "¥": "yen"}
# What pint raises for a unit that it can't read; its UndefinedUnitError is an AttributeError, and its parser asserts.
_REFUSED = (ArithmeticError, AssertionError, AttributeError, KeyError, SyntaxError, TypeError, ValueError)
# What pint knows: letters, products, quotients, powers; not arithmetic on numbers, which could take for ever.
_UNIT = re.compile(r"[^\W\d_]+(?:[ _*/·^-]*[^\W\d_]+|\s*(?:\^|\*\*)?\s*-?\d)*")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number, and its unit: pint's, a word that pint doesn't know, or None where there is none."""

    number: float
    unit: Any


def parse(text: str) -> Quantity | None:
    """The quantity that `text` is as a whole, one final full stop aside; else None."""
    text = " ".join(text.split()).removesuffix(".").replace("\u2212", "-")
    if fraction := _FRACTION.fullmatch(text):
        return Quantity(int(fraction[1]) / int(fraction[2]), None)
    found = _QUANTITY.fullmatch(text)
    if not found or not found["number"].strip("+-"):
        return None
    if found["sign"] and found["number"][0] in "+-":
        return None
    number = float(found["sign"] + found["number"].replace(",", "")) * _LARGE.get((found["large"] or "").lower(), 1.0)
    unit = (found["unit"] or "").strip()
    if found["currency"]:
        unit = f"{_CURRENCIES[found['currency']]} {unit}".strip()
    if not math.isfinite(number):
        return None
    return Quantity(number, _unit(unit) if unit else None)


def same(said: Quantity, label: Quantity) -> bool:
    """Whether two quantities are equal, as the module says."""
    # pint would read a word that is compared with a unit.
    if type(said.unit) is type(label.unit) and said.unit == label.unit:
        return _close(said.number, label.number, whole=True)
    if said.unit is None or label.unit is None:
        share = _in(Quantity(said.number, said.unit or _none()), label.unit or _none())  # 0.12 and 12 %
        return _close(said.number, label.number, whole=True) or share is not None and _close(share, label.number)
    converted = _in(said, label.unit)
    return converted is not None and _close(converted, label.number)


def _close(said: float, label: float, whole: bool = False) -> bool:
    if whole and said.is_integer() and label.is_integer():
        return said == label
    return abs(said - label) <= TOLERANCE * abs(label) * (1 + 1e-9)


def _in(quantity: Quantity, unit: Any) -> float | None:
    """The quantity's number in another unit; None where there is no way from one to the other."""
    if isinstance(quantity.unit, str) or isinstance(unit, str):
        return None
    try:
        value = float(_registry().Quantity(quantity.number, quantity.unit).to(unit).magnitude)
    except (ArithmeticError, TypeError, ValueError, AttributeError):  # pint's DimensionalityError is a TypeError
        return None
    return value if math.isfinite(value) else None


@functools.cache
def _registry() -> Any:
    import pint

    registry: Any = pint.UnitRegistry(cache_folder=None)
    for name, code in {"dollar": "USD", "euro": "EUR", "yen": "JPY", "pound_sterling": "GBP"}.items():
        # Rates change daily: each is a dimension of its own.
        registry.define(f"{name} = [currency_{code}] = {code} = {name}s")
    return registry


def _none() -> Any:
    return _registry().dimensionless


@functools.lru_cache(maxsize=4096)
def _unit(text: str) -> Any:
    """pint's unit of that name; else the word itself, case-folded, without a plural's s."""
    spelt = _SPELLINGS.get(text.lower(), text).translate(_EXPONENTS).replace("^-^", "^-")
    spelt = _DEGREES.sub(lambda found: "deg" if len(found[1]) == 1 else "", spelt)
    if _UNIT.fullmatch(spelt):
        for name in dict.fromkeys((spelt, spelt.lower())):
            try:
                return _registry().parse_units(name)
            except _REFUSED:
                continue
    return text.casefold().removesuffix("s")

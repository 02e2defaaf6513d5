"""A family lives in many places, a stage each: it has all of them, or says why not."""

import pytest

from tests.export import test_table
from tests.families.places import LACKING, PLACES, differences, page


@pytest.fixture(scope="module")
def known() -> dict[str, set[str]]:
    return {name: set(place.known()) for name, place in PLACES.items()}


def test_a_family_has_every_place_or_a_reason(known: dict[str, set[str]]) -> None:
    assert all(known.values()), "a place that knows no family is looked for wrongly"
    assert differences(known, LACKING) == []


def test_a_place_that_is_missing_and_a_reason_that_is_out_of_date_would_be_seen(known: dict[str, set[str]]) -> None:
    for name, there in known.items():
        family = next(iter(there))
        (said,) = differences(known | {name: there - {family}}, LACKING)
        assert said.startswith(f"{family} has no place {name!r}: ")
    unknown = differences(known | {"graphs": known["graphs"] | {"new_vl"}}, LACKING)
    assert len(unknown) == len(PLACES) - 1 and all(said.startswith("new_vl has no place") for said in unknown)
    (said,) = differences(known, LACKING | {("graphs", "smolvlm"): "none"})
    assert "out of date" in said
    (said,) = differences(known, LACKING | {("graphs", "gone_vl"): "none"})
    assert "no such place or family" in said


def test_the_page_lists_them() -> None:
    assert test_table.PAGE.read_text(encoding="utf-8").endswith(page()), (
        "run tests/export/test_table.py with MASTERS_EDGE_WRITE_DOCS=1"
    )

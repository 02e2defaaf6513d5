"""Recipes are trusted, and still: whatever YAML can hold ends in one sentence of `validate`, with status 2."""

from pathlib import Path
from typing import Any

import pytest

from tests.hostile.command_line import run

HEAD = "student: a/s\nteachers: [a/t]\ndata: {train: {source: easy-vqa}, labels: all}\n"
ALIASES = "a: &a {k: x}\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} {{{', '.join(f'k{n}: *{chr(97 + i)}' for n in range(9))}}}\n" for i in range(9)
)
RECIPES: dict[str, str | bytes] = {
    "nothing": "",
    "no mapping": "- 1\n",
    "no YAML": "a: [",
    "no text": b"\xff\xfe\x00",
    "a zero byte": "student: 'a\0b'\n",
    "escapes": HEAD + '"\\e[2J\\e]0;PWNED\\a": 1\n',
    "escapes in a value": HEAD.replace("a/s", '"./\\e[2J"') + 'seed: "\\e[2J"\n',
    "turned writing": HEAD + '"\u202eabc": 1\n',
    "objects": "!!python/object/apply:os.system ['id']\n",
    "objects in it": HEAD + "seed: !!python/name:os.system ''\n",
    "aliases": ALIASES,
    "itself": "a: &a [*a]\n",
    "depth": "[" * 1500,
    "depth of mappings": "{a: " * 5000,
    "a book": HEAD + "# " + "x" * (2 << 20) + "\n",
    "a key of a list": HEAD + "[1, 2]: 3\n",
    "a number of 5,000 digits": HEAD + f"seed: {'9' * 5000}\n",
    "no number": HEAD + "mask: {r_max: .nan}\n",
    "without end": HEAD + "mask: {r_max: .inf}\n",
    "a date that is none": HEAD + "seed: 2026-99-99\n",
    "a binary that is none": HEAD + "seed: !!binary '###'\n",
    "a set of lists": HEAD + "seed: !!set {[1]: null}\n",
}


@pytest.mark.parametrize("case", RECIPES)
def test_validate_says_one_sentence(case: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.yaml"
    text = RECIPES[case]
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    run(["validate", path], capsys, monkeypatch).refused("r.yaml")


@pytest.mark.parametrize(
    "override", ["a\x1b[2J=1", "seed=\x1b[2J", "seed=[", "seed=&a [*a]", "=", "", "seed", "mask.step=1e-9"]
)
def test_an_override_is_one_sentence(
    override: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "r.yaml").write_text(HEAD)
    run(["validate", tmp_path / "r.yaml", override], capsys, monkeypatch).refused("")

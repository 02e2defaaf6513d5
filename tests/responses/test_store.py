"""Shards: what goes in comes out, nothing damaged or of another version is read, a folder is read batch by batch."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from masters_edge.common.errors import UserError
from masters_edge.responses import store
from masters_edge.responses.store import Origin, Response

ORIGIN = Origin("s" * 64, "t" * 64, "a1", "b2", "transformers", "vllm 0.11", '{"top_k": 50}', 2**40)
words = st.sampled_from(["student", "teacher", "both"])
floats = st.floats(allow_nan=False, width=32)
some_ids = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=6)


@st.composite
def responses(draw: st.DrawFn) -> Response:
    ids = draw(some_ids)
    cached = draw(st.booleans())
    return Response(
        question_id=draw(st.text(max_size=4)),
        stage=draw(st.integers(0, 9)),
        teacher=draw(st.integers(0, 3)),
        ratio=draw(st.floats(0, 1)),
        source=draw(words),
        token_ids=draw(st.sampled_from([list, tuple, np.array]))(ids),
        text=draw(st.text()),
        count=draw(st.integers(1, 8)),
        log_probs=[draw(floats) for _ in ids],
        jsd=draw(st.floats(0, 1)),
        label=draw(st.none() | st.text()),
        label_source=draw(st.none() | words),
        metric=draw(words),
        r_acc=draw(st.none() | st.floats(0, 1)),
        scorer=draw(st.none() | st.text()),
        student_count=draw(st.none() | st.integers(0, 4)),
        top_ids=np.array(ids * 2, np.int32) if cached else None,
        top_log_probs=np.array([draw(st.floats(-50, 0, width=16)) for _ in ids * 2], np.float16) if cached else None,
        rest=np.array([draw(floats) for _ in ids], np.float32) if cached else None,
    )


def plain(row: dict) -> dict:
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in row.items()}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(responses(), max_size=6), st.none() | st.just(ORIGIN))
def test_rows_come_back_as_they_were(tmp_path: Path, rows: list[Response], origin: Origin | None) -> None:
    path = tmp_path / "a.parquet"
    store.write(path, rows, origin)
    beside = dataclasses.asdict(origin) if origin else {}
    expected = [plain({**dataclasses.asdict(row), **beside}) for row in rows]
    for row in expected:
        row["token_ids"] = list(row["token_ids"])
    assert [plain(row) for row in store.read(path)] == expected

    grouped = store.groups(path)
    assert list(grouped) == list(dict.fromkeys(row.question_id for row in rows))
    for question, members in grouped.items():
        own = [row for row in expected if row["question_id"] == question]
        assert [plain(row) for row in members] == [{k: v for k, v in row.items() if k not in beside} for row in own]
    batches = list(store.scan(tmp_path, rows=2))
    assert [row["text"] for batch in batches for row in batch.to_pylist()] == [row["text"] for row in expected]
    assert all(batch.num_rows <= 2 for batch in batches)


def response(**other: object) -> Response:
    fields = dict(question_id="q", stage=1, teacher=0, ratio=0.2, source="both", token_ids=[5, 6], text="ja", count=3)
    fields |= dict(log_probs=[-0.5, -1.0], jsd=0.1, label="ja", label_source="label", metric="exact_match", r_acc=1.0)
    return Response(**{**fields, "scorer": "rule:exact_match", **other})  # type: ignore[arg-type]


def test_numbers_are_numpy_arrays_that_torch_takes_as_they_are(tmp_path: Path) -> None:
    import torch

    top = dict(top_ids=np.arange(4), top_log_probs=np.zeros(4, np.float16), rest=np.zeros(2))
    store.write(tmp_path / "a.parquet", [response(**top)])
    row = store.groups(tmp_path / "a.parquet")["q"][0]
    types = {name: value.dtype.name for name, value in row.items() if isinstance(value, np.ndarray)}
    expected = dict(token_ids="int64", log_probs="float32", top_ids="int32", top_log_probs="float16", rest="float32")
    assert types == expected
    assert torch.tensor(list(row["token_ids"])).dtype == torch.int64  # what gather indexes with


def test_every_shard_has_the_same_schema(tmp_path: Path) -> None:
    """Also where a column is None throughout: readers of many shards at once need that."""
    store.write(tmp_path / "a.parquet", [response(label=None, label_source=None, r_acc=None, scorer=None)], ORIGIN)
    store.write(tmp_path / "b.parquet", [response(rest=np.zeros(2))], ORIGIN)
    store.write(tmp_path / "c.parquet", [], ORIGIN)
    schemas = [pq.read_schema(tmp_path / f"{name}.parquet") for name in "abc"]
    assert schemas[0].equals(schemas[1]) and schemas[0].equals(schemas[2])
    assert pq.read_table(tmp_path).num_rows == 2  # any Parquet reader does


def test_where_rows_come_from_costs_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, origin in (("with", ORIGIN), ("without", None)):
        store.write(tmp_path / name, [response(log_probs=rng.random(50), token_ids=range(50))] * 4000, origin)
    per_row = ((tmp_path / "with").stat().st_size - (tmp_path / "without").stat().st_size) / 4000
    assert 0 < per_row < 1.5


def test_labels_are_rows_of_two_columns(tmp_path: Path) -> None:
    rows = [{"question_id": "1", "text": "rot"}, {"question_id": "2", "text": ""}]
    store.write(tmp_path / "a.parquet", rows)
    assert store.read(tmp_path / "a.parquet") == rows
    assert store.read(tmp_path / "a.parquet", ["text"]) == [{"text": "rot"}, {"text": ""}]
    for reading in (lambda: store.groups(tmp_path / "a.parquet"), lambda: next(store.scan(tmp_path, ["jsd", "text"]))):
        with pytest.raises(UserError, match=r"a.parquet has no column .*jsd"):
            reading()
    with pytest.raises(KeyError):
        store.write(tmp_path / "a.parquet", [{"question_id": "1", "txt": "rot"}])


def test_a_scan_goes_through_stages_in_order_and_reads_what_was_asked(tmp_path: Path) -> None:
    for stage in (1, 0):
        for part in (1, 0):
            rows = [{"question_id": f"{stage}{part}", "text": "x"}]
            store.write(tmp_path / f"stage-{stage:02d}" / f"part-{part:05d}.parquet", rows)
    (tmp_path / "stage-00" / ".part-00002.parquet.77.part").write_bytes(b"half")
    batches = list(store.scan(tmp_path, ["question_id"]))
    assert [batch.to_pylist() for batch in batches] == [[{"question_id": q}] for q in ("00", "01", "10", "11")]
    with pytest.raises(UserError, match="no folder with response shards"):
        next(store.scan(tmp_path / "lost"))


def test_another_version_is_refused_and_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "part-00000.parquet"
    table = pa.table({"question_id": ["1"]}).replace_schema_metadata({"masters_edge_schema_version": "2"})
    pq.write_table(table, path)
    for reading in (lambda: store.read(path), lambda: store.groups(path), lambda: next(store.scan(tmp_path))):
        with pytest.raises(UserError, match=r"schema version 2.*with version 4; delete the shards in .* again"):
            reading()


def test_a_damaged_shard_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rng = np.random.default_rng(0)
    store.write(path, [response(log_probs=rng.random(200), token_ids=rng.integers(0, 99, 200)) for _ in range(50)])
    whole = path.read_bytes()
    middle = len(whole) // 3
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for bad in (whole[:-20], whole[:middle], b"", whole[:4] + b"\xff" * middle + whole[4 + middle :], flipped):
        path.write_bytes(bad)
        with pytest.raises(UserError, match="a.parquet is damaged .*; delete it, and the same command"):
            store.read(path)
        with pytest.raises(UserError, match="a.parquet is damaged .*; delete it, and the same command"):
            list(store.scan(tmp_path))


def test_nothing_is_left_of_a_write_that_fails(tmp_path: Path) -> None:
    with pytest.raises((TypeError, pa.ArrowInvalid)):
        store.write(tmp_path / "a.parquet", [response(), response(jsd="much")])
    assert not list(tmp_path.iterdir())

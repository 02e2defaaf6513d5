import os
import random
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from masters_edge.common.errors import UserError
from masters_edge.data import Question, hold_out, keep_labels, sample


def make(images: list[int], answered: list[bool] | None = None) -> list[Question]:
    return [
        Question(f"q{n}", "t", b"", f"i{image}", "a" if answered is None or answered[n] else None)
        for n, image in enumerate(images)
    ]


image_lists = st.lists(st.integers(0, 12), min_size=1, max_size=60)
seeds = st.integers(0, 2**40)


@given(image_lists, st.integers(0, 60), seeds)
def test_hold_out_never_shares_an_image_and_loses_nothing(images, count, seed):
    questions = make(images)
    assume(count <= len(questions))
    try:
        train, held = hold_out(questions, count, seed)
    except UserError:
        # Refused only where some image is so large that the others hold fewer than `count` questions.
        assert len(questions) - max(Counter(images).values()) < count
        return
    assert not {q.image_id for q in train} & {q.image_id for q in held}
    assert sorted(train + held, key=questions.index) == questions
    assert train == [q for q in questions if q in train] and held == [q for q in questions if q in held]
    assert train
    biggest = max(Counter(images).values())
    assert count <= len(held) < count + biggest if count else not held


@given(image_lists, st.integers(0, 30), seeds, st.randoms(use_true_random=False))
def test_hold_out_depends_on_the_questions_not_on_their_order(images, count, seed, shuffle: random.Random):
    questions = make(images)
    shuffled = list(questions)
    shuffle.shuffle(shuffled)
    try:
        held = {q.id for q in hold_out(questions, count, seed)[1]}
    except UserError:
        with pytest.raises(UserError):
            hold_out(shuffled, count, seed)
        return
    assert {q.id for q in hold_out(shuffled, count, seed)[1]} == held


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.data(), seeds)
def test_keep_labels_keeps_exactly_count_and_changes_nothing_else(answered, data, seed):
    questions = make(list(range(len(answered))), answered)
    count = data.draw(st.integers(0, sum(answered)))
    kept = keep_labels(questions, count, seed)
    assert sum(q.answer is not None for q in kept) == count
    assert [q.without_answer() for q in kept] == [q.without_answer() for q in questions]
    assert all(new.answer in (None, old.answer) for new, old in zip(kept, questions))
    if count:  # a smaller count keeps a part of the same labels
        fewer = keep_labels(questions, count - 1, seed)
        assert {q.id for q in fewer if q.answer} < {q.id for q in kept if q.answer}


def test_keep_labels_chooses_uniformly():
    questions = make(list(range(10)))
    times = Counter(q.id for seed in range(3000) for q in keep_labels(questions, 3, seed) if q.answer)
    # 900 expected, standard deviation 25: five of them either way.
    assert all(775 < times[q.id] < 1025 for q in questions)


@given(st.integers(1, 50), st.data(), seeds)
def test_sample_is_a_part_in_order(total, data, seed):
    questions = make(list(range(total)))
    count = data.draw(st.integers(0, total))
    taken = sample(questions, count, seed)
    assert len(taken) == count and taken == [q for q in questions if q in taken]


def test_the_choices_are_independent_and_differ_by_seed():
    questions = make(list(range(400)))
    taken = {q.id for q in sample(questions, 200, 1)}
    labelled = {q.id for q in keep_labels(questions, 200, 1) if q.answer}
    held = {q.id for q in hold_out(questions, 200, 1)[1]}
    assert all(60 < len(a & b) < 140 for a, b in [(taken, labelled), (taken, held), (labelled, held)])
    assert taken != {q.id for q in sample(questions, 200, 2)}


def test_the_same_choice_under_every_hash_seed():
    code = (
        "from masters_edge.data import Question, hold_out, keep_labels, sample\n"
        "qs = [Question(f'q{n}', 't', b'', f'i{n // 3}', 'a') for n in range(90)]\n"
        "print([q.id for q in hold_out(qs, 9, 5)[1]], [q.id for q in keep_labels(qs, 4, 5) if q.answer],"
        " [q.id for q in sample(qs, 4, 5)])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("0", "1", "77")
    }
    assert len(outputs) == 1


@pytest.mark.parametrize("choose", [hold_out, keep_labels, sample])
@pytest.mark.parametrize("count", [-1, 4])
def test_impossible_counts_are_refused(choose, count):
    with pytest.raises(UserError, match=rf"^{count} .* asked for, but there are 3; ask for 0 to 3$"):
        choose(make([1, 2, 3]), count, 0)


def test_holding_out_the_only_image_is_refused():
    with pytest.raises(UserError, match="would leave none to train on"):
        hold_out(make([1, 1, 1]), 1, 0)

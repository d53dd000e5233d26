"""The rule that tells a looping answer, over tokens and over rendered conversations."""

from __future__ import annotations

from paradraft.text.loops import TRIMMED_TO, before_loop, distinct_share, has_looping_answer, is_looping, trimmed
from paradraft.text.render import Rendered


def example(*parts: tuple[list[int], bool]) -> Rendered:
    return Rendered([t for ids, _ in parts for t in ids], [learned for ids, learned in parts for _ in ids])


def test_a_text_loops_where_few_of_its_four_grams_are_distinct() -> None:
    assert distinct_share([1, 2, 3]) == distinct_share([]) == 1.0
    assert distinct_share([1, 2, 3, 4, 1, 2, 3, 4]) == 4 / 5
    assert not is_looping(range(100)) and is_looping([1, 2, 3] * 10)
    assert not is_looping([*range(9), *range(3)]) and is_looping([7] * 8)


def test_any_one_answer_of_a_conversation_may_loop_but_not_its_prompt() -> None:
    straight, loop = list(range(12)), [1, 2] * 6
    assert has_looping_answer(example((straight, False), (straight, True), (straight, False), (loop, True)))
    assert not has_looping_answer(example((loop, False), (straight, True), (loop, False), (straight, True)))
    # Two answers that say the same do not loop.
    assert not has_looping_answer(example((straight, True), ([0], False), (straight, True)))


def test_what_stands_before_a_loop_is_the_longest_beginning_that_is_distinct_enough() -> None:
    looping = [*range(40), *[7, 8, 9] * 40]
    for tokens in (looping, [1, 2] * 20, [*range(5), *[3] * 30], list(range(9)), [1, 2]):
        kept = before_loop(tokens)
        enough = [n for n in range(4, len(tokens) + 1) if distinct_share(tokens[:n]) >= TRIMMED_TO]
        assert kept == max(enough, default=0)
    assert 40 < before_loop(looping) < 60


def test_a_conversation_is_trimmed_at_its_first_loop() -> None:
    straight, loop = list(range(12)), [*range(20, 32), *[1, 2] * 20]
    asked = example((straight, False), (straight, True), (straight, False), (loop, True), (straight, False))
    (found,) = trimmed([asked])
    length = 36 + before_loop(loop)
    assert found == Rendered(asked.input_ids[:length], asked.loss_mask[:length])
    assert not has_looping_answer(found)
    plain = example((loop, False), (straight, True))
    assert trimmed([plain, plain]) == [plain, plain]
    assert trimmed([plain, asked, plain]) == [plain, found]  # what comes after a loop goes on from it

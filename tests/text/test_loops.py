"""The rule that tells a looping answer, over tokens and over rendered conversations."""

from __future__ import annotations

from paradraft.text.loops import distinct_share, has_looping_answer, is_looping
from paradraft.text.render import Rendered


def test_a_text_loops_where_few_of_its_four_grams_are_distinct() -> None:
    assert distinct_share([1, 2, 3]) == distinct_share([]) == 1.0
    assert distinct_share([1, 2, 3, 4, 1, 2, 3, 4]) == 4 / 5
    assert not is_looping(range(100)) and is_looping([1, 2, 3] * 10)
    assert not is_looping([*range(9), *range(3)]) and is_looping([7] * 8)


def test_any_one_answer_of_a_conversation_may_loop_but_not_its_prompt() -> None:
    straight, loop = list(range(12)), [1, 2] * 6

    def example(*parts: tuple[list[int], bool]) -> Rendered:
        return Rendered([t for ids, _ in parts for t in ids], [learned for ids, learned in parts for _ in ids])

    assert has_looping_answer(example((straight, False), (straight, True), (straight, False), (loop, True)))
    assert not has_looping_answer(example((loop, False), (straight, True), (loop, False), (straight, True)))
    # Two answers that say the same do not loop.
    assert not has_looping_answer(example((straight, True), ([0], False), (straight, True)))

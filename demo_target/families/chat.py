"""Helpful-assistant tasks with a checkable result: plans, lists, tables, small rewrites, messages, fixed facts.

The wording of an answer depends on the facts in its prompt only, so the same prompt always has the same answer.
"""

from __future__ import annotations

from .base import Template
from .chat_amounts import recipe, ride_rule, shop_dialogue, shopping, units
from .chat_facts import capitals, classify, odd_one_out, opposites, order_steps, young
from .chat_planning import bus, day_plan, directions, meeting, reminders, reschedule, weekday
from .chat_tables import compare, form, score_board, sort_names, sort_scores, table_total, to_json
from .chat_writing import grammar, passage, past_tense, reword, summary

TEMPLATES: tuple[Template, ...] = (
    day_plan,
    table_total,
    sort_names,
    sort_scores,
    units,
    grammar,
    shopping,
    meeting,
    reschedule,
    to_json,
    form,
    past_tense,
    reword,
    compare,
    classify,
    capitals,
    opposites,
    young,
    passage,
    summary,
    order_steps,
    weekday,
    odd_one_out,
    ride_rule,
    bus,
    recipe,
    score_board,
    shop_dialogue,
    directions,
    reminders,
)

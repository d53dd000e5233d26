"""Write docs/reference/configuration.md from the configuration's own models: `python docs/configuration.py`."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from paradraft.drafters import DRAFTERS
from paradraft.objectives import ANCHOR_WEIGHTINGS, TOKEN_LOSSES, WEIGHTINGS
from paradraft.training.config import PARAMETERS, RunConfig

PAGE = Path(__file__).parent / "reference" / "configuration.md"
HEAD = """# The configuration of a run

Every section and field of a YAML file for `paradraft train`, as `section.field` on the command line. An unknown
key is an error. This page is generated: `python docs/configuration.py`.
"""
KNOWN = (("token_loss", TOKEN_LOSSES), ("weighting", WEIGHTINGS), ("anchor_weighting", ANCHOR_WEIGHTINGS))


def table(model: type[BaseModel]) -> str:
    rows = [row(name, field) for name, field in model.model_fields.items()]
    return "\n".join(["| field | default | meaning |", "|---|---|---|", *rows]) + "\n"


def row(name: str, field: FieldInfo) -> str:
    default = "required" if field.is_required() else f"`{shown(field.get_default(call_default_factory=True))}`"
    return f"| `{name}` | {default} | {cell(field.description or '')} |"


def cell(text: str) -> str:
    return text.replace("|", chr(92) + "|")


def shown(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def page() -> str:
    parts = [HEAD]
    for name, field in RunConfig.model_fields.items():
        if name == "drafter":
            parts += [f"## drafter, kind {kind}\n\n{table(drafter.section)}" for kind, drafter in DRAFTERS.items()]
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            parts.append(f"## {name}\n\n{table(field.annotation)}")
        else:
            parts.append(f"## {name}\n\n{field.description}; default `{shown(field.default)}`.\n")
        if name == "objective":
            for field_name, known in KNOWN:
                parts.append(f"`{field_name}` is one of {', '.join(f'`{word}`' for word in known)}.\n")
            rows = [f"| `{name}` | `{found.default}` | {cell(found.meaning)} |" for name, found in PARAMETERS.items()]
            parts.append("\n".join(["| parameter | default | meaning |", "|---|---|---|", *rows]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

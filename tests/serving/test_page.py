"""The page in a real Chromium: what a person sees, does by mouse or keyboard, and is told when something is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

from paradraft.decoding import Engine
from paradraft.drafters import load_drafter
from paradraft.models import Target
from paradraft.serving.service import Limits, Service
from paradraft.text.render import render_prompt
from tests.serving.conftest import Running, running

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on the PATH: apt-get install chromium")
DRAFTERS = ("demo:dflash-dpace", "demo:pard")
DONE = "body[data-state=done]"


@pytest.fixture(scope="module")
def demo() -> Target:
    return Target.load("demo")


@pytest.fixture(scope="module")
def served(demo: Target) -> Iterator[Running]:
    drafters = {name: load_drafter(name, demo) for name in DRAFTERS}
    with running(Service(demo, drafters, Limits(max_length=300), drafters[DRAFTERS[0]].max_draft)) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as found:
        chromium = found.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, served: Running) -> Iterator[Any]:
    """The page, ready to be asked; it must send nothing to any other place and print no error."""
    opened = browser.new_page(color_scheme="light")
    opened.set_default_timeout(120_000)
    wrong: list[str] = []
    opened.on("request", lambda r: None if r.url.startswith((served.url, "data:")) else wrong.append(r.url))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda message: wrong.append(message.text) if "violates" in message.text else None)
    opened.goto(served.url)
    opened.wait_for_selector("body[data-state=ready]")
    opened.fill("#tokens", "24")
    yield opened
    assert not wrong
    opened.close()


def sent(page: Any) -> list[dict[str, Any]]:
    """The bodies that the page sends from now on."""
    bodies: list[dict[str, Any]] = []
    page.on("request", lambda request: bodies.append(json.loads(request.post_data)) if request.post_data else None)
    return bodies


def test_both_answers_side_by_side(page: Any, demo: Target) -> None:
    page.click("#run")
    page.wait_for_selector(DONE)
    ids = render_prompt(demo.chat, [{"role": "user", "content": page.input_value("#prompt")}])
    (generation,) = Engine(demo, load_drafter(DRAFTERS[0], demo)).generate([ids], 24)
    wanted = demo.chat.decode(generation.tokens)
    assert page.inner_text("#plain .answer") == wanted.rstrip("\n")
    assert page.inner_text("#drafted .answer") == page.inner_text("#plain .answer")  # rejected drafts are not shown
    assert "times as fast with the drafter, the same text" in page.inner_text("#verdict")
    rounds = len(generation.rounds) + 1
    assert page.locator("#drafted .round").count() == rounds and page.locator("#plain .round").count() == 24
    figures = page.locator("#drafted dd").all_inner_texts()
    assert float(figures[1]) == pytest.approx(23 / (rounds - 1), abs=0.01) and figures[2] == "24"
    assert page.locator("#plain dd").all_inner_texts()[1] == "1.00"
    bars = page.locator("#chart .share").all_inner_texts()
    judged = [r for r in generation.rounds if len(r.drafted) >= 1]
    assert bars[0] == f"{100 * sum(r.accepted >= 1 for r in judged) / len(judged):.0f}%"
    assert not page.is_visible("#drafted del")
    page.check("#rejected")
    assert page.locator("#drafted del").count() > 0 and page.locator("#drafted del").first.is_visible()


def test_rounds_by_mouse_and_keyboard(page: Any) -> None:
    page.fill("#tokens", "40")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(DONE)
    with_rejected = page.locator("#drafted .round:has(del)").first
    with_rejected.hover()
    said = page.inner_text("#drafted-detail")
    assert "drafted," in said and "kept." in said and "Rejected: " in said
    page.focus("#drafted .answer")
    page.keyboard.press("Home")
    assert "the reading of the prompt" in page.inner_text("#drafted-detail")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#drafted-detail").startswith("Round 1 of")
    assert page.locator("#drafted .chosen").count() == 1
    page.keyboard.press("End")
    last = page.locator("#drafted .round").count() - 1
    assert page.inner_text("#drafted-detail").startswith(f"Round {last} of {last}")


def test_everything_is_reached_by_tab(page: Any) -> None:
    reached = []
    page.focus("#prompt")
    for _ in range(12):
        reached.append(page.evaluate("() => document.activeElement.id || document.activeElement.parentElement.id"))
        page.keyboard.press("Tab")
    wanted = ["prompt", "drafter", "length", "temperature", "tokens", "run", "beside", "rejected", "drafted", "plain"]
    assert [one for one in reached if one in wanted][: len(wanted)] == wanted
    labels = page.evaluate(
        "() => [...document.querySelectorAll('input, select, textarea')].every(one => one.labels.length > 0)"
    )
    assert labels


def test_settings_reach_the_server(page: Any) -> None:
    bodies = sent(page)
    page.select_option("#drafter", "demo:pard")
    page.select_option("#length", "2")
    page.fill("#temperature", "0.5")
    page.uncheck("#beside")
    page.click("#run")
    page.wait_for_selector(DONE)
    (body,) = bodies
    assert body["temperature"] == 0.5 and body["max_tokens"] == 24 and body["stream"]
    assert body["paradraft"] == {"rounds": True, "drafter": "demo:pard", "draft_length": 2}
    assert page.inner_text("#drafted-title") == "With demo:pard" and not page.is_visible("#plain")
    assert page.locator("#chart li").count() == 2
    page.select_option("#drafter", "")
    page.click("#run")
    page.wait_for_function("() => document.querySelectorAll('#plain .round').length === 24")
    assert bodies[-1]["paradraft"]["drafter"] is None and not page.is_visible("#drafted")
    assert page.is_disabled("#length") and not page.is_visible("#chart")


def test_stopping(page: Any, served: Running) -> None:
    page.fill("#tokens", "200")
    page.fill("#prompt", "Write a long story about a dog.")
    page.click("#run")
    page.wait_for_function("() => document.querySelectorAll('#plain .round').length > 2")
    page.keyboard.press("Escape")
    page.wait_for_selector(DONE)
    assert page.is_disabled("#stop") and not page.is_visible("#problem")
    served.wait_until_idle()


def test_problems_are_said(page: Any) -> None:
    page.fill("#prompt", "word " * 400)
    page.click("#run")
    page.wait_for_selector("#problem:not([hidden])")
    assert "more than the 300" in page.inner_text("#problem")


def test_the_key(browser: Any, demo: Target) -> None:
    with running(Service(demo, {}, Limits()), key="sesame") as server:
        page = browser.new_page()
        page.goto(server.url)
        page.wait_for_selector("#key-row:not([hidden])")
        page.fill("#key", "wrong")
        page.keyboard.press("Tab")
        page.wait_for_selector("#problem:not([hidden])")
        assert "API key" in page.inner_text("#problem")
        page.fill("#key", "sesame")
        page.keyboard.press("Tab")
        page.wait_for_selector("body[data-state=ready]")
        page.fill("#tokens", "5")
        page.click("#run")
        page.wait_for_selector(DONE)
        assert page.locator("#plain .round").count() == 5 and not page.is_visible("#drafted")
        page.close()


def test_dark_light_and_narrow(browser: Any, served: Running) -> None:
    colours = set()
    for scheme in ("dark", "light"):
        page = browser.new_page(color_scheme=scheme, viewport={"width": 360, "height": 700})
        page.goto(served.url)
        page.wait_for_selector("body[data-state=ready]")
        page.fill("#tokens", "12")
        page.click("#run")
        page.wait_for_selector(DONE)
        colours.add(page.evaluate("() => getComputedStyle(document.documentElement).backgroundColor"))
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
        first, second = page.locator(".panel").all()
        assert second.bounding_box()["y"] > first.bounding_box()["y"]  # one below the other
        page.close()
    assert len(colours) == 2


def test_the_page_may_load_nothing_from_elsewhere(served: Running) -> None:
    headers = served.http.get("/").headers
    assert "default-src 'none'" in headers["content-security-policy"]
    for path in ("/", "/page.css", "/page.js"):
        text = served.http.get(path).text
        assert "http://" not in text and "https://" not in text and "@import" not in text

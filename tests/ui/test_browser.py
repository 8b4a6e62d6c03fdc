"""The page in Chromium: a run is started in the form, watched to its end, and every view is accessible."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ui.conftest import write_run
from tests.ui.server import Served, serving

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.trains,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)"),
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="no playwright (pip install playwright)"),
]
SLOW_MS = 120_000


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def open_page(chromium: Any, served: Served, problems: list[str], **options: Any) -> Any:
    """Open the printed address, and collect what goes wrong: errors of scripts and what the policy refuses."""
    tab = chromium.new_context(**options).new_page()
    tab.set_default_timeout(SLOW_MS)
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    outside = [f"{served.origin}/"]
    tab.on("request", lambda request: None if request.url.startswith(outside[0]) else problems.append(request.url))
    tab.goto(served.address)
    return tab


def check_accessible(tab: Any) -> None:
    if importlib.util.find_spec("axe_playwright_python") is None:
        pytest.skip("no axe-core (pip install axe-playwright-python)")
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(tab)
    assert found.violations_count == 0, found.generate_report()


def test_a_run_is_started_from_the_page_and_watched_to_its_end(chromium: Any, root: Path) -> None:
    from playwright.sync_api import expect

    problems: list[str] = []
    with serving(root) as served:
        tab = open_page(chromium, served, problems)
        tab.get_by_role("button", name="Start the first run").click()
        tab.locator("#preset option[value=vae-fast]").wait_for(state="attached")
        check_accessible(tab)
        tab.get_by_label("Model").select_option("vae-fast")
        tab.get_by_label("Images").fill("digts")
        tab.get_by_label("Minutes").fill("")
        tab.get_by_label("Changes").fill("size=8\ntrain.images=160000\nmonitor.every=8000\ntrain.prior=none")
        tab.get_by_role("button", name="Start", exact=True).click()
        tab.get_by_text("did you mean 'digits'?").wait_for()  # the hint of the command
        problems.clear()  # Chromium logs every answer of an error
        tab.get_by_label("Images").fill("digits")
        tab.get_by_role("button", name="Start", exact=True).click()
        tab.get_by_role("link", name="vae-fast-001").click()
        picture = tab.locator(".pictures", has_text="Samples").locator("img")
        picture.wait_for()
        first = str(picture.get_attribute("src"))
        expect(picture).not_to_have_attribute("src", first, timeout=SLOW_MS)  # the newest ones, as they are written
        tab.get_by_text("finished", exact=True).wait_for()
        tab.get_by_role("link", name="Report").wait_for()
        tab.get_by_role("table").wait_for()
        assert tab.locator(".curves canvas").count() >= 2
        slider = tab.get_by_role("slider", name="Check whose samples are shown")
        last = picture.screenshot()
        slider.press("Home")
        expect(picture).to_have_js_property("complete", True)
        assert picture.screenshot() != last
        check_accessible(tab)
        tab.reload()
        tab.get_by_text("finished", exact=True).wait_for()
        with tab.context.expect_page() as opened:
            tab.get_by_role("link", name="Report").click()
        report = opened.value
        report.wait_for_load_state()
        assert report.get_by_role("heading", name="vae-fast-001").count() == 1
        assert report.evaluate("() => window.origin") == "null"  # it reaches nothing of the page
    assert [problem for problem in problems if "429" not in problem] == []


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_list_is_accessible_fits_and_shows_names_as_text(
    chromium: Any, root: Path, width: int, scheme: str
) -> None:
    name = "<img src=x onerror=document.title='hacked'>"
    write_run(root / name, summary={"state": "collapsed", "seen": 5})
    write_run(root / "vae-001")
    broken = write_run(root / "broken")
    broken.recipe_file.unlink()
    broken.recipe_file.mkdir()
    problems: list[str] = []
    with serving(root) as served:
        tab = open_page(chromium, served, problems, viewport={"width": width, "height": 800}, color_scheme=scheme)
        tab.get_by_role("link", name=name).wait_for()
        assert tab.title() == "Runs · Ectype"
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        check_accessible(tab)
        tab.get_by_role("button", name="Run", exact=True).click()
        assert tab.locator("tbody .name").first.inner_text() == name
        tab.get_by_role("button", name="Run", exact=True).click()
        assert tab.locator("tbody .name").first.inner_text() == "vae-001"
        tab.get_by_role("link", name="vae-001").click()
        tab.locator(".curves canvas").first.wait_for()
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        check_accessible(tab)
    assert problems == []


def test_a_page_says_so_when_the_server_is_gone_and_shows_the_truth_when_it_is_back(chromium: Any, root: Path) -> None:
    from playwright.sync_api import expect

    write_run(root / "a")
    token = {"ECTYPE_UI_TOKEN": "a-token-that-stays"}
    problems: list[str] = []
    with serving(root, "--port", "8655", **token) as served:
        tab = open_page(chromium, served, problems)
        tab.get_by_role("link", name="a", exact=True).click()
        tab.get_by_text("stopped, saved", exact=True).wait_for()
    tab.get_by_text("does not answer").wait_for()
    write_run(root / "a", summary={"state": "finished", "seen": 1000})
    with serving(root, "--port", "8655", **token):
        tab.get_by_text("finished", exact=True).wait_for()
        expect(tab.locator("#offline")).to_be_hidden(timeout=SLOW_MS)

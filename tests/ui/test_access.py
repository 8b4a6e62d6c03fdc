"""Who may ask the page: the token, the cookie, Host and Origin, and what every response forbids."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from ectype.ui import access
from ectype.ui.access import PAGE_POLICY, AccessGuard
from tests.ui.conftest import HOST, ORIGIN, PORT, TOKEN, Browser, write_run


def test_the_printed_address_sets_a_cookie_that_scripts_and_other_sites_cannot_use(browser: Browser) -> None:
    answer = browser.get(f"/?token={TOKEN}", headers={"cookie": None})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert TOKEN not in cookie
    name = cookie.split(";")[0]
    assert browser.get("/api/runs", headers={"cookie": name}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/static/main.js", "/api/runs", "/api/runs/a/live", "/api/runs/a/report", "/x"])
@pytest.mark.parametrize("cookie", [None, "ectype-8421=", "ectype-8421=wrong", "other=1", "ectype-8421=\xff", ";;=;"])
def test_without_the_cookie_nothing_is_answered(browser: Browser, path: str, cookie: str | None) -> None:
    raw = None if cookie is None else cookie.encode("latin-1")
    answer = browser.get(path, headers={"cookie": raw})
    assert answer.status_code == 401
    assert "open the address" in answer.json()["error"]


def test_a_wrong_token_opens_nothing(browser: Browser) -> None:
    answer = browser.get("/?token=a-token-of-the-testx", headers={"cookie": None})
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "host",
    ["evil.example", f"evil.example:{PORT}", "127.0.0.1", "127.0.0.1:80", f"10.0.0.7:{PORT}", f"a@{HOST}", "", "["],
)
def test_other_host_names_are_refused(browser: Browser, host: str) -> None:
    assert browser.get("/api/runs", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", [HOST, f"localhost:{PORT}", f"LOCALHOST:{PORT}", f"[::1]:{PORT}"])
def test_names_of_this_machine_are_answered(browser: Browser, host: str) -> None:
    assert browser.get("/api/runs", headers={"host": host}).status_code == 200


def test_a_page_for_other_machines_is_answered_by_address_but_not_by_foreign_names() -> None:
    guard = AccessGuard(_unreachable, token=TOKEN, port=PORT, local=False)
    assert guard._is_own_host(f"10.0.0.7:{PORT}")
    assert not guard._is_own_host(f"evil.example:{PORT}")


async def _unreachable(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": f"https://{HOST}"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
    ],
)
def test_requests_of_other_sites_are_refused(browser: Browser, headers: dict[str, str]) -> None:
    assert browser.get("/api/runs", headers=headers).status_code == 403
    assert browser.post("/api/runs/a/stop", headers={"origin": ORIGIN, **headers}).status_code == 403


def test_a_link_on_another_site_may_show_the_page_and_nothing_else(browser: Browser) -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert browser.get("/", headers=headers).status_code == 200
    assert browser.get("/api/runs/a/report", headers=headers).status_code == 403


def test_a_change_needs_its_own_origin_json_and_post(browser: Browser) -> None:
    assert browser.post("/api/start", headers={"origin": None}).status_code == 403
    assert browser.post("/api/start", headers={"content-type": "text/plain"}).status_code == 415
    assert browser.send("PUT", "/api/start").status_code == 405
    assert browser.get("/api/start").status_code == 405


def test_every_response_forbids_what_is_not_of_the_page(browser: Browser, root: Path) -> None:
    run = write_run(root / "a")
    run.report.write_text("<h1>report</h1>")
    for path in ("/", "/static/page.css", "/api/runs", "/nothing", "/api/runs/a/pictures/samples/1"):
        headers = browser.get(path).headers
        assert "unsafe" not in headers["content-security-policy"]
        assert "default-src 'none'" in headers["content-security-policy"]
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert "access-control-allow-origin" not in headers
    assert browser.get("/").headers["content-security-policy"] == PAGE_POLICY
    report = browser.get("/api/runs/a/report").headers["content-security-policy"]
    assert report.startswith("sandbox allow-scripts;")
    assert "allow-same-origin" not in report


def test_a_body_is_bounded_in_size_and_time(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    assert browser.send("POST", "/api/start", content=b"x" * 70_000).status_code == 413
    monkeypatch.setattr(access, "BODY_SECONDS", 0.05)

    async def slow() -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(0.01)
            return {"type": "http.request", "body": b" ", "more_body": True}

        async def send(message: Any) -> None:
            sent.append(message)

        given = {"host": HOST, "origin": ORIGIN, "content-type": "application/json", "cookie": browser.cookie}
        scope = {"type": "http", "method": "POST", "path": "/api/start", "query_string": b""}
        headers = [(key.encode(), value.encode()) for key, value in given.items()]
        await browser.page.app({**scope, "headers": headers}, receive, send)
        return sent

    assert asyncio.run(slow())[0]["status"] == 408


def test_the_page_names_no_address_outside_and_has_no_inline_script_or_style(browser: Browser) -> None:
    text = browser.get("/").text
    assert "http" not in text.replace("http-equiv", "")
    assert "style=" not in text
    assert "<style" not in text
    assert text.count("<script") == text.count("<script src=")
    for name, (body, _) in browser.page.static.items():
        if name.endswith(".js") and name != "uPlot.min.js":
            assert b"innerHTML =" not in body, name
            assert b"://" not in body, name

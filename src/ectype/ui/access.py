"""Who may ask the local page for something: this browser, from the page itself, with the token.

A page on a port of this machine can be reached by every web site that the user visits, and by every program of this
machine. Each request therefore needs

- a `Host` that is this server's own name, so that no foreign name that resolves to this machine reaches it (DNS
  rebinding);
- no other `Origin`, and no `Sec-Fetch-Site` that says another site; changes need the page's own `Origin` and JSON;
- the cookie that the address with the token has set (`HttpOnly`, `SameSite=Strict`).

Every response forbids scripts, styles, frames and connections of others (Content-Security-Policy).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import secrets
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

__all__ = ["MIN_TOKEN_LENGTH", "PAGE_POLICY", "AccessGuard", "new_token"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MIN_TOKEN_LENGTH = 16
"""Characters of a token that a user chooses."""
MAX_BODY_BYTES = 64 * 1024
BODY_SECONDS = 10.0
"""How long the body of a request may take to arrive."""
RAW_PATHS = "/api/raw/"
"""Where bytes are sent to, such as images. Their routes read them, with limits of their own."""
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of everything but reports."""
HEADERS = {
    "content-security-policy": PAGE_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
"""Headers of a response that does not set them itself."""


def new_token() -> str:
    """Return a random token for one start of the server."""
    return secrets.token_urlsafe(32)


class AccessGuard:
    """Lets a request through to an application only if it may be answered, and adds the headers of every response.

    Args:
        app: The application.
        token: The token that opens the page.
        port: The port that the server listens on.
        local: Whether it listens on a loopback address only. If not, it may also be asked by an IP address or by the
            name of this machine, neither of which another site can use for itself.
    """

    def __init__(self, app: App, *, token: str, port: int, local: bool = True) -> None:
        self.app, self.token, self.port, self.local = app, token, port, local
        # Cookies are shared by all ports of a host.
        self.cookie = f"ectype-{port}"
        self.secret = hmac.new(token.encode(), b"cookie of the local page", hashlib.sha256).hexdigest()
        self.names = {"localhost"} if local else {"localhost", socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # a WebSocket is closed by the server if nothing answers
        headers = _Headers(scope)
        send = _with_headers(send)
        if refused := self._refusal(scope, headers):
            await _answer(send, *refused)
        elif (given := self._given_token(scope)) is not None:
            await self._open(send, given)
        elif not self._has_cookie(headers):
            text = (
                "This page needs its key: open the address that `ectype ui` printed when it was started, which "
                "contains it. Each start has a new one, unless --token gives it."
            )
            await _answer(send, 401, text)
        else:
            await self._pass_on(scope, receive, send, headers)

    def _refusal(self, scope: Scope, headers: _Headers) -> tuple[int, str] | None:
        """Return the status and the reason for which a request is refused, whatever token it has."""
        host = headers.single("host")
        if host is None or not self._is_own_host(host):
            return 421, "This server does not answer by that name: open the address that `ectype ui` printed."
        origin, site = headers.single("origin"), headers.single("sec-fetch-site")
        if headers.count("origin") and origin != f"http://{host}":
            return 403, "Requests of other sites are refused."
        # A link to the page on another site, such as in a mail, shows the page, and nothing else.
        opens_page = (
            scope["path"] == "/" and scope["method"] == "GET" and headers.single("sec-fetch-mode") == "navigate"
        )
        if headers.count("sec-fetch-site") and site not in ("same-origin", "none") and not opens_page:
            return 403, "Requests of other sites are refused."
        if scope["method"] not in ("GET", "HEAD"):
            if scope["method"] != "POST":
                return 405, "Only GET and POST are known."
            if origin is None:
                return 403, "A change has to say where it comes from (Origin)."
            kind = (headers.single("content-type") or "").partition(";")[0].strip()
            if kind != ("application/octet-stream" if scope["path"].startswith(RAW_PATHS) else "application/json"):
                return 415, "A change has to be JSON, and a file has to be sent as application/octet-stream."
        return None

    def _is_own_host(self, host: str) -> bool:
        try:
            parts = urlsplit(f"//{host}")
            name, port = (parts.hostname or "").lower(), parts.port or 80
        except ValueError:
            return False
        if port != self.port or "@" in host:
            return False
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name in self.names
        return address.is_loopback or not self.local

    def _given_token(self, scope: Scope) -> str | None:
        if scope["path"] != "/" or scope["method"] != "GET":
            return None
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"), max_num_fields=8)
        return query["token"][0] if "token" in query else None

    async def _open(self, send: Send, given: str) -> None:
        """Answer the printed address: set the cookie, and show the page at an address without the token."""
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            await _answer(send, 401, "This key is not the one of this server: open the address that it printed last.")
            return
        cookie = f"{self.cookie}={self.secret}; HttpOnly; SameSite=Strict; Path=/"
        await _answer(send, 303, "", [(b"location", b"/"), (b"set-cookie", cookie.encode())])

    def _has_cookie(self, headers: _Headers) -> bool:
        try:
            found = SimpleCookie(headers.single("cookie") or "").get(self.cookie)
        except CookieError:
            return False
        return found is not None and hmac.compare_digest(found.value.encode(), self.secret.encode())

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, headers: _Headers) -> None:
        if scope["method"] != "POST" or scope["path"].startswith(RAW_PATHS):
            await self.app(scope, receive, send)
            return
        try:
            body = await asyncio.wait_for(_read_body(receive), BODY_SECONDS)
        except TimeoutError:
            await _answer(send, 408, f"The request did not arrive within {BODY_SECONDS:.0f} seconds.")
            return
        if body is None:
            await _answer(send, 413, f"A request may have at most {MAX_BODY_BYTES:,} bytes.")
            return
        rest = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return rest.pop() if rest else await receive()

        await self.app(scope, replay, send)


class _Headers:
    """The headers of a request."""

    def __init__(self, scope: Scope) -> None:
        self.raw: list[tuple[bytes, bytes]] = scope["headers"]

    def count(self, name: str) -> int:
        return sum(key == name.encode() for key, _ in self.raw)

    def single(self, name: str) -> str | None:
        """Return the value of a header; None if it is missing or is given twice."""
        found = [value for key, value in self.raw if key == name.encode()]
        return found[0].decode("latin-1") if len(found) == 1 else None


async def _read_body(receive: Receive) -> bytes | None:
    """Return the body of a request; None if it is too large, before all of it is read."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            return None
        if message["type"] != "http.request" or not message.get("more_body"):
            return bytes(body)


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {key.lower() for key, _ in message.get("headers", [])}
            added = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in present]
            message = {**message, "headers": [*message.get("headers", []), *added]}
        await send(message)

    return send_with_headers


async def _answer(send: Send, status: int, text: str, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    """Send a short answer, as JSON that the page shows and that a browser shows as it is."""
    body = json.dumps({"error": text}).encode() if text else b""
    fields = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})

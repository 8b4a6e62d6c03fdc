"""What others have put on the Hub, by name: fetched once, found in its cache afterwards, and nothing of it run."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from ectype.extras import needed

__all__ = ["NAME", "NotHad", "reason", "snapshot"]

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]*\w")
PATIENCE = 10
"""Seconds for the Hub to answer at all; its own client tries for a minute."""


class NotHad(Exception):
    """A repository that cannot be had; the message is why, in a few words."""


def snapshot(name: str, patterns: Sequence[str], what: str) -> Path:
    """The files of a repository, from the Hub's cache (`HF_HUB_CACHE`) where there is no network.

    Args:
        name: `user/name`.
        patterns: Of the files that are wanted.
        what: They are for, where the library is missing that fetches them.

    Raises:
        NotHad: Neither cached nor to be fetched.
        ModelError: The library is missing.
    """
    library, constants = (needed(part, "hub", what) for part in ("huggingface_hub", "huggingface_hub.constants"))
    why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else _silent(constants.ENDPOINT)
    try:
        found = library.snapshot_download(
            name, allow_patterns=list(patterns), library_name="ectype", local_files_only=why is not None
        )
    except Exception as error:
        # The library's transport has errors of its own, which differ between its versions.
        raise NotHad(why or reason(error)) from None
    return Path(found)


def _silent(endpoint: str) -> str | None:
    """Why the Hub does not answer; None if it does."""
    try:
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        return None  # there is a Hub, and it answered
    except OSError as error:
        return str(getattr(error, "reason", error))
    return None


def reason(error: Exception) -> str:
    """What the Hub's library raised, and what to do, in a few words."""
    kind = type(error).__name__
    code = getattr(getattr(error, "response", None), "status_code", None)
    if code == 401 or kind == "LocalTokenNotFoundError":
        return "no valid token: `hf auth login`, or set HF_TOKEN"
    if code == 403:
        return "the token may not: use one that may write, and your own or your organisation's name"
    if kind == "OfflineModeIsEnabled":
        return "HF_HUB_OFFLINE is set: unset it"
    if code is None and ("Connect" in kind or "Timeout" in kind or "Proxy" in kind):
        return "the Hub cannot be reached: try where there is a network, or --local DIR"
    return next((line.strip() for line in str(error).splitlines() if line.strip()), kind)[:200]

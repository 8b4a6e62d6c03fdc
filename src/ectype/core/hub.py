"""The Hugging Face Hub: whether it can be reached, and what is downloaded from it. Nothing of it is executed."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from ectype.core.optional import optional_import

__all__ = ["REPO_ID", "HubUnavailable", "download_snapshot", "hub_error_text"]

REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]*\w")
CONNECT_TIMEOUT_SECONDS = 10
"""How long the Hub may take to answer. Its own client would try for a minute."""


class HubUnavailable(Exception):
    """A repository that is neither cached nor can be downloaded; the message is the reason in a few words."""


def _unavailable_reason() -> str | None:
    """Return why nothing can be downloaded from the Hub, or None if it answers."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=CONNECT_TIMEOUT_SECONDS).close()
    except urllib.error.HTTPError:
        return None  # it answered
    except OSError as error:
        return str(getattr(error, "reason", error))
    return None


def download_snapshot(name: str, patterns: Sequence[str], what: str) -> Path:
    """Return the directory with the files of a repository, from the Hub's cache (`HF_HUB_CACHE`) if it is offline.

    Args:
        name: `user/name`.
        patterns: Patterns of the files to download.
        what: What they are for, for the message if the Hub's library is missing.

    Raises:
        HubUnavailable: Neither cached nor to be downloaded.
        ModelError: The Hub's library is not installed.
    """
    library = optional_import("huggingface_hub", "hub", what)
    reason = _unavailable_reason()
    try:
        found = library.snapshot_download(
            name, allow_patterns=list(patterns), library_name="ectype", local_files_only=reason is not None
        )
    except Exception as error:
        # The library lets errors of its HTTP client through, which differ between its versions.
        raise HubUnavailable(reason or hub_error_text(error)) from None
    return Path(found)


def hub_error_text(error: Exception) -> str:
    """Return what an error of the Hub's library means and what to do, in a few words."""
    kind = type(error).__name__
    code = getattr(getattr(error, "response", None), "status_code", None)
    if code == 401 or kind == "LocalTokenNotFoundError":
        return "no valid token: `hf auth login`, or set HF_TOKEN"
    if code == 403:
        return "the token has no permission: use one with write access, and your own or your organization's name"
    if kind == "OfflineModeIsEnabled":
        return "HF_HUB_OFFLINE is set: unset it"
    if code is None and ("Connect" in kind or "Timeout" in kind or "Proxy" in kind):
        return "the Hub cannot be reached: try with a network connection, or use --local DIR"
    return next((line.strip() for line in str(error).splitlines() if line.strip()), kind)[:200]

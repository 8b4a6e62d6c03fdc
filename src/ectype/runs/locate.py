"""Where the files of a run or model are: on this machine, or in the cache of the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from ectype.core.errors import ModelError, RunError
from ectype.core.hub import REPO_ID, HubUnavailable, download_snapshot

__all__ = ["download_model", "locate_run"]


DOWNLOADED_FILES = ["*.json", "*.safetensors", "README.md"]
"""The files that are downloaded from a repository: tensors and text, nothing that could be executed."""


def locate_run(path: str | Path) -> Path:
    """Return the directory of a run or model.

    A path on this machine has precedence over a name on the Hub, also if only its parent directory exists, so that a
    mistyped `runs/vae-001` is not looked up on the Hub.

    Args:
        path: A path, or a name on the Hub such as `user/name`.

    Raises:
        RunError: A name that is neither cached nor can be downloaded from the Hub.
    """
    place = Path(path)
    name = place.as_posix()
    if place.exists() or place.parent.exists() or not REPO_ID.fullmatch(name):
        return place
    return download_model(name)


def download_model(name: str) -> Path:
    """Return the directory with the files of a model on the Hub, from its cache (`HF_HUB_CACHE`) if they are there.

    Raises:
        RunError: They are neither cached nor can be downloaded, or the library that downloads them is missing.
    """
    try:
        return download_snapshot(name, DOWNLOADED_FILES, "a model on the Hub")
    except ModelError as error:
        raise RunError(f"no run at '{name}'; {error}") from None
    except HubUnavailable as error:
        raise RunError(
            f"no run at '{name}', and no such model on the Hub or in its cache ({error}): check the name, or download "
            "it once with a network connection."
        ) from None

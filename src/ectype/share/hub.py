"""Models on the Hub: put there, found by name, or in a folder laid out as its cache is."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

from ectype.errors import EctypeError, RunError
from ectype.share.extras import needed

__all__ = ["located", "push", "push_local", "snapshot", "valid"]

WANTED = ["*.json", "*.safetensors", "README.md"]
"""What is fetched of a repository: numbers and words, nothing that could be run."""
NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]*\w")


def located(path: str | Path) -> Path:
    """Where the files of a run or a model lie: a place of this machine, or the snapshot of a name on the Hub.

    A place that is there goes before a name; so does one whose folder is there, such as a mistyped `runs/vae-001`.

    Raises:
        RunError: A name that is neither cached nor to be had from the Hub.
    """
    place = Path(path)
    name = place.as_posix()
    if place.exists() or place.parent.exists() or not NAME.fullmatch(name):
        return place
    return snapshot(name)


def snapshot(name: str) -> Path:
    """The files of a model on the Hub, from its cache (`HF_HUB_CACHE`) where they are there.

    Raises:
        RunError: There are none, or not without a network; or the library is missing that would fetch them.
    """
    try:
        hub = needed("huggingface_hub", "hub", "a model on the Hub")
    except EctypeError as error:
        raise RunError(f"no run at '{name}'; {error}") from None
    try:
        return Path(hub.snapshot_download(name, allow_patterns=WANTED, library_name="ectype"))
    except Exception as error:
        # The library's transport has errors of its own, which differ between its versions.
        raise RunError(
            f"no run at '{name}', and no such model on the Hub ({_reason(error)}): check the name, or fetch it once "
            "where there is a network."
        ) from None


def push(folder: Path, name: str, *, private: bool = False) -> str:
    """Upload a folder as a model, and make its repository if there is none.

    Args:
        folder: Its files.
        name: `user/name`.
        private: Whether only its owner sees it; of a repository that is made now.

    Returns:
        Where it can be seen.

    Raises:
        ModelError: The library is missing.
        RunError: A name that cannot be, no network, no token, or one that may not write there.
    """
    hub = needed("huggingface_hub", "hub", "the Hub")
    valid(name)
    api = hub.HfApi(library_name="ectype")
    try:
        made = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            commit_message="Upload a model trained with ectype",
            delete_patterns=["density-*.safetensors", "*.png"],  # of an earlier model
        )
    except Exception as error:  # see `snapshot`
        raise RunError(f"'{name}' could not be put on the Hub ({_reason(error)}).") from None
    return str(made)


def push_local(folder: Path, name: str, cache: Path) -> Path:
    """Put a folder into a cache of the Hub's layout, from which it is loaded by name without a network.

    Returns:
        The snapshot.

    Raises:
        RunError: A name that cannot be, or a place that cannot be written.
    """
    valid(name)
    repository = cache / f"models--{name.replace('/', '--')}"
    files = {file.name: file for file in sorted(folder.iterdir()) if file.is_file()}
    try:
        digests = {key: hashlib.sha256(file.read_bytes()).hexdigest() for key, file in files.items()}
        commit = hashlib.sha1("".join(f"{key} {digest}\n" for key, digest in digests.items()).encode()).hexdigest()
        place = repository / "snapshots" / commit
        for below in (repository / "blobs", repository / "refs", place):
            below.mkdir(parents=True, exist_ok=True)
        for key, digest in digests.items():
            shutil.copy(files[key], repository / "blobs" / digest)
            (place / key).unlink(missing_ok=True)
            try:
                (place / key).symlink_to(f"../../blobs/{digest}")
            except OSError:  # Windows without the right to make links; the Hub's own library copies there too
                shutil.copy(files[key], place / key)
        (repository / "refs" / "main").write_text(commit)
    except OSError as error:
        raise RunError(f"cannot write '{repository}' ({error.strerror}): give another --local.") from None
    return place


def valid(name: str) -> None:
    """Raise `RunError` unless a name can be one on the Hub."""
    if not NAME.fullmatch(name) or any(bad in name for bad in ("--", "..")) or len(name) > 96 or name.endswith(".git"):
        raise RunError(
            f"'{name}' is no name on the Hub: give user/name, of letters, digits, '-', '_' and '.', 96 at most."
        )


def _reason(error: Exception) -> str:
    """What went wrong and what to do, in a few words."""
    kind = type(error).__name__
    code = getattr(getattr(error, "response", None), "status_code", None)
    if code == 401 or kind == "LocalTokenNotFoundError":
        return "no valid token: `hf auth login`, or set HF_TOKEN"
    if code == 403:
        return "the token may not: use one that may write, and your own or your organisation's name"
    if kind == "OfflineModeIsEnabled":
        return "HF_HUB_OFFLINE is set: unset it"
    if kind == "LocalEntryNotFoundError":
        return "it is not in the cache, and the Hub cannot be reached or is switched off by HF_HUB_OFFLINE"
    if code is None and ("Connect" in kind or "Timeout" in kind or "Proxy" in kind):
        return "the Hub cannot be reached: try where there is a network, or --local DIR"
    return next((line.strip() for line in str(error).splitlines() if line.strip()), kind)[:200]

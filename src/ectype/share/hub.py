"""Models on the Hub: put there, found by name, or in a folder laid out as its cache is."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from ectype.errors import ModelError, RunError
from ectype.extras import needed
from ectype.hub import NAME, NotHad, reason
from ectype.hub import snapshot as fetched

__all__ = ["located", "push", "push_local", "snapshot", "valid"]

WANTED = ["*.json", "*.safetensors", "README.md"]
"""What is fetched of a repository: numbers and words, nothing that could be run."""


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
        return fetched(name, WANTED, "a model on the Hub")
    except ModelError as error:
        raise RunError(f"no run at '{name}'; {error}") from None
    except NotHad as why:
        raise RunError(
            f"no run at '{name}', and no such model on the Hub or in its cache ({why}): check the name, or fetch it "
            "once where there is a network."
        ) from None


def push(folder: Path, name: str, *, private: bool = False) -> str:
    """Upload a folder as a model, and make its repository if there is none.

    Args:
        folder: Its files.
        name: `user/name`.
        private: Whether only its owner may see it; one that is there already is not made private.

    Returns:
        Where it can be seen.

    Raises:
        ModelError: The library is missing.
        RunError: A name that cannot be, no network, no token, or one that may not write there; or everyone sees a
            repository that was meant to be private.
    """
    hub = needed("huggingface_hub", "hub", "the Hub")
    valid(name)
    api = hub.HfApi(library_name="ectype")
    try:
        made = api.create_repo(name, private=private, exist_ok=True)
        if private and not api.model_info(name).private:
            raise RunError(
                f"'{name}' is on the Hub already and public, so nothing was uploaded: make it private there, give "
                "another name, or leave --private out."
            )
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            commit_message="Upload a model trained with ectype",
            delete_patterns=["density-*.safetensors", "*.png"],  # of an earlier model
        )
    except RunError:
        raise
    except Exception as error:  # see `ectype.hub`
        raise RunError(f"'{name}' could not be put on the Hub ({reason(error)}).") from None
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

"""Upload models to the Hugging Face Hub, or write them into a folder in the layout of its cache."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from ectype.core.errors import RunError
from ectype.core.hub import REPO_ID, hub_error_text
from ectype.core.optional import optional_import

__all__ = ["push", "push_local", "check_repo_name"]


def push(folder: Path, name: str, *, private: bool = False) -> str:
    """Upload a folder as a model, and create the repository if it does not exist.

    Args:
        folder: Directory with the files.
        name: `user/name`.
        private: Whether only its owner can see it. An existing repository is not made private.

    Returns:
        The URL of the repository.

    Raises:
        ModelError: The Hub's library is missing.
        RunError: The name is not valid, there is no network or no token with write access, or the repository is public
            and `private` is set.
    """
    hub = optional_import("huggingface_hub", "hub", "the Hub")
    check_repo_name(name)
    api = hub.HfApi(library_name="ectype")
    try:
        url = api.create_repo(name, private=private, exist_ok=True)
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
    except Exception as error:  # see `ectype.core.hub`
        raise RunError(f"'{name}' could not be uploaded to the Hub ({hub_error_text(error)}).") from None
    return str(url)


def push_local(folder: Path, name: str, cache: Path) -> Path:
    """Copy a folder into a cache in the layout of the Hub's, from which it is loaded by name without a network.

    Args:
        folder: Directory with the files.
        name: `user/name`.
        cache: Directory of the cache.

    Returns:
        The directory of the snapshot.

    Raises:
        RunError: The name is not valid, or the cache cannot be written.
    """
    check_repo_name(name)
    repository = cache / f"models--{name.replace('/', '--')}"
    files = {file.name: file for file in sorted(folder.iterdir()) if file.is_file()}
    try:
        digests = {key: hashlib.sha256(file.read_bytes()).hexdigest() for key, file in files.items()}
        commit = hashlib.sha1("".join(f"{key} {digest}\n" for key, digest in digests.items()).encode()).hexdigest()
        snapshot = repository / "snapshots" / commit
        for directory in (repository / "blobs", repository / "refs", snapshot):
            directory.mkdir(parents=True, exist_ok=True)
        for key, digest in digests.items():
            shutil.copy(files[key], repository / "blobs" / digest)
            (snapshot / key).unlink(missing_ok=True)
            try:
                (snapshot / key).symlink_to(f"../../blobs/{digest}")
            except OSError:  # Windows without the right to create links; the Hub's own library copies there, too
                shutil.copy(files[key], snapshot / key)
        (repository / "refs" / "main").write_text(commit)
    except OSError as error:
        raise RunError(f"cannot write '{repository}' ({error.strerror}): give another --local.") from None
    return snapshot


def check_repo_name(name: str) -> None:
    """Raise `RunError` if a name is not valid on the Hub."""
    if (
        not REPO_ID.fullmatch(name)
        or any(bad in name for bad in ("--", ".."))
        or len(name) > 96
        or name.endswith(".git")
    ):
        raise RunError(
            f"'{name}' is not a valid name on the Hub: use user/name, of at most 96 letters, digits, '-', '_' and '.'."
        )

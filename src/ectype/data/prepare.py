"""Preparing images: a source is decoded once to mapped files of uint8, and found there afterwards. No PyTorch import.

An entry of the cache depends on everything that decoding depends on: the source, the size, channels, resize mode,
background, range of values, and the limits of sizes. Labels from a file, splits and the limit of rejected images are
applied when an entry is opened, and need no decoding.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from ectype.config.schema import DataConfig
from ectype.core import files
from ectype.core.errors import DataError
from ectype.data import cache as entries
from ectype.data.build_entry import EntryBuilder
from ectype.data.cache import CleanResult, cache_root, clean
from ectype.data.colors import parse_color
from ectype.data.prepared import Prepared, Reject, open_entry
from ectype.data.sources.base import Source
from ectype.data.sources.open import open_source
from ectype.data.sources.pairs import PairedFolder, open_pairs
from ectype.data.sources.tiles import TiledSource
from ectype.data.workers import default_workers

__all__ = ["CleanResult", "Prepared", "Reject", "clean", "prepare"]


def prepare(
    config: DataConfig,
    *,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
    describe: bool = False,
) -> Prepared:
    """Decode the images of a source, or find them already decoded.

    Args:
        config: The source, and what its images are decoded to.
        cache: The folder of entries; None for `ectype.data.cache.cache_root()`.
        progress: Called with the number of images that are decoded and the number of all images.
        workers: Number of decoding processes; None for one per core, 1 to decode in this process.
        describe: Whether the images are only looked at: too many rejected images, or too few to split, are then
            reported in `Prepared.problems` instead of raised.

    Raises:
        DataError: The source is missing, has no usable image, more rejected images than `max_rejects`, or too few
            images to split; or the disk is full. The message is one line with the value, the rule and the fix.
    """
    if config.source is None:
        raise DataError("no images given: set data.source to a folder, an archive or `digits`.")
    source = open_source(config.source, zip_encoding=config.zip_encoding)
    if config.value_range is not None and config.source.startswith("memory:"):
        raise DataError(
            "data.value_range is for files, and these images were passed from Python: scale them to 0 to 255, or to "
            "floats from 0 to 1, before they are passed."
        )
    source.value_range = config.value_range
    if config.pairs != "none":
        source = open_pairs(source, config.pairs, config.input, config.target)
    file_classes = source.classes if isinstance(source, PairedFolder) else ()
    if config.resize == "tiles" and config.fixed_size is not None:
        source = TiledSource(source, config.fixed_size)
    try:
        background = parse_color(config.background)
    except ValueError:
        raise DataError(
            f"data.background='{config.background}' is not a color: use a name such as white, or #rrggbb."
        ) from None
    entry = (cache or cache_root()) / _entry_name(source, config, background)
    found, built = entries.find_entry(entry), False
    if found is None:
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise entries.write_error(entry.parent, error) from None
        with entries.entry_lock(entry) as locked:
            found = entries.find_entry(entry)  # another process may have built it meanwhile
            if found is None:
                with entries.temporary_entry(entry, locked=locked) as folder:
                    builder = EntryBuilder(
                        source, config, background, folder, progress, workers or default_workers(), file_classes
                    )
                    entries.publish_entry(folder, entry, builder.build())
                entries.remove_outdated(entry)
                found, built = entries.find_entry(entry), True
    assert found is not None
    memory = (cache or files.cache_root()) / "splits" / f"{_memory_name(source, config, background)}.npz"
    return open_entry(entry, found, config, memory, built=built, describe=describe)


def _decoding_keys(source: Source, config: DataConfig, background: tuple[int, int, int]) -> list[object]:
    """Return what images of a source are decoded by."""
    return [
        source.location,
        config.size,
        config.channels,
        config.resize,
        background,
        config.min_size,
        config.ignores_alpha,
        config.value_range,
        config.max_pixels,
    ]


def _slug(source: Source) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", Path(source.text).name).strip("-")[:40] or "images"


def _memory_name(source: Source, config: DataConfig, background: tuple[int, int, int]) -> str:
    """Return a readable name followed by a hash of what splits are remembered for.

    It stays the same when files are added. Images of another size have other near-duplicates, and a memory of their
    own, so that splits do not depend on the sizes that were prepared before.
    """
    keys = [*_decoding_keys(source, config, background), config.pairs, config.split.val, config.split.test]
    return f"{_slug(source)}-{hashlib.sha256(repr(keys).encode(errors='surrogateescape')).hexdigest()[:16]}"


def _entry_name(source: Source, config: DataConfig, background: tuple[int, int, int]) -> str:
    """Return a readable name followed by hashes of how the source is decoded, and of its files."""
    keys = [*_decoding_keys(source, config, background), entries.FORMAT_VERSION]
    if config.pairs != "none":
        keys += [config.pairs, config.class_names, config.class_values, config.ignore, config.target_orientation]
    key = hashlib.sha256(repr(keys).encode(errors="surrogateescape")).hexdigest()[:12]
    signature = hashlib.sha256(source.signature.encode()).hexdigest()[:12]
    return f"{_slug(source)}-{key}-{signature}"

# SPDX-License-Identifier: MIT
"""Result files are written whole, or not at all."""

import os
from collections.abc import Mapping
from pathlib import Path


def write_files(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write files into a folder; each takes its name once all of them are on the disk.

    The folder is made if it is missing. Temporary names are always the same, so that the next run
    clears what a killed one left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = {name: folder / f".{name}.tmp" for name in files}
    try:
        for name, content in files.items():
            with temporary[name].open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for name in files:
            os.replace(temporary[name], folder / name)
    except OSError as error:  # a full disk does not name the file
        raise OSError(error.errno, error.strerror, str(folder)) from error
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)
    return [folder / name for name in files]

# SPDX-License-Identifier: MIT
"""``--strict-skips`` names what was skipped though it could have run."""

from types import SimpleNamespace
from typing import Any

from skips import forbidden


def skipped(test: str, reason: str) -> Any:
    """A report as pytest makes it: the reason is the last of three."""
    return SimpleNamespace(nodeid=test, longrepr=("file.py", 3, f"Skipped: {reason}"))


def test_only_what_the_machine_lacks_may_be_skipped() -> None:
    lack = skipped("test_page.py::test_a", "no browser here: apt-get install chromium")
    data = skipped("test_zoo.py::test_b", "the checkpoints are not there")
    whole_file = skipped("test_export.py", "could not import 'ctranslate2'")
    assert forbidden([lack]) == []
    assert forbidden([lack, data, whole_file]) == [
        "test_zoo.py::test_b: Skipped: the checkpoints are not there",
        "test_export.py: Skipped: could not import 'ctranslate2'",
    ]

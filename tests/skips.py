# SPDX-License-Identifier: MIT
"""``--strict-skips``: a test may be skipped for what the machine lacks, and for nothing else."""

import re

import pytest

ALLOWED = re.compile(
    "|".join(
        [
            "no browser here",
            "the superuser may write everywhere",
            "this user may not mount a file system",
            "capabilities are Linux's",
            "the maps of a process are Linux's",
            "there is no second file system",
            r"needs \d+ CUDA devices",
            "OLD_FAIRSEQ names no environment",
            "tensorboard is not installed",
            "a family of whose layers this package has none",
            "only some of the families ran",
        ]
    )
)


def forbidden(reports: list[pytest.TestReport | pytest.CollectReport]) -> list[str]:
    """Tests and reasons of the skipped ones that had no right to be."""
    reasons = {report.nodeid: report.longrepr for report in reports}
    lines = [
        f"{test}: {reason[2] if isinstance(reason, tuple) else reason}"
        for test, reason in reasons.items()
    ]
    return [line for line in lines if not ALLOWED.search(line)]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run, where it is to be strict, if a test was skipped for another reason."""
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if not terminal or not session.config.getoption("--strict-skips"):
        return  # a worker of xdist has no terminal
    if lines := forbidden(terminal.stats.get("skipped", [])):
        terminal.write_line("\nskipped for a reason that tests/skips.py does not allow:", red=True)
        terminal.write_line("\n".join(lines))
        session.exitstatus = pytest.ExitCode.TESTS_FAILED

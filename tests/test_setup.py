# SPDX-License-Identifier: MIT
"""scripts/setup.sh: what is missing is one line; a second run does nothing."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fairseq_layerdrop

REPOSITORY = Path(__file__).parents[1]
KNOWN = "Python 3.11, 3.12 or 3.13"
TOOLS = ("bash", "sh", "dirname", "cat", "cksum", "rm", "tail", "mkdir", "ln")
# What setup.sh asks of a Python, and of the one in .venv: told in a log, and nothing is installed.
PYTHON_IN_NAME = """\
#!/bin/sh
echo "$*" >> "{log}"
case "$*" in
  *sysconfig*) echo "{headers}";;
  "-m venv"*) mkdir -p .venv/bin && ln -s "$0" .venv/bin/python;;
  *"import torchaudio"*) exit {torchaudio};;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with what setup.sh reads, and beside it a folder of programs for its PATH."""
    for name in ("scripts/setup.sh", "setup.py", "constraints.txt"):
        target = tmp_path / "checkout" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, target)
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        (tmp_path / "bin" / tool).symlink_to(
            shutil.which(tool) or pytest.fail(f"{tool} is not there")
        )
    return tmp_path / "checkout"


def add_program(checkout: Path, name: str, text: str) -> None:
    """Put a program of a few lines on the PATH of setup.sh."""
    program = checkout.parent / "bin" / name
    program.write_text(text)
    program.chmod(0o755)


def add_python(checkout: Path) -> None:
    """Put this Python on the PATH of setup.sh."""
    add_program(checkout, "python3.11", f'#!/bin/sh\nexec {sys.executable} "$@"\n')


def setup(checkout: Path) -> subprocess.CompletedProcess[str]:
    """Run setup.sh with nothing else on its PATH."""
    command = ["bash", str(checkout / "scripts/setup.sh")]
    environment = {"PATH": str(checkout.parent / "bin")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def assert_one_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit 2, nothing on stdout, one line on stderr with these words."""
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr


def test_no_python_is_one_line(checkout: Path) -> None:
    assert_one_line(setup(checkout), KNOWN, "PYTHON=")


def test_an_older_python_is_not_taken(checkout: Path) -> None:
    add_program(
        checkout, "python3", "#!/bin/sh\nexit 1\n"
    )  # what an older one answers to the version test
    assert_one_line(setup(checkout), KNOWN)


@pytest.mark.parametrize("version", [(3, 10, 14), (3, 14, 0)])
def test_a_python_that_nothing_was_tested_on_is_not_taken(
    version: tuple[int, int, int], checkout: Path
) -> None:
    pretend = f"import sys; sys.version_info = {version}; exec(sys.argv[1])"
    add_program(checkout, "python3", f'#!/bin/sh\nexec {sys.executable} -c "{pretend}" "$2"\n')
    assert_one_line(setup(checkout), KNOWN, "3.14")


def test_a_missing_compiler_is_one_line(checkout: Path) -> None:
    add_python(checkout)
    assert_one_line(setup(checkout), "C++ compiler", "apt-get install g++")


def test_missing_headers_are_one_line(checkout: Path) -> None:
    add_program(checkout, "c++", "#!/bin/sh\n")
    add_program(
        checkout, "python3.11", '#!/bin/sh\ncase "$2" in *sysconfig*) echo /nowhere;; esac\n'
    )
    assert_one_line(setup(checkout), "headers of python3.11", "apt-get install python3-dev")


def test_a_second_run_does_nothing_and_says_so(checkout: Path) -> None:
    stamp = "cat setup.py constraints.txt scripts/setup.sh <(pwd) | cksum > .venv/.stamp"
    (checkout / ".venv").mkdir()
    subprocess.run(["bash", "-c", stamp], cwd=checkout, check=True)
    done = setup(checkout)  # no Python on the PATH: it could not do anything
    assert (done.returncode, done.stdout, done.stderr) == (0, "setup: .venv is up to date\n", "")


def test_a_changed_constraint_makes_it_run_again(checkout: Path) -> None:
    test_a_second_run_does_nothing_and_says_so(checkout)
    with (checkout / "constraints.txt").open("a") as file:
        file.write("# one more\n")
    assert_one_line(setup(checkout), KNOWN)


@pytest.mark.parametrize("fails", [True, False])
def test_a_torchaudio_that_cannot_be_imported_is_removed_last_and_told(
    fails: bool, checkout: Path
) -> None:
    log, headers = checkout.parent / "log", checkout.parent / "headers"
    headers.mkdir()
    (headers / "Python.h").touch()
    add_program(checkout, "c++", "#!/bin/sh\n")
    text = PYTHON_IN_NAME.format(log=log, headers=headers, torchaudio=int(fails))
    add_program(checkout, "python3.11", text)
    done = setup(checkout)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("removed torchaudio" in done.stdout) is fails
    *_, install, imported, last = [*log.read_text().splitlines(), *([] if fails else [""])]
    assert "--no-binary fairseq-fixed fairseq-fixed" in log.read_text()
    assert "-e .[report" in install
    assert "import torchaudio" in imported
    assert ("pip uninstall" in last, last.endswith("torchaudio")) == (fails, fails)


def test_the_citation_is_of_this_version() -> None:
    citation = (REPOSITORY / "CITATION.cff").read_text()
    assert f"\nversion: {fairseq_layerdrop.__version__}\n" in citation

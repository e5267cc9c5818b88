# SPDX-License-Identifier: MIT
"""Against official fairseq 0.12.2 and 0.6.2: their checkpoints and translations."""

import re
from pathlib import Path

import pytest
from fairseq_programs import (
    USER_DIR,
    Hypotheses,
    assert_same_hypotheses,
    assert_same_tensors,
    fairseq,
    generate,
    hypotheses,
    prune,
    weights,
)

from fairseq_layerdrop.operations._point import loss_of

EXPECTED = ["enc012345.dec012345", "enc012345.dec024", "enc024.dec024"]


def expected(official: Path, name: str) -> Hypotheses:
    """What official fairseq generated with the layers that the name tells."""
    return hypotheses((official / "expected" / f"{name}.txt").read_text())


def keep(name: str) -> list[str]:
    """The flags that name the layers of both sides."""
    encoder, decoder = (",".join(digits) for digits in re.findall(r"\d+", name))
    return ["--encoder-keep", encoder, "--decoder-keep", decoder]


def test_every_expected_file_is_tested(official: Path) -> None:
    assert sorted(path.stem for path in (official / "expected").iterdir()) == EXPECTED


@pytest.mark.parametrize("name", EXPECTED)
def test_a_pruned_official_checkpoint_translates_as_official_fairseq_does(
    official: Path, name: str, tmp_path: Path
) -> None:
    small = prune(official / "checkpoint.pt", tmp_path / "small.pt", *keep(name))
    assert_same_hypotheses(
        generate(official / "data-bin", small), expected(official, name), sentences=100
    )


def test_a_stack_that_is_not_named_stays_whole(official: Path, tmp_path: Path) -> None:
    named = prune(official / "checkpoint.pt", tmp_path / "named.pt", *keep("enc012345.dec024"))
    alone = prune(official / "checkpoint.pt", tmp_path / "alone.pt", "--decoder-keep", "0,2,4")
    assert_same_tensors(weights(alone), weights(named))


def test_depth_on_demand_translates_an_official_checkpoint_as_official_fairseq_does(
    official: Path,
) -> None:
    flags = ["--user-dir", USER_DIR, "--task", "layerdrop_translation", "--encoder-keep", "0,2,4"]
    on_demand = generate(
        official / "data-bin", official / "checkpoint.pt", *flags, "--decoder-keep", "every:2"
    )
    assert_same_hypotheses(on_demand, expected(official, "enc024.dec024"), sentences=100)


@pytest.mark.parametrize("name", ["enc012345.dec012345", "enc012.dec012"])
def test_a_checkpoint_of_2019_translates_as_official_fairseq_does(
    official_2019: Path, name: str, tmp_path: Path
) -> None:
    small = prune(official_2019 / "checkpoint.pt", tmp_path / "small.pt", *keep(name))
    assert_same_hypotheses(
        generate(official_2019 / "data-bin", small), expected(official_2019, name), sentences=100
    )


def test_a_checkpoint_of_2019_is_validated(official_2019: Path, tmp_path: Path) -> None:
    data = official_2019 / "data-bin"
    small = prune(official_2019 / "checkpoint.pt", tmp_path / "small.pt", *keep("enc012.dec012"))
    flags = ["--task", "translation", "--valid-subset", "valid", "--batch-size", "8"]
    shown = fairseq("validate", data, "--path", small, *flags)
    (loss,) = re.findall(r"nll_loss (\S+)", shown)
    assert float(loss) == pytest.approx(loss_of(small, str(data), "valid"), abs=1e-3)


def test_a_checkpoint_of_2019_loads_at_layers_beyond_the_new_depth(
    official_2019: Path, tmp_path: Path
) -> None:
    small = prune(official_2019 / "checkpoint.pt", tmp_path / "small.pt", *keep("enc024.dec135"))
    assert len(generate(official_2019 / "data-bin", small, "--max-len-b", "20")) == 100

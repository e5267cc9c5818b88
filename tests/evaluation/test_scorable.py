# SPDX-License-Identifier: MIT
"""What cannot be scored is one line that names it."""

import pytest

from fairseq_layerdrop.evaluation.scorable import check_registered, saying

KNOWN = {
    "model": {"_name": "transformer"},
    "task": {"_name": "translation"},
    "criterion": {"_name": "cross_entropy"},
}


def test_what_fairseq_has_is_known() -> None:
    check_registered("full.pt", KNOWN)
    check_registered("full.pt", None)


def test_what_a_plugin_has_is_named_with_the_flag() -> None:
    cfg = KNOWN | {"criterion": {"_name": "my_ce"}, "task": {"_name": "my_task"}}
    with pytest.raises(
        ValueError, match=r"full\.pt: fairseq does not know the task my_task, the criterion my_ce; "
    ):
        check_registered("full.pt", cfg)


def test_what_fairseq_raises_is_one_line() -> None:
    with (
        pytest.raises(ValueError, match=r"no score by NAT: KeyError: 'prev_target'"),
        saying("no score by NAT"),
    ):
        dict[str, str]()["prev_target"]
    with pytest.raises(ValueError, match=r"^as it is$"), saying("not this"):
        raise ValueError("as it is")

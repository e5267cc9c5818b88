# SPDX-License-Identifier: MIT
"""Reading fairseq-generate's output."""

import pytest
from generation import parse_generate, run_generate

LOG = (
    "INFO:fairseq_cli.generate:Translated 3 sentences (9 tokens) in 0.5s (6.25 sentences/s, "
    "18.00 tokens/s)\n"
)
OUTPUT = """S-2\tc
H-2\t-0.1\tthird one
P-2\t-0.1 -0.1
S-0\ta
H-0\t-0.2\tfirst
H-0\t-0.3\tfirst, second best
H-1\t-0.2\t
"""


def test_hypotheses_come_in_the_order_of_the_data_best_first() -> None:
    generation = parse_generate(OUTPUT, LOG)
    assert generation.hypotheses == ["first", "", "third one"]
    assert (generation.sentences_per_second, generation.tokens_per_second) == (6.25, 18.0)


def test_an_empty_run_is_no_result() -> None:
    with pytest.raises(ValueError, match="printed no hypothesis"):
        parse_generate("", LOG)


def test_a_failing_program_gives_its_last_line() -> None:
    with pytest.raises(
        ValueError,
        match=r"fairseq-generate failed: .*error: the following arguments are required: data",
    ):
        run_generate([])

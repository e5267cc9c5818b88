# SPDX-License-Identifier: MIT
"""Any text in the place of a SPEC or a plan, and what is true of whatever comes of it."""

from hypothesis import strategies as st

from fairseq_layerdrop.pruning.plan import LayerSelection, PruningPlan

PIECES = [
    *(
        "0",
        "5",
        "9",
        "-",
        ",",
        ":",
        "/",
        "+",
        " ",
        "[",
        "]",
        "(",
        ")",
        "all",
        "even:3",
        "every:2",
        "first:",
        "99",
        "٣",
    ),
    *(
        "\0",
        "\n",
        "\u2028",
        "0-",
        "0-999999999999",
        "even:10**9",
        "every:1000000000",
        "9" * 30,
        "٠-٢",
        "²",
        "－1",
        "-0",
    ),
    *("0,2,4", "6+3", "even:6/0,2,5", "[" * 40, "spread:2", "last:1", "1_0", "0x1", "1e9", "+1"),
]


def rubbish() -> st.SearchStrategy[str]:
    return st.text(max_size=30) | st.lists(st.sampled_from(PIECES), max_size=8).map("".join)


def check_any_text(text: str) -> None:
    """It is a selection that prints what it is, or one line says why not."""
    for parse in (
        lambda t: LayerSelection.parse(t, 6),
        lambda t: PruningPlan.parse(t, {"encoder": 6, "decoder": 6}),
    ):
        try:
            found = parse(text)
        except ValueError as error:
            assert len(str(error).splitlines()) == 1
            continue
        assert parse(str(found)) == found
        for selection in found.selections.values() if isinstance(found, PruningPlan) else [found]:
            assert selection.kept and set(selection.kept) <= set(range(6))
            assert list(selection.kept) == sorted(set(selection.kept))

# SPDX-License-Identifier: MIT
"""What several verbs print alike."""

import re
from argparse import Namespace
from collections.abc import Iterable, Mapping
from typing import Any


def join(indices: Iterable[int]) -> str:
    """Indices as a layer list: ``0,2,4``."""
    return ",".join(map(str, indices))


def keep_flags(kept: Mapping[str, Iterable[int]]) -> str:
    """The flags that keep these layers: ``--encoder-keep 0,2 --keep encoder.adaptor.layers=1``."""
    flags = []
    for stack, layers in kept.items():
        flag = f"--{stack}-keep " if stack in ("encoder", "decoder") else f"--keep {stack}="
        flags.append(f"{flag}{join(layers)}")
    return " ".join(flags)


def as_flags(message: str, args: Namespace) -> str:
    """A message in which the flags of a verb are named as such.

    What the command calls names its arguments as Python does: ``target_params=``, ``force=True``.
    """

    def flag(found: re.Match[str]) -> str:
        name, value = found.groups()
        if name not in vars(args):
            return found[0]
        text = f"--{name.replace('_', '-')}"
        return text if value == "True" else f"{text} {value}".rstrip()

    return re.sub(r"\b([a-z_]+)=(\w*)", flag, message)


def row_text(row: Mapping[str, Any]) -> str:
    """A row of results in one line."""
    parts = [f"{row['plan']}:"]
    for name, form in ROW_FORMATS.items():
        if name in row:
            parts.append(form.format(row[name]))
    return " ".join(parts)


ROW_FORMATS = {
    "parameters": "{:,} parameters,",
    "loss": "loss {:.4f} bits,",
    "ppl": "ppl {:.2f},",
    "accuracy": "accuracy {:.2f} %,",
    "bleu": "BLEU {:.2f},",
    "chrf": "chrF {:.2f},",
    "rougeL": "ROUGE-L {:.2f},",
    "sentences_per_second": "{:.1f} sentences/s,",
    "latency_ms": "{:.1f} ms a sentence,",
    "memory_bytes": "{:,} bytes,",
    "sentences": "{:,} sentences",
}

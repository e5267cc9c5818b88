# SPDX-License-Identifier: MIT
"""What several verbs print alike."""

from collections.abc import Iterable, Mapping
from typing import Any


def join(indices: Iterable[int]) -> str:
    """Indices as a layer list: ``0,2,4``."""
    return ",".join(map(str, indices))


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

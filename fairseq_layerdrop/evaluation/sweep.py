# SPDX-License-Identifier: MIT
"""One row a plan: losses, texts, speed; and whether a difference is more than chance."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from fairseq_layerdrop.evaluation.compensation import Compensation, Compensator
from fairseq_layerdrop.evaluation.decoding import Decoder
from fairseq_layerdrop.evaluation.latency import Stopwatch
from fairseq_layerdrop.evaluation.loading import Batches
from fairseq_layerdrop.evaluation.losses import score_losses
from fairseq_layerdrop.evaluation.memory import peak_of_forward
from fairseq_layerdrop.evaluation.significance import holm, paired_bleu, paired_losses
from fairseq_layerdrop.evaluation.streams import replaced
from fairseq_layerdrop.evaluation.subject import Subject
from fairseq_layerdrop.evaluation.texts import score_texts
from fairseq_layerdrop.modules.subnetwork import every_layer, restricted
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.reporting.rows import Row, RowFile

TEXTS = ("bleu", "chrf", "rouge")
UNITS = ("units", "sizes", "texts")


@dataclass(frozen=True)
class Measures:
    """What is measured of every plan, and on what."""

    batches: Batches
    metrics: Sequence[str]
    decoder: Decoder | None = None
    references: Sequence[str] = ()
    stopwatch: Stopwatch | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    """The decoder's and the stopwatch's, for the signature."""
    kind: str = "plan"
    """Of the rows; ``verdict`` rows only judge a search's winner, and no table shows them."""
    compensator: Compensator | None = None
    """Makes up for the layers that plans remove, before anything is measured."""

    def compensated(self, plan: PruningPlan) -> Compensation | None:
        """What a plan is measured with, if anything."""
        return self.compensator(plan) if self.compensator and not plan.is_whole else None

    def sign(self, subject: Subject, plan: PruningPlan) -> dict[str, Any]:
        """Everything that the row of a plan depends on."""
        more = {
            "sentences": self.batches.sentences,
            "metrics": sorted(self.metrics),
            **self.settings,
        }
        if self.compensator and not plan.is_whole:
            more["compensated"] = self.compensator.data.sign()
        return subject.sign(plan, self.batches, **more)


class Results:
    """Rows of plans; the texts and losses of each sentence, for paired tests, go to a second file.

    Nobody else can write them until they are closed, which ``with`` does.

    Args:
        path: of the rows; the second file is ``NAME.units.jsonl``.
        origin: how new rows are made; added to each of them.
    """

    def __init__(self, path: str, origin: Mapping[str, Any] | None = None) -> None:
        self.rows = RowFile(path, origin)
        self._units = RowFile(Path(path).with_suffix(".units.jsonl"))

    def find(self, signature: dict[str, Any]) -> Row | None:
        """A row with what paired tests need."""
        row, units = self.rows.find(signature), self._units.find(signature)
        return None if row is None or units is None else {**row, **units}

    def add(self, row: Row) -> None:
        """Write both parts of a row, the row last: it says that the other part is there."""
        units = {name: row[name] for name in UNITS if name in row}
        self._units.add([{**units, "signature": row["signature"]}])
        if not self.rows.find(row["signature"]):
            self.rows.add([public(row)])

    def add_test(self, row: Row) -> None:
        """Write the row of a comparison, if it is not there."""
        if not self.rows.find(row["signature"]):
            self.rows.add([row])

    def close(self) -> None:
        """Close both files, so that others may write them."""
        self.rows.close()
        self._units.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def sweep(
    subject: Subject,
    plans: Sequence[PruningPlan],
    measures: Measures,
    results: Results,
    *,
    progress: Callable[[Sequence[PruningPlan]], Iterable[PruningPlan]] = iter,
) -> dict[PruningPlan, Row]:
    """The rows of these plans, with what paired tests need; measured where they are missing."""
    wanted = list(dict.fromkeys(plans))
    missing = [plan for plan in wanted if not results.find(measures.sign(subject, plan))]
    for plan in progress(missing):
        results.add(measure(subject, plan, measures))
    return {plan: results.find(measures.sign(subject, plan)) or {} for plan in wanted}


def public(row: Row) -> Row:
    """A row without the values of single sentences."""
    return {name: value for name, value in row.items() if name not in UNITS}


def compare(
    rows: dict[PruningPlan, Row], baseline: PruningPlan, references: Sequence[str]
) -> list[Row]:
    """Is each plan worse, or better, than the baseline by more than chance? One row for each score.

    By approximate randomisation; ``p_holm`` is corrected for the number of plans.
    """
    base = rows[baseline]
    found = {}
    if "units" in base:
        others = [plan for plan in rows if plan != baseline]
        found["loss"] = {
            str(p): paired_losses(rows[p]["units"], base["units"], base["sizes"]) for p in others
        }
    if "bleu" in base:
        texts = {str(plan): row["texts"] for plan, row in rows.items()}
        found["bleu"] = paired_bleu(texts, str(baseline), references)
    return [_test(rows, baseline, metric, p_values) for metric, p_values in found.items()]


def _test(
    rows: dict[PruningPlan, Row], baseline: PruningPlan, metric: str, p_values: dict[str, float]
) -> Row:
    return {
        "kind": "test",
        "curve": rows[baseline]["curve"],
        "metric": metric,
        "against": str(baseline),
        "p_value": p_values,
        "p_holm": holm(p_values),
        "signature": {
            "of": [row["signature"] for row in rows.values()],
            "against": str(baseline),
            "metric": metric,
        },
    }


def measure(subject: Subject, plan: PruningPlan, measures: Measures) -> Row:
    """The row of one plan, including each sentence's losses (``units``) and ``texts``.

    Raises:
        ValueError: if layers ran that the plan does not name, or not every sentence was seen.
    """
    start = time.perf_counter()
    row: Row = {
        "kind": measures.kind,
        **subject.describe(plan),
        "sentences": measures.batches.sentences,
    }
    compensated = measures.compensated(plan)
    if compensated:
        row["compensated"] = compensated.to_json()["loss"]
    weights = compensated.weights if compensated else {}
    with replaced(subject.loaded.model, weights), checked_layers(subject, plan):
        if "loss" in measures.metrics:
            (losses,) = score_losses(subject.loaded, measures.batches.samples, [plan.kept])
            row |= {"loss": losses.loss, "ppl": 2**losses.loss, "tokens": losses.tokens}
            if losses.accuracy is not None:
                row["accuracy"] = losses.accuracy
            row["units"] = [round(value, 6) for value in losses.sums.tolist()]
            row["sizes"] = losses.sizes.tolist()
        if measures.decoder:
            row |= _decode(subject, plan, measures.decoder, measures)
        if measures.stopwatch:
            latency = measures.stopwatch.measure(plan.kept)
            row |= {"latency_ms": latency.median, "latency_ms_quartiles": list(latency.quartiles)}
            row["latency_of"] = measures.stopwatch.description
        if "memory" in measures.metrics:
            row["memory_bytes"] = subject.bytes(plan) + peak_of_forward(
                subject.loaded, plan.kept, measures.batches.samples[-1]
            )
    return row | {
        "seconds": round(time.perf_counter() - start, 1),
        "signature": measures.sign(subject, plan),
    }


def _decode(subject: Subject, plan: PruningPlan, decoder: Decoder, measures: Measures) -> Row:
    with restricted(subject.loaded.model, plan.kept):
        start = time.perf_counter()
        texts, tokens = decoder.texts(measures.batches)
        seconds = time.perf_counter() - start
    metrics = [name for name in TEXTS if name in measures.metrics]
    return {
        **score_texts(texts, measures.references, metrics),
        "sentences_per_second": round(len(texts) / seconds, 2),
        "tokens_per_second": round(tokens / seconds, 2),
        "texts": texts,
    }


@contextmanager
def checked_layers(subject: Subject, plan: PruningPlan) -> Iterator[None]:
    """A scope in which exactly the layers that the plan names must run.

    Raises:
        ValueError: at its end, naming the stack.
    """
    ran: dict[str, set[int]] = {stack: set() for stack in plan.selections}
    hooks = []
    for stack, i, layer in every_layer(subject.loaded.model):
        note = lambda *_, stack=stack, i=i: ran[stack].add(i)
        hooks.append(layer.register_forward_hook(note))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    for stack, kept in plan.kept.items():
        if any(ran.values()) and ran[stack] != set(kept):
            raise ValueError(
                f"{stack}: the layers {list(kept)} must run and no other, got {sorted(ran[stack])}"
            )

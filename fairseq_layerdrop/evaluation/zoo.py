# SPDX-License-Identifier: MIT
"""The quality of a pruned file, and whether it is the sub-network that was measured."""

from typing import Any

import torch
from sacrebleu.metrics import BLEU

from fairseq_layerdrop.evaluation.loading import Batches, load
from fairseq_layerdrop.evaluation.losses import score_losses
from fairseq_layerdrop.evaluation.significance import SAMPLES, loss_interval
from fairseq_layerdrop.evaluation.subject import Subject
from fairseq_layerdrop.evaluation.sweep import UNITS, Measures
from fairseq_layerdrop.modules.subnetwork import depths
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.reporting.rows import Row

CLOSE = 1e-5


def check_reloaded(subject: Subject, file: str, data: str, batches: Batches, row: Row) -> None:
    """Load a pruned file with fairseq's own loader, under its stock architecture, and compare.

    Raises:
        ValueError: if a sentence's loss differs from that of the sub-network in memory by more than
        1e-5 of it.
    """
    loaded = load(file, data, device=str(subject.loaded.device))
    kept = PruningPlan.everything(depths(loaded.model)).kept
    (losses,) = score_losses(loaded, batches.samples, [kept])
    expected = torch.tensor(row["units"], dtype=torch.float64)
    if not torch.allclose(losses.sums, expected, rtol=CLOSE, atol=CLOSE):
        most = float((losses.sums - expected).abs().max())
        raise ValueError(
            f"{file}: every loss must be that of the sub-network in memory, got one that is "
            f"{most:g} off"
        )


def worth(row: Row, measures: Measures) -> dict[str, Any]:
    """A plan's row for a manifest: with 95 % intervals, by bootstrap over the sentences."""
    facts = {name: value for name, value in row.items() if name not in UNITS}
    facts["loss_interval"] = list(loss_interval(row["units"], row["sizes"]))
    if "bleu" in row:
        score = BLEU().corpus_score(row["texts"], [list(measures.references)], n_bootstrap=SAMPLES)
        facts["bleu_interval"] = [score._mean - score._ci, score._mean + score._ci]
    return facts

# SPDX-License-Identifier: MIT
"""Texts against references: BLEU and chrF (sacreBLEU), ROUGE (rouge-score), with signatures."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any


def score_texts(
    hypotheses: Sequence[str], references: Sequence[str], metrics: Iterable[str]
) -> dict[str, Any]:
    """The corpus scores asked for, and the signature of each metric.

    Raises:
        ValueError: if not every sentence is there, or ROUGE's library is not.
    """
    if len(hypotheses) != len(references):
        raise ValueError(
            f"every one of the {len(references)} sentences must be scored, got {len(hypotheses)}; "
            "fairseq loses some unless it is given --required-batch-size-multiple 1"
        )
    scores: dict[str, Any] = {"metrics": {}}
    for name in metrics:
        score, signature = _METRICS[name](list(hypotheses), list(references))
        scores |= score
        scores["metrics"][name] = signature
    return scores


def _bleu(hypotheses: list[str], references: list[str]) -> tuple[dict[str, float], str]:
    from sacrebleu.metrics import BLEU

    metric = BLEU()
    score = metric.corpus_score(hypotheses, [references]).score
    return {"bleu": round(score, 2)}, str(metric.get_signature())


def _chrf(hypotheses: list[str], references: list[str]) -> tuple[dict[str, float], str]:
    from sacrebleu.metrics import CHRF

    metric = CHRF()
    score = metric.corpus_score(hypotheses, [references]).score
    return {"chrf": round(score, 2)}, str(metric.get_signature())


def _rouge(hypotheses: list[str], references: list[str]) -> tuple[dict[str, float], str]:
    try:
        from importlib.metadata import version

        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise ValueError(
            "ROUGE needs rouge-score: pip install 'fairseq-layerdrop[rouge]'"
        ) from None
    names = ("rouge1", "rouge2", "rougeL")
    scorer = RougeScorer(names, use_stemmer=True)
    each = [
        scorer.score(reference, text)
        for text, reference in zip(hypotheses, references, strict=True)
    ]
    means = {
        name: round(100 * sum(score[name].fmeasure for score in each) / len(each), 2)
        for name in names
    }
    return means, f"F1|stemmer:yes|rouge-score:{version('rouge-score')}"


_METRICS: dict[str, Callable[[list[str], list[str]], tuple[dict[str, float], str]]] = {
    "bleu": _bleu,
    "chrf": _chrf,
    "rouge": _rouge,
}

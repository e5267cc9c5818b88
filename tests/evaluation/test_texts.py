# SPDX-License-Identifier: MIT
"""Scores of texts: sacreBLEU's own, and none that did not see every sentence."""

import pytest
import sacrebleu

from fairseq_layerdrop.evaluation.texts import score_texts


def test_a_lost_sentence_is_an_error_that_names_the_mend() -> None:
    with pytest.raises(
        ValueError, match=r"the 4 sentences must be scored, got 3.*--required-batch-size-multiple 1"
    ):
        score_texts(["a", "b", "c"], ["a", "b", "c", "d"], ["bleu"])


def test_scores_are_sacrebleus_with_its_signatures() -> None:
    hypotheses, references = (
        ["the cat sat on the mat .", "a dog"],
        ["the cat sat on a mat .", "a dog runs"],
    )
    scores = score_texts(hypotheses, references, ["bleu", "chrf"])
    assert scores["bleu"] == round(sacrebleu.corpus_bleu(hypotheses, [references]).score, 2)
    assert scores["chrf"] == round(sacrebleu.corpus_chrf(hypotheses, [references]).score, 2)
    assert scores["metrics"]["bleu"].startswith("nrefs:1|case:mixed")

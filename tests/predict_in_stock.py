# SPDX-License-Identifier: MIT
"""Classify sentences as fairseq's README of RoBERTa does, with stock fairseq only.

predict_in_stock.py FOLDER CHECKPOINT SENTENCES OUT
"""

import sys
from pathlib import Path

from fairseq.models.roberta import RobertaModel

if __name__ == "__main__":
    folder, checkpoint, sentences, out = sys.argv[1:]
    assert not any(name.startswith("fairseq_layerdrop") for name in sys.modules)
    roberta = RobertaModel.from_pretrained(
        folder, checkpoint_file=checkpoint, bpe=None
    )  # the data has no BPE
    roberta.eval()
    labels = roberta.task.label_dictionary
    predicted = []
    for sentence in Path(sentences).read_text().splitlines():
        tokens = roberta.task.source_dictionary.encode_line(
            f"<s> {sentence} </s>", append_eos=False
        ).long()
        predicted.append(
            labels[
                int(roberta.predict("sentence_classification_head", tokens).argmax())
                + labels.nspecial
            ]
        )
    Path(out).write_text("\n".join(predicted) + "\n")

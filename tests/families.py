# SPDX-License-Identifier: MIT
"""The families of docs/families.md: how a tiny one is trained, and what it computes."""

from dataclasses import dataclass
from typing import Any

OPTIMIZER = [
    *(
        "--optimizer",
        "adam",
        "--lr",
        "0.01",
        "--clip-norm",
        "1.0",
        "--seed",
        "3",
        "--cpu",
        "--num-workers",
        "0",
    ),
    *("--required-batch-size-multiple", "1", "--no-epoch-checkpoints"),
]
ENCODER = [
    *(
        "--encoder-embed-dim",
        "32",
        "--encoder-ffn-embed-dim",
        "32",
        "--encoder-attention-heads",
        "2",
    ),
    *("--encoder-layers", "4", "--encoder-layerdrop", "0.5"),
]
DECODER = [
    *(
        "--decoder-embed-dim",
        "32",
        "--decoder-ffn-embed-dim",
        "32",
        "--decoder-attention-heads",
        "2",
    ),
    *("--decoder-layers", "4", "--decoder-layerdrop", "0.5"),
]
PAIRS = [
    "--batch-size",
    "10",
    "--criterion",
    "label_smoothed_cross_entropy",
    "--label-smoothing",
    "0.1",
]
LANGUAGES = ["--source-lang", "src", "--target-lang", "tgt"]
TEXT = ["--batch-size", "4", "--tokens-per-sample", "32", "--sample-break-mode", "complete"]
CLIPS = ["--max-tokens", "20000", "--max-sample-size", "4000", "--min-sample-size", "100"]
AUDIO = [
    "--final-dim",
    "16",
    "--conv-pos",
    "8",
    "--conv-pos-groups",
    "2",
    "--mask-length",
    "3",
    *CLIPS,
]
BOTH = {
    "both sides": ["--encoder-keep", "first:2", "--decoder-keep", "first:3"],
    "one side": ["--decoder-keep", "first:2"],
    "non-contiguous": ["--encoder-keep", "0,3", "--decoder-keep", "0,2"],
}
ENCODER_ALONE = {
    "one side": ["--encoder-keep", "first:2"],
    "non-contiguous": ["--encoder-keep", "0,3"],
}
DECODER_ALONE = {
    "one side": ["--decoder-keep", "first:2"],
    "non-contiguous": ["--decoder-keep", "0,3"],
}


@dataclass(frozen=True)
class Family:
    """A family: its data (a folder), the flags of its training, the cuts that it takes."""

    name: str
    data: str
    model: list[str]
    task: list[str]
    cuts: dict[str, list[str]]
    ours: bool = False
    made_from: str = ""
    """The family of the pre-trained model that this one is made from."""
    decoders: int = 1
    """A decoder a language; their encoder is shared."""
    needs_user_dir: bool = False
    """Whether stock fairseq on torch >= 2.6 refuses the options of every checkpoint of this
    family.
    """

    @property
    def once(self) -> list[str]:
        """The non-contiguous cut in the original's indices, ``0,2`` or ``0,3`` of each stack."""
        return self.cuts["non-contiguous"]

    @property
    def twice(self) -> tuple[list[str], list[str]]:
        """The same in two steps: layer 1 goes first, then what else goes."""
        first = [{"0,2": "0,2,3", "0,3": "0,2,3"}.get(flag, flag) for flag in self.once]
        return first, [{"0,2": "0,1", "0,3": "0,2"}.get(flag, flag) for flag in self.once]


FAMILIES = [
    Family(
        "layerdrop_transformer",
        "pairs",
        ["--arch", "layerdrop_transformer", *ENCODER, *DECODER, "--share-all-embeddings"],
        ["--task", "translation", *LANGUAGES, *PAIRS],
        BOTH,
        ours=True,
    ),
    Family(
        "layerdrop_transformer_lm",
        "text",
        [
            "--arch",
            "layerdrop_transformer_lm",
            *DECODER,
            "--decoder-input-dim",
            "32",
            "--decoder-output-dim",
            "32",
        ],
        ["--task", "language_modeling", "--criterion", "cross_entropy", *TEXT],
        DECODER_ALONE,
        ours=True,
    ),
    Family(
        "layerdrop_roberta",
        "text",
        ["--arch", "layerdrop_roberta", *ENCODER],
        ["--task", "masked_lm", "--criterion", "masked_lm", *TEXT],
        ENCODER_ALONE,
        ours=True,
    ),
    Family(
        "layerdrop_bart",
        "pairs",
        ["--arch", "layerdrop_bart", *ENCODER, *DECODER],
        ["--task", "translation", *LANGUAGES, *PAIRS],
        BOTH,
        ours=True,
        needs_user_dir=True,
    ),
    Family(
        "transformer_align",
        "pairs",
        ["--arch", "transformer_align", *ENCODER, *DECODER, "--alignment-layer", "2"],
        ["--task", "translation", *LANGUAGES, *PAIRS],
        {**BOTH, "one side": ["--encoder-keep", "first:2"]},  # the decoder's layer 2 must stay
    ),
    Family(
        "bart, mbart_base",
        "pairs",
        ["--arch", "mbart_base", *ENCODER, *DECODER],
        [
            "--task",
            "translation",
            *LANGUAGES,
            *PAIRS,
        ],  # fairseq's task for mBART fails on its own (self.args)
        BOTH,
        needs_user_dir=True,
    ),
    Family(
        "multilingual_transformer",
        "pairs",
        ["--arch", "multilingual_transformer", *ENCODER, *DECODER, "--share-encoders"],
        ["--task", "multilingual_translation", "--lang-pairs", "src-tgt,tgt-src", *PAIRS],
        BOTH,
        decoders=2,
    ),
    Family(
        "wav2vec2",
        "audio",
        [
            "--arch",
            "wav2vec2",
            *ENCODER,
            "--conv-feature-layers",
            "[(16,10,5)]+[(16,8,8)]",
            "--quantize-targets",
        ],
        [
            *(
                "--task",
                "audio_pretraining",
                "--criterion",
                "wav2vec",
                "--infonce",
                "--loss-weights",
                "[0.1,10]",
            ),
            *("--latent-vars", "8", *AUDIO),
        ],
        ENCODER_ALONE,
    ),
    Family(
        "hubert",
        "audio",
        ["--arch", "hubert", *ENCODER, "--conv-feature-layers", "[(16,10,5)]+[(16,8,8)]*2"],
        [
            *(
                "--task",
                "hubert_pretraining",
                "--criterion",
                "hubert",
                "--labels",
                '["km"]',
                "--label-rate",
                "50",
            ),
            *("--pred-masked-weight", "1", *AUDIO),
        ],
        ENCODER_ALONE,
    ),
    Family(
        "wav2vec_ctc",
        "audio",
        ["--arch", "wav2vec_ctc", "--layerdrop", "0.5"],
        # Without validation, which would need one more library.
        [
            "--task",
            "audio_finetuning",
            "--labels",
            "ltr",
            "--criterion",
            "ctc",
            "--disable-validation",
            *CLIPS,
        ],
        ENCODER_ALONE,
        made_from="wav2vec2",
    ),
]


def outputs(model: Any) -> Any:
    """What a model computes of a fixed input, as one row: logits, or features of speech."""
    import torch

    model.eval()
    with torch.no_grad():
        return torch.cat([tensor.flatten() for tensor in _outputs(model)])


def _outputs(model: Any) -> Any:
    import torch

    name = type(model).__name__
    generator = torch.Generator().manual_seed(1)
    if name in ("Wav2Vec2Model", "HubertModel"):
        features = model.extract_features(
            torch.randn(2, 4000, generator=generator), padding_mask=None, mask=False
        )
        return [features["x"] if isinstance(features, dict) else features[0]]
    if name == "Wav2VecCtc":
        return [
            model(source=torch.randn(2, 4000, generator=generator), padding_mask=None)[
                "encoder_out"
            ]
        ]
    source, target = (torch.randint(4, 14, (3, 7), generator=generator) for _ in "ab")
    source[:, -1] = 2  # BART looks for the end of the sentence
    if hasattr(model, "models"):  # one model a pair of languages
        return [part(source, torch.full((3,), 7), target)[0] for part in model.models.values()]
    if name in (
        "TransformerLanguageModel",
        "LayerDropTransformerLM",
        "RobertaModel",
        "LayerDropRoberta",
    ):
        return [model(source)[0]]
    return [model(source, torch.full((3,), 7), target)[0]]

# SPDX-License-Identifier: MIT
"""``README.md``: what the model is, where it comes from, and how it is used."""

import json
from collections.abc import Mapping
from typing import Any

from fairseq_layerdrop.formats.huggingface.agreement import Agreement
from fairseq_layerdrop.formats.huggingface.lines import LineAgreement
from fairseq_layerdrop.formats.huggingface.source import Target

_TAGS = {
    "MaskedLM": "fill-mask",
    "SequenceClassification": "text-classification",
    "CausalLM": "text-generation",
    "ForCTC": "automatic-speech-recognition",
    "Speech2TextForConditionalGeneration": "automatic-speech-recognition",
    "ForConditionalGeneration": "translation",
    "Model": "feature-extraction",
}
"""What transformers calls the things that models do, by the end of their class's name."""

_IDS = "ids: there is no tokenizer here; the id of a word is its place in dict.txt, plus 4"


def write(
    target: Target,
    stock: Mapping[str, Any],
    agreement: Agreement,
    lines: LineAgreement | None,
    use: str,
    *,
    tokenizer: bool,
) -> str:
    """The card's text.

    Args:
        target: the model.
        stock: the checkpoint that it was made from.
        agreement: how it was compared with fairseq.
        lines: how its tokenizer was compared, if it was.
        use: a program that uses it.
        tokenizer: whether there is one.
    """
    config = stock["cfg"]
    facts = [
        f"- class: {target.architecture} (transformers)",
        f"- fairseq: architecture `{_name(config['model'])}`, task `{_name(config.get('task'))}`",
        *_direction(config.get("task")),
        *_depths(target.config),
        *_origin(stock["extra_state"]["layerdrop"]),
        f"- compared with fairseq before it was written: {_compared(agreement)}",
        *_lines(lines),
        *([] if tokenizer else [f"- {_IDS}"]),
    ]
    head = ["---", "library_name: transformers", f"pipeline_tag: {tag(target.architecture)}", "---"]
    title = "# A fairseq model, exported by fairseq-layerdrop"
    return "\n".join([*head, "", title, "", *facts, "", "```python", use.strip(), "```", ""])


def tag(architecture: str) -> str:
    """What transformers calls what a class does."""
    return next(name for end, name in _TAGS.items() if architecture.endswith(end))


def _name(section: Any) -> str:
    section = section if isinstance(section, Mapping) else {"_name": section}
    return str(section.get("_name") or section.get("arch"))


def _direction(task: Any) -> list[str]:
    """From which language to which, where the task has any."""
    options = task if isinstance(task, Mapping) else {}
    named = [options.get(f"{side}_lang") for side in ("source", "target")]
    return [f"- direction: {named[0]} to {named[1]}"] if all(named) else []


def _depths(config: Mapping[str, Any]) -> list[str]:
    names = ("encoder_layers", "decoder_layers", "num_hidden_layers", "num_layers")
    return [f"- {name}: {config[name]}" for name in names if name in config]


def _origin(provenance: Mapping[str, Any]) -> list[str]:
    """The rates of training and each step of pruning, as the checkpoint tells them."""
    rates = [f"- LayerDrop in training: {json.dumps(provenance['rates'])}"]
    steps = [
        f"- from {step['source']}, fairseq-layerdrop {step['version']}, kept: "
        + "; ".join(
            f"{stack} {','.join(map(str, chosen['kept']))} of {chosen['depth']}"
            for stack, chosen in step["plan"].items()
        )
        for step in provenance["steps"]
    ]
    return [*(rates if provenance["rates"] else []), *steps]


def _compared(agreement: Agreement) -> str:
    said = f"{agreement.sentences} inputs, largest difference of an output {agreement.logits:.1e}"
    if agreement.generated:
        said += f"; greedy output equal on {agreement.generated} of {agreement.generated}"
    return said


def _lines(lines: LineAgreement | None) -> list[str]:
    if lines is None:
        return []
    equal = lines.lines - len(lines.different)
    return [f"- tokenizer: {equal:,} of {lines.lines:,} lines have fairseq's ids"]

# SPDX-License-Identifier: MIT
"""``fairseq-layerdrop export``: hand a model, or its weights, to other programs."""

import json
import shlex
from argparse import ArgumentParser, Namespace
from typing import Any

from rich.console import Console

from fairseq_layerdrop.cli._check import add_check, add_user_dir
from fairseq_layerdrop.cli._evaluation import quiet
from fairseq_layerdrop.formats.languages import PIECES
from fairseq_layerdrop.operations._choices import TARGETS

SUMMARY = "write a model as a folder for transformers, for CTranslate2, or as safetensors"
EXAMPLE = "fairseq-layerdrop export small.pt DATA small.ct2 --to ctranslate2 --quantization int8"

QUANTIZATIONS = (
    "int8",
    "int8_float32",
    "int8_float16",
    "int8_bfloat16",
    "int16",
    "float16",
    "bfloat16",
    "float32",
)
USES = {
    "translator": """\
import ctranslate2
translator = ctranslate2.Translator({output!r})
limits = dict(max_decoding_length=200, max_input_length=0)
result = translator.translate_batch([PIECES], beam_size=5, **limits)
print(result[0].hypotheses[0])
""",
    "multilingual": """\
import ctranslate2
translator = ctranslate2.Translator({output!r})
limits = dict(max_decoding_length=200, max_input_length=0{end})
prefix = {prefix}
result = translator.translate_batch(
    [[{source}]], target_prefix=[prefix], beam_size=5, **limits
)
marks = {{"<s>", "</s>", *prefix}}
print([piece for piece in result[0].hypotheses[0] if piece not in marks])
""",
    "generator": """\
import ctranslate2
generator = ctranslate2.Generator({output!r})
print(generator.score_batch([["</s>", *WORDS]], max_input_length=0)[0].log_probs)
""",
    "safetensors": """\
from safetensors import safe_open
with safe_open({output!r} + "/model.safetensors", "pt") as file:
    state, ties = {{name: file.get_tensor(name) for name in file.keys()}}, file.metadata()
""",
}


def add_arguments(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "checkpoint", metavar="CKPT", help="a fairseq checkpoint (.pt), pruned or not; not changed"
    )
    parser.add_argument(
        "data", metavar="DATA", help="the data set in fairseq's binary form, for its dictionaries"
    )
    parser.add_argument("output", metavar="OUT", help="the folder to write")
    parser.add_argument("--to", choices=TARGETS, required=True, help="the form")
    parser.add_argument(
        "--quantization",
        choices=QUANTIZATIONS,
        help="how CTranslate2's weights are stored (default: in single precision)",
    )
    parser.add_argument(
        "--fixed-dictionary",
        metavar="FILE",
        help="for ctranslate2, the dictionary of all languages of a multilingual model (default: "
        "the training's, in DATA or where it was)",
    )
    _add_huggingface(parser)
    parser.add_argument(
        "--force", action="store_true", help="replace OUT, if it is a folder that an export wrote"
    )
    add_check(parser)
    add_user_dir(parser)
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")


def _add_huggingface(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("--to huggingface")
    group.add_argument(
        "--head",
        metavar="NAME",
        help="the classification head of a RoBERTa (default: its language model)",
    )
    group.add_argument(
        "--sentencepiece",
        nargs="+",
        metavar="FILE",
        help="the sentencepiece model of the text, for a tokenizer; of source and target, if they "
        "have two",
    )
    group.add_argument(
        "--gpt2-bpe",
        nargs=2,
        metavar=("ENCODER_JSON", "VOCAB_BPE"),
        help="the files of GPT-2's BPE, if the text was encoded by that",
    )
    group.add_argument(
        "--bpe-codes",
        metavar="FILE",
        help="subword-nmt's codes, if the text was tokenized by Moses and encoded by them",
    )
    group.add_argument(
        "--text",
        metavar="FILE",
        help="raw text on which the tokenizer is compared with fairseq",
    )


def run(args: Namespace) -> None:
    """Run the verb."""
    from fairseq_layerdrop.operations.export import export

    quiet()
    with Console(stderr=True).status(f"writing {args.output}"):
        facts = export(
            args.checkpoint,
            args.data,
            args.output,
            args.to,
            quantization=args.quantization,
            fixed_dictionary=args.fixed_dictionary,
            head=args.head,
            sentencepiece=args.sentencepiece or (),
            gpt2_bpe=args.gpt2_bpe or (),
            bpe_codes=args.bpe_codes,
            text=args.text,
            check=args.check,
            user_dir=args.user_dir,
            force=args.force,
        )
    facts.setdefault("use", _use(facts))
    print(json.dumps(facts, indent=2)) if args.json else _print(facts)


def _use(facts: dict[str, Any]) -> list[str]:
    """The lines of Python that load what was written."""
    if "marks" in facts:
        return _use_of_languages(facts["output"], facts["marks"])
    engine = "translator" if "encoder" in facts["depth"] else "generator"
    use = USES["safetensors" if facts["to"] == "safetensors" else engine]
    return use.format(output=facts["output"]).splitlines()


def _use_of_languages(output: str, marks: dict[str, Any]) -> list[str]:
    source = ", ".join("*PIECES" if word == PIECES else repr(word) for word in marks["source"])
    end = f", end_token={marks['end']!r}" if marks["end"] else ""
    words = {"source": source, "prefix": [*marks["prefix"]], "end": end}
    return USES["multilingual"].format(output=output, **words).splitlines()


def _print(facts: dict[str, Any]) -> None:
    print(f"depth: {', '.join(f'{stack} {depth}' for stack, depth in facts['depth'].items())}")
    if facts["to"] == "ctranslate2":
        print(f"quantization: {facts['quantization'] or 'none'}")
    if facts["to"] == "huggingface":
        _print_comparison(facts)
    before, after = facts["bytes"]
    print(f"bytes: {before:,} -> {after:,}")
    print(f"check: {facts['check']}")
    print(f"written: {facts['output']}: {', '.join(facts['files'])}")
    print("use it by:", *facts["use"], sep="\n  ")
    if "marks" in facts:
        print(f"languages: {_flags(facts['marks'])}")


def _flags(marks: dict[str, Any]) -> str:
    """The marks of the languages, as scripts/translate_ctranslate2.py takes them."""
    flags = ["--source", " ".join(marks["source"])]
    flags += ["--prefix", " ".join(marks["prefix"])] if marks["prefix"] else []
    flags += ["--end", marks["end"]] if marks["end"] else []
    return shlex.join(flags)


def _print_comparison(facts: dict[str, Any]) -> None:
    """Which class it is, and how far it is from fairseq; every line whose ids are others."""
    compared, tokenizer = facts["compared"], facts["tokenizer"]
    print(f"class: {facts['class']}")
    print(
        f"compared with fairseq: {compared['sentences']} inputs, largest difference of an output "
        f"{compared['logits']:.1e}"
    )
    if compared["generated"]:
        print(f"greedy output: equal on {compared['generated']} of {compared['generated']}")
    if tokenizer is None:
        return
    equal, lines = tokenizer["equal"], tokenizer["lines"]
    print(f"tokenizer: {equal:,} of {lines:,} lines have fairseq's ids ({equal / lines:.2%})")
    for line in tokenizer["different"]:
        print(f"  line {line['number']}: {line['text']}")
        print(f"    fairseq:  {' '.join(line['fairseq'])}")
        print(f"    exported: {' '.join(line['exported'])}")

# SPDX-License-Identifier: MIT
"""A loaded fairseq model, as the converters see it."""

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from fairseq_layerdrop.formats.huggingface.options import mapped, refusals
from fairseq_layerdrop.formats.huggingface.source import FAMILIES, Source


def read(model: Any, task: Any, saved: Mapping[str, Any]) -> Source:
    """A loaded fairseq model, ready to be converted.

    Args:
        model: of stock fairseq, as its loading code built and filled it.
        task: the task that it was trained on, for the dictionaries.
        saved: the options of the model in its checkpoint.

    Raises:
        ValueError: naming the model's class or the options that have no home in transformers.
    """
    name = type(model).__name__
    if name not in FAMILIES:
        raise ValueError(f"transformers has no home for {name}; taken are {', '.join(FAMILIES)}")
    options = {**saved, **_options(model, FAMILIES[name], saved)}
    if found := list(refusals(options)):
        raise ValueError(f"transformers has no home for {', '.join(found)}")
    words = dictionary(task)
    start, forced, end = _ends(model, task, FAMILIES[name])
    return Source(
        family=FAMILIES[name],
        options=mapped(options),
        state={key: value.float() for key, value in model.state_dict().items()},
        bos=words.bos() if words else 0,
        pad=words.pad() if words else 1,
        eos=words.eos() if words else 2,
        start=start,
        forced=forced,
        end=end,
    )


def dictionary(task: Any) -> Any | None:
    """The words of what is read, or of what is written where sound is read; some tasks of sound
    have none.
    """
    return getattr(task, "source_dictionary", None) or getattr(task, "target_dictionary", None)


def _ends(model: Any, task: Any, family: str) -> tuple[int, int | None, int]:
    """What a decoder is given first, what it is made to write then, and what ends its text."""
    if family not in ("bart", "transformer", "s2t_transformer"):
        return 2, None, 2
    end = task.build_generator([model], Namespace(beam=1)).eos
    languages = getattr(task, "data_manager", None)
    kind = task.args.langtoks["main"][1] if languages else None
    if languages is None or kind is None:
        return end, None, end
    language = languages.get_decoder_langtok(task.args.target_lang, kind)
    if task.args.lang_tok_replacing_bos_eos:
        return language, None, end
    return end, language, end


def _options(model: Any, family: str, saved: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a model was built with, its architecture's defaults filled in."""
    if family.removesuffix("_ctc") in ("wav2vec2", "hubert"):
        return _of_sound(model, family, saved)
    holder = model.decoder if family in ("transformer_lm", "s2t_transformer") else model
    args = getattr(holder, "args", None) or holder.cfg
    options = _fields(args)
    for section in ("encoder", "decoder", "quant_noise"):
        nested = _fields(options.pop(section, None))  # of fairseq's TransformerConfig
        options |= {f"{section}_{name}": value for name, value in nested.items()}
    return options


def _of_sound(model: Any, family: str, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Of an encoder of sound: in a CTC model it is inside, and so are its options."""
    from fairseq.models import MODEL_DATACLASS_REGISTRY

    kind = family.removesuffix("_ctc")
    options = asdict(MODEL_DATACLASS_REGISTRY[kind]())
    if kind != family:
        inner = saved["w2v_args"] or {}
        model = model.w2v_encoder.w2v_model
        saved = {**(inner.get("model") or inner), **_in_training(saved)}
    options |= saved
    # Files of 2020 may lack what fairseq fills in as it builds the model.
    options |= _fields(getattr(model, "cfg", None))
    layers = model.feature_extractor.conv_layers
    return options | {"conv_strides": [layer[0].stride[0] for layer in layers]}


def _in_training(saved: Mapping[str, Any]) -> dict[str, Any]:
    """What fine-tuning set anew."""
    return {name: value for name, value in saved.items() if name not in ("w2v_args", "_name")}


def _fields(section: Any) -> dict[str, Any]:
    if section is None:
        return {}
    return dict(section) if hasattr(section, "keys") else dict(vars(section))

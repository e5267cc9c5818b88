# SPDX-License-Identifier: MIT
"""``fairseq-layerdrop export --to huggingface``: transformers, where fairseq is not, computes what
fairseq does.
"""

import json
from pathlib import Path

import pytest
import torch
from commands import Command, alone, assert_one_line
from fairseq_programs import hypotheses, prune
from huggingface_models import (
    ENCODER,
    MASKED,
    PAIRS,
    PRE,
    TEXT,
    WIDE,
)
from planted import subject, write_model

from fairseq_layerdrop import cli
from fairseq_layerdrop.evaluation.loading import Batches

pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("short_texts")

LANGUAGES = ["--source-lang", "src", "--target-lang", "tgt"]
DEEP = ["--encoder-layers", "3", "--decoder-layers", "3"]
SOUND = [
    *("--final-dim", "16", "--conv-pos", "8", "--conv-pos-groups", "2", *ENCODER),
    *("--conv-feature-layers", "[(16,10,5)]+[(16,8,8)]", *DEEP[:2]),
]
FAMILIES: dict[str, tuple[str, str, list[str]]] = {
    "RoBERTa": ("text_data", "RobertaForMaskedLM", [*MASKED, "roberta_base", *DEEP[:2]]),
    "BART": ("data", "BartForConditionalGeneration", [*PAIRS, "bart_base", *LANGUAGES, *DEEP]),
    "mBART": (
        "data",
        "MBartForConditionalGeneration",
        [*PAIRS, "mbart_base", *PRE, *LANGUAGES, *DEEP],
    ),
    "pre-norm Transformer": (
        "data",
        "M2M100ForConditionalGeneration",
        [*PAIRS, "transformer", "--share-all-embeddings", *PRE, *LANGUAGES, *DEEP],
    ),
    "post-norm Transformer": (
        "data",
        "FSMTForConditionalGeneration",
        [*PAIRS, "transformer", *LANGUAGES, *DEEP],
    ),
    "language model": ("text_data", "OPTForCausalLM", [*TEXT, *WIDE, *DEEP[2:]]),
    "wav2vec2": (
        "audio_data",
        "Wav2Vec2Model",
        ["--task", "audio_pretraining", "--arch", "wav2vec2", *SOUND, "--latent-vars", "8"],
    ),
    "HuBERT": (
        "audio_data",
        "HubertModel",
        [
            *("--task", "hubert_pretraining", "--labels", '["km"]', "--label-rate", "50"),
            *("--arch", "hubert", *SOUND),
        ],
    ),
}
KEPT = {"whole": "all", "one side": "first:2", "non-contiguous": "0,2"}
EVERY = [
    pytest.param(
        family,
        plan,
        marks=[] if plan == "non-contiguous" or family == "BART" else pytest.mark.slow,
        id=f"{family}, {plan}",
    )
    for family in FAMILIES
    for plan in KEPT
]
"""A family whose layers are not its first ones is what goes wrong; one has every plan always."""


def export(source: Path, data: Path, target: Path, *flags: object) -> Path:
    """Run the verb in this process."""
    said = ["export", str(source), str(data), str(target), "--to", "huggingface"]
    assert cli.main([*said, *map(str, flags)]) == 0
    return target


@pytest.mark.parametrize(("family", "plan"), EVERY)
def test_every_family_pruned_by_every_plan(
    family: str, plan: str, request: pytest.FixtureRequest, tmp_path: Path, command: Command
) -> None:
    data, expected, flags = FAMILIES[family]
    folder: Path = request.getfixturevalue(data)
    whole = write_model(folder, tmp_path / "whole.pt", *flags, scale=1)
    side = "--decoder-keep" if "decoder" in " ".join(flags) else "--encoder-keep"
    both = ["--encoder-keep", KEPT[plan]] if plan == "non-contiguous" and data == "data" else []
    small = prune(whole, tmp_path / "small.pt", side, KEPT[plan], *both)
    done = command(*("export", small, folder, tmp_path / "out", "--to", "huggingface", "--json"))
    assert done.status == 0, done.err
    facts = json.loads(done.out)
    assert facts["class"] == expected
    assert facts["compared"]["logits"] < 1e-5
    assert facts["compared"]["generated"] == (
        facts["compared"]["sentences"] if "For" in expected and "Masked" not in expected else 0
    )
    assert {"README.md", "config.json", "model.safetensors"} <= {*facts["files"]}


def test_an_official_checkpoint_translates_where_fairseq_is_not(
    official: Path, tmp_path: Path
) -> None:
    """By beam search, as the folder says, and as official fairseq printed."""
    data = official / "data-bin"
    small = prune(official / "checkpoint.pt", tmp_path / "small.pt", "--decoder-keep", "0,2,4")
    out = export(small, data, tmp_path / "out")
    tested = subject(small, data)
    words, pad = tested.loaded.task.target_dictionary, 1
    expected = hypotheses((official / "expected" / "enc012345.dec024.txt").read_text())
    numbers, rows = [], []
    for sample in Batches(tested.loaded, "test"):
        numbers += sample["id"].tolist()
        rows += [row[row != pad].tolist() for row in sample["net_input"]["src_tokens"]]
    longest = max(map(len, rows))
    ids = [[*row, *[pad] * (longest - len(row))] for row in rows]
    (found,) = alone([{"folder": str(out), "ids": ids}])
    texts = [words.string(torch.tensor([i for i in row[1:] if i != pad])) for row in found]
    same = [text == expected[number][1] for number, text in zip(numbers, texts, strict=True)]
    assert (len(same), sum(same)) == (100, 100)


def test_what_was_written_says_what_it_is(data: Path, tmp_path: Path, command: Command) -> None:
    flags = FAMILIES["BART"][2]
    whole = write_model(data, tmp_path / "whole.pt", *flags, scale=1)
    small = prune(whole, tmp_path / "small.pt", "--decoder-keep", "0,2")
    done = command("export", small, data, tmp_path / "out", "--to", "huggingface")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "class: BartForConditionalGeneration" in done.out
    assert "decoder 0,2 of 3" in card
    assert "architecture `bart_base`" in card
    assert "the id of a word is its place in dict.txt, plus 4" in card
    assert (tmp_path / "out" / "dict.src.txt").is_file()
    exec(compile(done.out.partition("use it by:")[2].replace("\n  ", "\n"), "use", "exec"), {})


@pytest.fixture(scope="module")
def model(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Transformer for what is refused."""
    target = tmp_path_factory.mktemp("model") / "model.pt"
    return write_model(data, target, *FAMILIES["post-norm Transformer"][2], scale=1)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--head", "mnli"], "--head mnli: only a RoBERTa has heads"),
        (["--text", "FILE"], "--text goes with a tokenizer's files"),
        (["--sentencepiece", "FILE"], "FILE is not a sentencepiece model"),
        (["--sentencepiece", "nowhere"], "there is no file nowhere"),
        (["--bpe-codes", "FILE"], "holds no codes of subword-nmt"),
        (["--sentencepiece", "FILE", "--bpe-codes", "FILE"], "only one of --sentencepiece"),
        (["--quantization", "int8"], "--quantization goes with"),
    ],
)
def test_a_wrong_option_is_one_line_and_leaves_nothing(
    model: Path, data: Path, tmp_path: Path, command: Command, flags: list[str], words: str
) -> None:
    file = tmp_path / "FILE"
    file.write_text("nothing\n")
    given = [str(file) if flag == "FILE" else flag for flag in flags]
    done = command("export", model, data, tmp_path / "out", "--to", "huggingface", *given)
    assert_one_line(done, words.replace("FILE", str(file)))
    assert [*tmp_path.iterdir()] == [file]


def test_a_folder_that_is_there_is_left_alone(
    model: Path, data: Path, tmp_path: Path, command: Command
) -> None:
    (tmp_path / "out").mkdir()
    done = command("export", model, data, tmp_path / "out", "--to", "huggingface")
    assert_one_line(done, "exists; name another folder")
    assert [*tmp_path.rglob("*")] == [tmp_path / "out"]


TRANSLATION = ["--task", "translation", *LANGUAGES, "--arch"]
HOMELESS = {
    "a family": (
        *("data", [*TRANSLATION, "lightconv_iwslt_de_en"], []),
        "transformers has no home for LightConvModel",
    ),
    "an option": (
        *("data", [*FAMILIES["post-norm Transformer"][2], "--no-token-positional-embeddings"], []),
        "transformers has no home for --no-token-positional-embeddings",
    ),
    "a head": (
        *("text_data", FAMILIES["RoBERTa"][2], ["--head", "rte"]),
        "--head rte: the model's classification heads are: none",
    ),
    "other pieces": (
        *("text_data", FAMILIES["RoBERTa"][2], ["--sentencepiece", "PIECES"]),
        "the model has 0 of the dictionary's",
    ),
}


@pytest.mark.parametrize("what", HOMELESS)
def test_what_has_no_home_is_one_line_and_leaves_nothing(
    what: str,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    command: Command,
) -> None:
    fixture, flags, extra, words = HOMELESS[what]
    data: Path = request.getfixturevalue(fixture)
    source = write_model(data, tmp_path / "model.pt", *flags)
    pieces = tmp_path_factory.mktemp("pieces") / "digits.model"
    if "PIECES" in extra:
        write_pieces(pieces)
    extra = [str(pieces) if word == "PIECES" else word for word in extra]
    done = command("export", source, data, tmp_path / "out", "--to", "huggingface", *extra)
    assert_one_line(done, words)
    assert [*tmp_path.iterdir()] == [source]


def write_pieces(target: Path) -> None:
    """A sentencepiece model of another text."""
    sentencepiece = pytest.importorskip("sentencepiece")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["1 2 3 4", "5 6 7 8"] * 9),
        model_prefix=str(target.with_suffix("")),
        model_type="bpe",
        vocab_size=16,
        hard_vocab_limit=False,
        minloglevel=2,
    )


def test_a_dictionary_that_does_not_fit_is_one_line(
    model: Path, tmp_path: Path, command: Command
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for side in ("src", "tgt"):
        (data / f"dict.{side}.txt").write_text("".join(f"w{i} 1\n" for i in range(50)))
    done = command("export", model, data, tmp_path / "out", "--to", "huggingface")
    assert_one_line(done, "does not fit the data")
    assert [*tmp_path.iterdir()] == [data]

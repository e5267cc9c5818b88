# SPDX-License-Identifier: MIT
"""What a newcomer types from docs/export.md runs, as it stands there, on tiny models."""

import json
import shlex
import shutil
import threading
import urllib.request
from pathlib import Path
from typing import Any

import documents
import pytest
from fairseq_programs import LANGUAGES, REPOSITORY
from gpt2 import gpt2_files
from huggingface_models import ENCODER, MASKED, ONE_TABLE, PAIRS, PRE
from planted import write_model

from fairseq_layerdrop import cli

pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("short_texts")

PAGE = REPOSITORY / "docs" / "export.md"
TRANSLATE, FILL, _, SERVER = documents.blocks(PAGE, "python")


def type_commands(block: int) -> None:
    """Run the commands of a block, in the folder where this process is."""
    for line in documents.blocks(PAGE, "bash")[block].replace("\\\n", " ").splitlines():
        program, *words = shlex.split(line)
        assert (program, cli.main(words)) == ("fairseq-layerdrop", 0)


@pytest.fixture(scope="module")
def translation(pieces: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the page's first commands were typed."""
    folder, (data, model) = tmp_path_factory.mktemp("page"), pieces
    deep = ["--encoder-layers", "2", "--decoder-layers", "3"]
    shape = [*PAIRS, "transformer", ONE_TABLE, *PRE, *LANGUAGES, *deep]
    write_model(data, folder / "full.pt", *shape, scale=1)
    (folder / "DATA").symlink_to(data)
    shutil.copy(model, folder / "bpe.model")
    (folder / "valid.en").write_text("a b c\nd e\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        type_commands(0)
    return folder


def test_a_translation_is_printed(
    translation: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(translation)
    names: dict[str, Any] = {}
    exec(compile(TRANSLATE, "page", "exec"), names)
    decoded = names["tokenizer"].decode(names["ids"][0], skip_special_tokens=True)
    assert capsys.readouterr().out.splitlines()[-1] == decoded != ""
    assert names["model"].config.decoder_layers == 2


def test_the_server_answers(translation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(translation)
    text, forever = SERVER.rstrip().rsplit("\n", 1)
    names: dict[str, Any] = {}
    exec(compile(text.replace("8000", "0"), "page", "exec"), names)  # 0: any port that is free
    server = names["server"]
    assert forever == "server.serve_forever()"
    once = threading.Thread(target=server.handle_request)
    once.start()
    lines = json.dumps(["a b c", "d"]).encode()
    address = f"http://127.0.0.1:{server.server_port}"
    with urllib.request.urlopen(address, lines, timeout=300) as answer:
        texts = json.loads(answer.read())
    once.join()
    server.server_close()
    batch = names["tokenizer"](["d"], return_tensors="pt", return_token_type_ids=False)
    (alone,) = names["model"].generate(**batch)
    assert texts[1] == names["tokenizer"].decode(alone, skip_special_tokens=True)
    assert len(texts) == 2


def test_a_mask_is_filled_and_a_head_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    gpt2_files(tmp_path, ["A dog runs in the grass.", "Two dogs in the grass."])
    numbers = json.loads((tmp_path / "encoder.json").read_text()).values()
    for folder, words in (("", numbers), ("input0", numbers), ("label", ("no", "yes"))):
        (tmp_path / "DATA" / folder).mkdir(exist_ok=True)
        lines = [f"{word} 1\n" for word in words]
        (tmp_path / "DATA" / folder / "dict.txt").write_text("".join(lines))
    write_model(tmp_path / "DATA", tmp_path / "roberta.pt", *MASKED, "roberta_base")
    sentences = ["--task", "sentence_prediction", "--num-classes", "2", *ENCODER]
    arch = ["--criterion", "sentence_prediction", "--arch", "roberta_base"]
    write_model(tmp_path / "DATA", tmp_path / "mnli.pt", *sentences, *arch)
    type_commands(1)
    capsys.readouterr()
    exec(compile(FILL, "page", "exec"), {})
    assert "token_str" in capsys.readouterr().out
    config = json.loads((tmp_path / "mnli-hf" / "config.json").read_text())
    assert config["architectures"] == ["RobertaForSequenceClassification"]

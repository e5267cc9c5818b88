# SPDX-License-Identifier: MIT
"""A pruned checkpoint, loaded by stock fairseq, goes through TorchScript."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fairseq.checkpoint_utils import load_model_ensemble
from fairseq.models.transformer import TransformerModel


@pytest.mark.filterwarnings("ignore")
def test_a_pruned_stock_model_scripts_and_says_the_same(
    data: Path, pruned: Callable[..., Path], tmp_path: Path
) -> None:
    path = pruned("--encoder-keep", "0,2", "--decoder-keep", "1")
    (model,), _ = load_model_ensemble([str(path)], arg_overrides={"data": str(data)})
    assert type(model) is TransformerModel
    model.eval()
    torch.jit.script(model).save(str(tmp_path / "model.ts"))
    scripted = torch.jit.load(str(tmp_path / "model.ts"))
    words = torch.randint(4, 24, (3, 7), generator=torch.Generator().manual_seed(2))
    lengths = torch.tensor([7, 7, 7])
    with torch.no_grad():
        for _ in range(3):  # TorchScript optimizes after the first calls
            expected, found = model(words, lengths, words)[0], scripted(words, lengths, words)[0]
            assert torch.allclose(found, expected, atol=1e-6)
    assert expected.std() > 0.01

# SPDX-License-Identifier: MIT
"""Load checkpoints with stock fairseq, and write what each computes.

outputs_in_stock.py OUT CHECKPOINT...                        stock fairseq alone
outputs_in_stock.py OUT --user-dir FOLDER CHECKPOINT...      with a plugin
"""

import re
import sys
from argparse import Namespace

import torch
from fairseq import checkpoint_utils, utils
from families import outputs

if __name__ == "__main__":
    target, *paths = sys.argv[1:]
    if paths[0] == "--user-dir":
        utils.import_user_module(Namespace(user_dir=paths[1]))
        paths = paths[2:]
    else:
        assert not any(name.startswith("fairseq_layerdrop") for name in sys.modules)
    results = []
    for path in paths:
        (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([path])
        layers = [name for name, _ in model.named_modules() if re.search(r"\.layers\.\d+$", name)]
        results.append(
            {"model": type(model).__name__, "layers": len(layers), "outputs": outputs(model)}
        )
    torch.save(results, target)

# SPDX-License-Identifier: MIT
"""What exported models compute in a process that has no fairseq. Each line on stdin names a folder
and a batch of padded ids; each line on stdout has logits, or what is generated.
"""

import json
import sys

for name in ("fairseq", "fairseq_layerdrop", "torchaudio"):
    sys.modules[name] = None

import torch  # noqa: E402
import transformers  # noqa: E402

for line in sys.stdin:
    asked = json.loads(line)
    ids = torch.tensor(asked["ids"])
    mask = ids.ne(1).long()
    config = transformers.AutoConfig.from_pretrained(asked["folder"])
    model = getattr(transformers, config.architectures[0]).from_pretrained(asked["folder"])
    with torch.no_grad():
        if config.is_encoder_decoder:
            answer = model.generate(input_ids=ids, attention_mask=mask)
        else:
            answer = model(ids, attention_mask=mask).logits
    print(json.dumps(answer.tolist()), flush=True)

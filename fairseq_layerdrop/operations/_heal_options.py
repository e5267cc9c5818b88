# SPDX-License-Identifier: MIT
"""How a cut model is healed, and the flags of ``fairseq-train`` that do it."""

import math
import os
import shlex
from argparse import ArgumentParser
from dataclasses import asdict, dataclass
from typing import Any

from fairseq_layerdrop.operations._facts import USER_DIR, training_flags
from fairseq_layerdrop.pruning.config import stock_config
from fairseq_layerdrop.pruning.plan import PruningPlan
from fairseq_layerdrop.pruning.source import Source

DISTILLING = (
    *("label_smoothed_cross_entropy", "cross_entropy", "adaptive_loss"),
    *("masked_lm", "sentence_prediction"),
)
"""The criterions that can be trained with a teacher."""
RATE = 1.0
"""The peak learning rate, as a share of that of the whole model's training."""
WARMUP = 0.05
"""The share of the updates in which the rate rises; from there it falls to 0 in a line."""

_OWN = (
    *("--max-update", "--max-epoch", "--stop-time-hours"),
    *("--save-dir", "--no-save", "--disable-validation"),
)


@dataclass(frozen=True)
class HealOptions:
    """How each point is healed."""

    share: float = 0.25
    """Of the updates of the whole model's training."""
    max_update: int | None = None
    """This many updates instead."""
    chained: bool = True
    """Start from the smallest healed model that has a point's layers, not from the whole one."""
    teacher: bool = True
    """Learn from the whole model's distribution, too."""
    flags: tuple[str, ...] = ()
    """More flags of ``fairseq-train``, which win; none of what heal needs to know itself."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.share):
            raise ValueError(f"share= is a share of the updates, like 0.25, got {self.share}")
        for name in (flag.partition("=")[0] for flag in self.flags):
            if name in _OWN:
                raise ValueError(
                    f"{name} is heal's own and cannot be among the flags of fairseq-train; "
                    "max_update= says how long each point is trained"
                )

    def updates(self, source: Source) -> int:
        """How many there are.

        Raises:
            ValueError: if there are none, or the checkpoint does not say how long it was trained.
        """
        history = source.checkpoint.get("optimizer_history") or [{}]
        trained = int(history[-1].get("num_updates", 0))
        count = round(self.share * trained) if self.max_update is None else self.max_update
        if count < 1:
            raise ValueError(
                f"a point takes at least 1 update, got {count} ({trained} of the whole model's); "
                "give max_update="
            )
        return count

    def check(self, source: Source) -> None:
        """Refuse a model that cannot be trained so, before anything is written.

        Raises:
            ValueError: naming what stands in the way.
        """
        from fairseq_layerdrop.evaluation.options import training_options

        whole = PruningPlan.everything(source.depths)
        training_options(stock_config(source.checkpoint["cfg"], whole), self._distilling)

    def trained_on(self, source: Source) -> str:
        """The split of the data that is trained on."""
        own = source.checkpoint["cfg"].get("dataset", {}).get("train_subset", "train")
        parser = ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument("--train-subset", default=own)
        return str(parser.parse_known_args(self.flags)[0].train_subset)

    @property
    def _distilling(self) -> tuple[str, ...] | None:
        return DISTILLING if self.teacher else None

    def to_json(self) -> dict[str, Any]:
        """In plain containers."""
        return {**asdict(self), "rate": RATE, "flags": list(self.flags)}

    def arguments(
        self,
        cut: Source,
        plan: PruningPlan,
        *,
        whole: Source,
        data: str,
        updates: int,
        user_dir: str | os.PathLike[str],
    ) -> list[str]:
        """Of ``fairseq-train``: as the whole model was trained, but shorter, from the cut one.

        Args:
            cut: the model to be healed.
            plan: what it has of the whole one.
            whole: the teacher, whose learning rate counts.
            data: that the whole model was trained on.
            updates: how many.
            user_dir: the plugin: this package, and whatever else the model needs.

        Raises:
            ValueError: if the model's options are none that can be trained so.
        """
        from fairseq_layerdrop.evaluation.options import own_flags, training_options

        cfg = cut.checkpoint["cfg"]
        model = training_flags(cut.checkpoint, cut.path, with_optimizer=False)
        options = training_options(cfg, self._distilling)
        rate = RATE * max(_numbers(whole.checkpoint["cfg"]["optimization"]["lr"]))
        own = cfg["criterion"]["_name"]
        if self.teacher:
            learning = ["--criterion", "layerdrop_distill", "--distill-criterion", own]
            learning += ["--distill-weight", "1", "--distill-teacher", whole.path]
            learning += ["--distill-plan", str(plan)]
        else:
            learning = ["--criterion", own]
        return [
            *(data, "--user-dir", str(user_dir)),
            *shlex.split(model.removeprefix(USER_DIR)),
            *own_flags(cfg),
            *options,
            *learning,
            *("--lr", f"{rate:g}", "--lr-scheduler", "polynomial_decay"),
            *("--warmup-updates", str(round(WARMUP * updates))),
            *("--total-num-update", str(updates), "--max-update", str(updates)),
            *("--save-interval-updates", str(max(1, updates // 4)), "--keep-interval-updates", "1"),
            *("--no-epoch-checkpoints", "--log-format", "json", "--log-interval", "10"),
            *self.flags,
        ]


def _numbers(value: Any) -> list[float]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return [float(one) for one in values]

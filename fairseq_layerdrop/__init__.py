# SPDX-License-Identifier: MIT
"""Train one Transformer, ship it at any depth: LayerDrop for fairseq.

This package imports neither torch nor fairseq by itself, so that ``--user-dir``, the command and a
plain ``import`` stay cheap. The functions of the Python API are imported when they are asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fairseq_layerdrop.evaluation.loading import load as load
    from fairseq_layerdrop.evaluation.search import SearchOptions as SearchOptions
    from fairseq_layerdrop.operations._evaluation import EvaluationOptions as EvaluationOptions
    from fairseq_layerdrop.operations._heal_options import HealOptions as HealOptions
    from fairseq_layerdrop.operations.average import average as average
    from fairseq_layerdrop.operations.export import export as export
    from fairseq_layerdrop.operations.heal import heal as heal
    from fairseq_layerdrop.operations.prune import prune as prune
    from fairseq_layerdrop.operations.search import search as search
    from fairseq_layerdrop.operations.zoo import zoo as zoo

__version__ = "0.1.0"

if __name__ != "fairseq_layerdrop":  # fairseq imports a --user-dir by the folder's name
    raise ImportError(
        "--user-dir: the folder (or the link to it) must be called fairseq_layerdrop, got "
        f"{__name__}; `fairseq-layerdrop user-dir` prints the right one"
    )

_API = {
    "EvaluationOptions": "operations._evaluation",
    "HealOptions": "operations._heal_options",
    "SearchOptions": "evaluation.search",
    "average": "operations.average",
    "export": "operations.export",
    "heal": "operations.heal",
    "load": "evaluation.loading",
    "prune": "operations.prune",
    "search": "operations.search",
    "zoo": "operations.zoo",
}
"""Where the functions of the Python API are."""


def __getattr__(name: str) -> Any:
    if name not in _API:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_API[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_API})


def register() -> None:
    """Register our models, tasks and criterions with fairseq, as ``--user-dir`` does.

    fairseq skips ``--user-dir`` for a package that was imported before; whoever imports this one
    first calls ``register()``. Calling it again does nothing.
    """
    import fairseq_layerdrop.criterions
    import fairseq_layerdrop.criterions.layerdrop_distill
    import fairseq_layerdrop.models
    import fairseq_layerdrop.models.bart
    import fairseq_layerdrop.models.roberta
    import fairseq_layerdrop.models.transformer
    import fairseq_layerdrop.models.transformer_lm
    import fairseq_layerdrop.tasks
    import fairseq_layerdrop.tasks.language_modeling
    import fairseq_layerdrop.tasks.masked_lm
    import fairseq_layerdrop.tasks.sentence_prediction
    import fairseq_layerdrop.tasks.translation  # noqa: F401

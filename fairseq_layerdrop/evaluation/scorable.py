# SPDX-License-Identifier: MIT
"""What can be scored here: what cannot is named in one line, whatever fairseq raises of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fairseq.criterions import CRITERION_REGISTRY
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY
from fairseq.tasks import TASK_REGISTRY

_KNOWN = {
    "model": (ARCH_MODEL_REGISTRY, MODEL_REGISTRY),
    "task": (TASK_REGISTRY,),
    "criterion": (CRITERION_REGISTRY,),
}


def check_registered(path: str, cfg: Any) -> None:
    """Refuse a checkpoint of a model, a task or a criterion that nobody has registered.

    Raises:
        ValueError: naming each, and the flag that names their plugin.
    """
    strange = []
    for kind, registries in _KNOWN.items():
        section = cfg.get(kind) if cfg else None
        name = section if isinstance(section, str) else _name(section)
        if name and not any(name in registry for registry in registries):
            strange.append(f"the {kind} {name}")
    if strange:
        raise ValueError(
            f"{path}: fairseq does not know {', '.join(strange)}; user_dir=DIR names the plugin "
            "that has it"
        )


@contextmanager
def saying(what: str) -> Iterator[None]:
    """A scope in which whatever fairseq raises becomes one line that says what it cannot do.

    Raises:
        ValueError: ``what``, then fairseq's error.
    """
    try:
        yield
    except (ValueError, OSError):
        raise
    except Exception as error:  # fairseq's models, tasks and criterions raise what they like
        said = str(error).strip().splitlines() or [""]
        raise ValueError(f"{what}: {type(error).__name__}: {said[-1].strip()}") from error


def named(loaded: Any) -> str:
    """A loaded model's criterion and task, as errors call them."""
    criterion, task = type(loaded.criterion).__name__, type(loaded.task).__name__
    return f"{criterion} of a batch of {task}"


def _name(section: Any) -> str | None:
    get = section.get if hasattr(section, "get") else lambda key: getattr(section, key, None)
    return (get("_name") or get("arch")) if section is not None else None

# SPDX-License-Identifier: MIT
"""Hydra's work for a fairseq program's configuration, which takes half of a tiny training, once."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

_RULES: dict[tuple[str, str], Any] = {}


@contextmanager
def quick_hydra() -> Iterator[None]:
    """Hydra copies all of fairseq's dataclasses, for a composition that is the only one of its
    loader, and parses hundreds of defaults again: here it does neither.
    """
    from hydra._internal.config_repository import CachingConfigRepository
    from hydra.core.override_parser.overrides_parser import OverridesParser

    def share(repository: CachingConfigRepository, delegate: Any) -> None:
        repository.delegate, repository.cache = delegate, {}

    def parse(parser: OverridesParser, text: str, rule: str) -> Any:
        if (text, rule) not in _RULES:
            _RULES[text, rule] = real(parser, text, rule)
        return copy.copy(_RULES[text, rule])

    real = OverridesParser.parse_rule
    with (
        mock.patch.object(CachingConfigRepository, "__init__", share),
        mock.patch.object(OverridesParser, "parse_rule", parse),
    ):
        yield

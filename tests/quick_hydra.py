# SPDX-License-Identifier: MIT
"""Hydra's work for a fairseq program's configuration, which takes half of a tiny training, once."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

_COMPOSED: dict[tuple[str, ...], Any] = {}
_RULES: dict[tuple[str, str], Any] = {}


@contextmanager
def quick_hydra() -> Iterator[None]:
    """The defaults of a task, an architecture and the like are composed once; values are set in a
    copy, as Hydra sets them. Hydra copies all of fairseq's dataclasses for a composition that is
    the only one of its loader, parses hundreds of rules again, and looks through the source of
    everyone who called it: here it does none of this.
    """
    from fairseq.dataclass import utils
    from hydra import initialize
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.config_repository import CachingConfigRepository
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    def compose(name: str, overrides: list[str], strict: bool) -> Any:
        values = [line for line in overrides if "." in line.partition("=")[0]]
        choices = tuple(line for line in overrides if line not in values)
        if choices not in _COMPOSED:
            _COMPOSED[choices] = real_compose(name, overrides=[*choices], strict=strict)
        cfg = copy.deepcopy(_COMPOSED[choices])
        OmegaConf.set_struct(cfg, True)
        parsed = OverridesParser.create().parse_overrides(values)
        ConfigLoaderImpl._apply_overrides_to_config(parsed, cfg)
        OmegaConf.set_struct(cfg, strict)
        return cfg

    def parse(parser: OverridesParser, text: str, rule: str) -> Any:
        if (text, rule) not in _RULES:
            _RULES[text, rule] = real_parse(parser, text, rule)
        return copy.copy(_RULES[text, rule])

    def share(repository: CachingConfigRepository, delegate: Any) -> None:
        repository.delegate, repository.cache = delegate, {}

    def calling(stack_depth: int) -> tuple[str, None]:
        return utils.__file__, None

    real_compose, real_parse = utils.compose, OverridesParser.parse_rule
    finder = f"{initialize.__module__}.detect_calling_file_or_module_from_stack_frame"
    with (
        mock.patch.object(utils, "compose", compose),
        mock.patch.object(OverridesParser, "parse_rule", parse),
        mock.patch.object(CachingConfigRepository, "__init__", share),
        mock.patch(finder, calling),
    ):
        yield

# SPDX-License-Identifier: MIT
"""One run of an encoder for several decoders: what it returned once is given again.

In a step that trains several sub-networks of one encoder-decoder model, those that keep the whole
encoder read the same output. Autograd adds up what they send back, so the encoder's backward runs
once, too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


class SharedEncoder:
    """The encoder of an encoder-decoder model, and what it returned in the last forward noted.

    Args:
        model: a fairseq model without data-parallel wrappers; one that has no encoder beside a
            decoder shares nothing.
    """

    def __init__(self, model: nn.Module) -> None:
        both = isinstance(getattr(model, "decoder", None), nn.Module)
        encoder = getattr(model, "encoder", None)
        self._encoder = encoder if both and isinstance(encoder, nn.Module) else None
        self._output: Any = None

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Within this scope what the encoder returns is kept."""
        if self._encoder is None:
            yield
            return
        hook = self._encoder.register_forward_hook(self._note)
        try:
            yield
        finally:
            hook.remove()

    @contextmanager
    def given_again(self) -> Iterator[None]:
        """Within this scope the encoder returns what was noted, without running."""
        if self._encoder is None or self._output is None:
            yield
            return
        self._encoder.forward = lambda *_, **__: self._output
        try:
            yield
        finally:
            del self._encoder.forward  # the class's own is found again

    def _note(self, _: nn.Module, __: Any, output: Any) -> None:
        self._output = output

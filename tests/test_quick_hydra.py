# SPDX-License-Identifier: MIT
"""A configuration that the tests compose quickly is the one that Hydra composes."""

from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq_programs import STYLE, TRAINING
from quick_hydra import quick_hydra


def test_values_are_those_of_hydra_and_not_of_the_configuration_before() -> None:
    for dropout in ("0.3", "0.1"):
        flags = ["no-data", "--arch", "transformer", *STYLE, *TRAINING, "--dropout", dropout]
        args = options.parse_args_and_arch(options.get_training_parser(), flags)
        expected = convert_namespace_to_omegaconf(args)
        with quick_hydra():
            assert convert_namespace_to_omegaconf(args) == expected
        assert expected.model.dropout == float(dropout)

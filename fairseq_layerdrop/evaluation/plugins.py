# SPDX-License-Identifier: MIT
"""People's own plugins of fairseq."""

from argparse import Namespace

from fairseq import utils


def import_plugin(user_dir: str) -> None:
    """Import a plugin as fairseq does for ``--user-dir``: its code is run.

    Raises:
        ValueError: if there is none, or it cannot be imported.
    """
    try:
        utils.import_user_module(Namespace(user_dir=user_dir))
    except Exception as error:  # whatever somebody's code raises
        raise ValueError(f"the plugin {user_dir} cannot be imported: {error}") from error

# SPDX-License-Identifier: MIT
"""Runs fairseq's programs in processes of their own, without importing fairseq each time.

A process that has imported stock fairseq, and nothing of this package, forks for every program; the
child runs the program's module as ``python -m`` does. Requests and exit statuses go through pipes,
one JSON line each.

Most of a tiny program's time would be Python's own: its collector going through all that was
imported, and taking it apart at the end. So what was imported is kept from the collector, and a
child ends as soon as what is to be done at exit is done.
"""

import atexit
import gc
import json
import logging
import os
import runpy
import sys
import traceback
from typing import NoReturn

# What the programs import; not the programs themselves, whose first lines set up the logging.
import fairseq.checkpoint_utils
import fairseq.options
import fairseq.scoring
import fairseq.sequence_generator
import fairseq.tasks
import fairseq.trainer
import torch._dynamo  # noqa: F401 (every optimizer does)
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from hang import end_if_it_hangs
from quick_hydra import quick_hydra


def run(program: str, arguments: list[str], output: str) -> None:
    """In the child: become the program (a module, or a script's path), its output in a file."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    end_if_it_hangs()
    sys.argv = [program, *arguments]
    if program.endswith(".py"):
        sys.path[0] = os.path.dirname(program)
        runpy.run_path(program, run_name="__main__")
    else:
        sys.path[0] = os.getcwd()  # as `python -m` has it
        runpy.run_module(program, run_name="__main__", alter_sys=True)


def run_and_end(program: str, arguments: list[str], output: str) -> NoReturn:
    """The same, and what Python does at the end of a program, but for taking it apart."""
    status = 1
    try:
        run(program, arguments, output)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def warm_up() -> None:
    """Make a configuration: what hydra parses and Python looks up for it, every child inherits."""
    parser = fairseq.options.get_training_parser()
    flags = ["DATA", "--arch", "transformer"]
    convert_namespace_to_omegaconf(fairseq.options.parse_args_and_arch(parser, flags))


def main() -> None:
    """Answer requests until there are no more."""
    warm_up()
    # an import has logged something; the programs set up the logging themselves
    logging.root.handlers.clear()
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            run_and_end(**request)
        _, status = os.waitpid(child, 0)
        print(json.dumps(os.waitstatus_to_exitcode(status)), flush=True)


if __name__ == "__main__":
    with quick_hydra():
        main()

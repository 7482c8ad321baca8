"""The console program ``numalab``.

Its commands are in files by subject; only click is loaded before one of them runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from numalab import (
    cli_bench,
    cli_cpuset,
    cli_jobs,
    cli_machine,
    cli_memory,
    cli_policy,
    cli_programs,
    cli_serve,
    cli_stress,
    cli_watch,
)

_EPILOG = """Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done in part (some pages stayed),
4 no machine answers, 130 interrupted.  Node lists are those of numactl: 0-2,4 or all or !3."""


class _Interrupted(Exception):
    """SIGINT, taken before click writes an empty line about it."""


class _Program(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise _Interrupted from None


@click.group(
    cls=_Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EPILOG,
)
@click.version_option(package_name="numalab")
def cli() -> None:
    """A NUMA machine made of processes, which migrates pages as Linux does."""


for _command in (
    *cli_machine.COMMANDS,
    *cli_memory.COMMANDS,
    *cli_jobs.COMMANDS,
    *cli_policy.COMMANDS,
    *cli_cpuset.COMMANDS,
    *cli_programs.COMMANDS,
    *cli_bench.COMMANDS,
    *cli_serve.COMMANDS,
    *cli_stress.COMMANDS,
    *cli_watch.COMMANDS,
):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point: ends with the exit code, never with a traceback for a user's mistake."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run a command line; the exit code."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")
    if sys.stdout is None:
        return _fail(arguments, 1, "stdout is closed: send it to /dev/null if it is not wanted.")
    try:
        code = cli.main(list(arguments), prog_name="numalab", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else ""
        sentence = error.format_message()
        if isinstance(error, click.UsageError):
            sentence = f"{sentence.rstrip('.?')}: see '{where or 'numalab'} --help'."
        return _fail(arguments, error.exit_code, sentence)
    except (click.Abort, KeyboardInterrupt, _Interrupted):
        return _fail(arguments, 130, "Interrupted.")
    except OSError as error:
        # Of click itself, which prints a help text.
        from numalab.console import discard_output

        discard_output()
        return _fail(arguments, 1, f"stdout takes no data: {error.strerror}.")
    return int(code or 0)


def _fail(arguments: Sequence[str], code: int, sentence: str) -> int:
    from numalab import console

    as_json = "--json" in arguments and sys.stdout is not None
    return console.fail(code, sentence, as_json=as_json)


if __name__ == "__main__":
    main()

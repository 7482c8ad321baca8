"""Load a user's Python file and let it register what it has."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from types import ModuleType

from protocol.core import ConfigurationError


def load_extension(path: str | Path, machine: object) -> None:
    """Run the file, and call its function ``register(machine)``.

    Raises ConfigurationError, one sentence with file and line, for whatever is wrong with it.
    """
    path = Path(path)
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be loaded ({error.strerror}): give the path of a readable Python file."
        ) from None
    module = ModuleType(f"numalab_extension_{path.stem}")
    module.__file__ = str(path)
    # Who looks a class up by the name of its module finds it.
    sys.modules[module.__name__] = module
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except SyntaxError as error:
        raise ConfigurationError(
            f"{path}, line {error.lineno or 0} cannot be loaded ({error.msg}): correct it."
        ) from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _sentence(path, error) from None
    register = module.__dict__.get("register")
    if not callable(register):
        raise ConfigurationError(
            f"{path}, line 1 cannot be loaded (it has no function register): write "
            "'def register(machine):' in it, which registers what it has."
        )
    try:
        register(machine)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _sentence(path, error) from None


def _sentence(path: Path, error: BaseException) -> ConfigurationError:
    lines = [
        frame.lineno or 0
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(path)
    ]
    line = lines[-1] if lines else 0
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return ConfigurationError(f"{path}, line {line} cannot be loaded ({what}): correct it.")

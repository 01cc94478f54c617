"""Several labels a text, as tables write them: in one cell with a delimiter, in a list, or in several columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Cells = list[str | list[str]]  # of a row, a column each; a list where the file holds a list
_YES, _NO = ("1", "1.0", "true", "True"), ("0", "0.0", "false", "False")


@dataclass(frozen=True)
class LabelColumns:
    """The columns that hold the labels of texts which may have several.

    - One column: its cells hold the labels with the delimiter between them, or a list. An empty cell: no label.
    - Several columns that hold nothing but 0 and 1 (or true and false): each says whether a text has the label of the
      column's name.
    - Other columns: each holds a label or nothing.

    Args:
        names: of the columns.
        delimiter: between the labels of a cell.
    """

    names: tuple[str, ...]
    delimiter: str

    def labels(self, rows: Sequence[Cells]) -> list[list[str]]:
        """Each row's labels. ``rows`` are those of the whole table: whether its cells are 0 and 1 is asked of all."""
        if len(self.names) > 1 and all(cell in _YES or cell in _NO for cells in rows for cell in cells):
            return [[name for name, cell in zip(self.names, cells, strict=True) if cell in _YES] for cells in rows]
        return [[label for cell in cells for label in self._of_cell(cell)] for cells in rows]

    def _of_cell(self, cell: str | list[str]) -> list[str]:
        if isinstance(cell, str):
            cell = cell.split(self.delimiter) if len(self.names) == 1 else [cell]
        return [label for label in map(str.strip, cell) if label]

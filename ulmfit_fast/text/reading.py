"""How files of text are read: one value that goes from the command line, or from a caller, down to the readers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ulmfit_fast.core.errors import InputError

SPLITS = ("auto", "blank", "line", "file")
COMPRESSED = (".xz", ".gz", ".bz2", ".zst")
TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
DELIMITED = (".csv", ".tsv")
# Every suffix that tells a kind of file -> that kind.
KIND_OF_SUFFIX = {
    ".txt": ".txt", ".text": ".txt", ".tokens": ".txt", ".csv": ".csv", ".tsv": ".tsv", ".tab": ".tsv",
    ".jsonl": ".jsonl", ".ndjson": ".jsonl", ".json": ".jsonl", ".parquet": ".parquet", ".pq": ".parquet",
    ".zip": ".zip",
}  # fmt: skip
FORMATS = (".txt", *TABLES, ".zip")
KNOWN_FILES = (
    ".txt, .csv, .tsv, .jsonl, .parquet (each also .xz, .gz, .bz2 or .zst), a .zip of one kind, or a folder of .txt"
)


class ReadingNotice(UserWarning):
    """What the user should know about input that can be read: what is left out, what was guessed."""


@dataclass(frozen=True)
class ReadOptions:
    """How the texts of a file are found.

    Args:
        text_columns: a table's columns with the texts. Of several, each text is theirs in this order, joined as fastai
            does: ``xxfld 1 <first> xxfld 2 <second>``; the markers are tokens of every vocabulary.
        columns: names for the columns of a .csv or .tsv file whose first line is a row; empty: the first line has them.
        delimiter: one character between the fields of a .csv or .tsv file; None: a comma, a tab in a .tsv, what Excel's
            line ``sep=;`` says, or the one of ``;``, tab and ``|`` by which alone the first line has the columns.
        quotes: quotation marks go round fields of a .csv or .tsv file; otherwise they are characters like others.
        encoding: of .txt, .csv, .tsv and .jsonl files, a name that Python knows.
        format: kind of a file whose name does not tell it, such as ``-`` (standard input): "csv", "txt.gz".
        split: documents of a .txt file: between "blank" lines, one a "line", the whole "file", or "auto": blank lines
            if there are any, else lines.

    Raises:
        InputError: a value that cannot be one.
    """

    text_columns: tuple[str, ...] = ("text",)
    columns: tuple[str, ...] = ()
    delimiter: str | None = None
    quotes: bool = True
    encoding: str = "utf-8"
    format: str | None = None
    split: str = "auto"

    def __post_init__(self) -> None:
        for option, names in (("--text-column", self.text_columns), ("--columns", self.columns)):
            if isinstance(names, str):
                raise TypeError(f"ReadOptions: {option} must be a tuple of names, got the str {names!r}")
            for name in names:
                if names.count(name) > 1:
                    raise InputError(f"{option}: {shown(name)} is given twice")
        if not self.text_columns:
            raise InputError("--text-column: give at least one column")
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n\0'):
            raise InputError(f"--delimiter must be one character, or tab, got {shown(self.delimiter)}")
        if self.split not in SPLITS:
            raise InputError(f"--split must be one of {', '.join(SPLITS)}, got {shown(self.split)}")
        try:
            "a".encode(self.encoding)
        except (LookupError, ValueError):
            raise InputError(
                f"--encoding: {shown(self.encoding)} is no encoding of text that Python knows; for example utf-8, "
                "utf-16, windows-1252"
            ) from None
        if self.format is not None:
            kind_of_name(f"x.{self.format.lstrip('.')}", "--format")

    def description(self) -> dict[str, Any]:
        """All that texts depend on, for JSON; what is as by default is left out, but column and split."""
        found = {"text_column": self.text_columns[0] if len(self.text_columns) == 1 else list(self.text_columns)}
        others = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        others.pop("text_columns", None)
        return found | {"split": self.split} | {k: list(v) if isinstance(v, tuple) else v for k, v in others.items()}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> ReadOptions:
        """The inverse of ``description``; other keys are passed over."""
        values = {key: value for key, value in description.items() if key in {f.name for f in fields(cls)}}
        names = description.get("text_column", "text")
        values["text_columns"] = (names,) if isinstance(names, str) else names
        return cls(**asdict(cls()) | {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def kind_of_name(name: str, shown_as: str) -> tuple[str, str]:
    """The kind of file that a name tells, and its compression ("" for none). Raises InputError if it tells none."""
    parts = name.lower().rsplit("/", 1)[-1].split(".")[1:]
    compression = f".{parts.pop()}" if parts and f".{parts[-1]}" in COMPRESSED else ""
    kind = KIND_OF_SUFFIX.get(f".{parts[-1]}" if parts else "")
    if kind is None or (kind == ".zip" and compression):
        raise InputError(
            f"{shown_as}: unknown kind of file; expected {KNOWN_FILES}; if its name does not tell, say --format csv "
            "(or another)"
        )
    return kind, compression


def shown(value: object, length: int = 60) -> str:
    """A value for a message, quoted and of bounded length."""
    text = repr(value[: 2 * length] if isinstance(value, str) else value)
    return text if len(text) <= length else f"{text[: length - 4]}{text[0] if text[0] in QUOTES else ''}..."


def shown_names(names: list[str], count: int = 12) -> str:
    """Names of columns or files for a message: the first few."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(shown(str(name)) for name in names[:count]) + more


QUOTES = "'\""

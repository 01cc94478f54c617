"""Tables of fields and delimiters: any delimiter, with a header and without, joined columns; what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from ulmfit_fast import InputError, Tokenizer
from ulmfit_fast.text.files import Documents, iterate_documents, read_documents
from ulmfit_fast.text.reading import ReadingNotice, ReadOptions
from ulmfit_fast.text.rules import FLD


def read(folder: Path, content: str, name: str = "a.csv", label: str | None = None, **options: object) -> Documents:
    (folder / name).write_bytes(content.encode())
    return read_documents(folder / name, ReadOptions(**options), label)  # type: ignore[arg-type]


def test_tabs(tmp_path: Path) -> None:
    content = 'n\ttext\tlabel\n1\t"a\tb, ""c"""\tx\n2\td;e\ty\n'
    for name in ("a.tsv", "a.tab"):
        documents = read(tmp_path, content, name, "label")
        assert (documents.texts, documents.labels) == (['a\tb, "c"', "d;e"], ["x", "y"])
    assert read(tmp_path, content, delimiter="\t").texts == documents.texts


@pytest.mark.parametrize(("delimiter", "said"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")])
def test_another_delimiter_is_found_where_it_is_certain(delimiter: str, said: str, tmp_path: Path) -> None:
    content = f"n{delimiter}text{delimiter}label\n1{delimiter}a, b{delimiter}x\n"
    with pytest.warns(ReadingNotice, match=f"a.csv: read with {said} between the fields, as its first line has 'text'"):
        documents = read(tmp_path, content, label="label")
    assert (documents.texts, documents.labels) == (["a, b"], ["x"])
    with pytest.raises(InputError, match=r"no column 'text'.*, or say what stands between fields with --delimiter"):
        read(tmp_path, content.replace("label", "kind"), label="label")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("header", ["text;n", "text", "text,n;m"])
def test_a_comma_that_fits_stays(header: str, tmp_path: Path) -> None:
    row = ",".join(["x"] * len(header.split(",")))
    options = {"text_columns": (header.split(",")[0],)}
    assert read(tmp_path, f"{header}\n{row}\n", **options).texts == ["x"]


def test_the_line_that_excel_reads(tmp_path: Path) -> None:
    for first in ("sep=;\n", "\ufeffsep=;\r\n", '"sep=;"\n', "SEP=;\n"):
        assert read(tmp_path, f"{first}n;text\n1;a, b\n").texts == ["a, b"]
    assert read(tmp_path, "sep=\t\nn\ttext\n1\ta\n").texts == ["a"]
    with pytest.raises(InputError, match="its first line says sep=;, --delimiter ','; leave it out"):
        read(tmp_path, "sep=;\nn;text\n1;a\n", delimiter=",")


def test_blank_lines_before_the_names(tmp_path: Path) -> None:
    for blank in ("\n", "\r\n\r\n", ",,\n", "  \n", '"",""\n'):
        assert read(tmp_path, f"{blank}n,text,m\n1,a,2\n\n3,,4\n").texts == ["a", ""]
    with pytest.raises(InputError, match="line 4: 2 fields where the header has 3"):
        read(tmp_path, "\nn,text,m\n1,a,2\n3,4\n")
    assert read(tmp_path, "\na\n", columns=("text",)).texts == ["", "a"]  # a row as others where names are given


def test_files_without_names(tmp_path: Path) -> None:
    content = '"3","A title","good, film"\n"1","B","bad"\n'
    documents = read(tmp_path, content, label="label", columns=("label", "title", "text"))
    assert (documents.texts, documents.labels) == (["good, film", "bad"], ["3", "1"])
    assert read(tmp_path, content.replace(",", "\t"), "a.tsv", columns=("l", "t", "text")).texts[1] == "bad"
    with pytest.raises(InputError, match="line 1: 3 fields where --columns has 2"):
        read(tmp_path, content, columns=("label", "text"))
    with pytest.raises(InputError, match="3 fields, as --columns has, with semicolons alone; pass --delimiter ';'"):
        read(tmp_path, "3;A;good\n", columns=("label", "title", "text"))
    with pytest.raises(InputError, match="line 1 has the names of the columns; leave --columns out"):
        read(tmp_path, "label,text\n1,x\n", columns=("label", "text"))
    with pytest.raises(InputError, match=r"no column 'text'; its columns are 'label', 'body'; choose .* --text-column"):
        read(tmp_path, "1,x\n", columns=("label", "body"))
    with pytest.raises(InputError, match="or name them all with --columns if the first line is a row"):
        read(tmp_path, content)


def test_quotation_marks_that_are_characters(tmp_path: Path) -> None:
    content = 'n\ttext\n1\t"Oh" he said\n2\t"open\n3\tlast"\n'
    assert read(tmp_path, content, "a.tsv", quotes=False).texts == ['"Oh" he said', '"open', 'last"']
    with pytest.raises(InputError, match=r"line 2: not a readable CSV file .*; pass --no-quotes"):
        read(tmp_path, content, "a.tsv")


def test_a_carriage_return_in_a_field(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"line 2: not a readable CSV file \(a carriage return alone in a field"):
        read(tmp_path, "text,n\na\rb,1\n")
    assert read(tmp_path, 'text,n\n"a\rb",1\n').texts == ["a\rb"]


def test_columns_joined(tmp_path: Path) -> None:
    """As fastai joins them; the marks are tokens, not words spelled out."""
    content = "title,text,label\nBest,film ever,x\n,only text,y\n,,z\n"
    joined = ("title", "text")
    documents = read(tmp_path, content, label="label", text_columns=joined)
    assert documents.texts == ["xxfld 1 Best xxfld 2 film ever", "xxfld 1  xxfld 2 only text", ""]
    [whole] = iterate_documents(tmp_path / "a.csv", ReadOptions(text_columns=joined))
    assert whole.texts == documents.texts
    assert list(whole.table.columns) == ["title", "text", "label"]
    assert read(tmp_path, content, text_columns=("text", "title")).texts[0] == "xxfld 1 film ever xxfld 2 Best"
    (tmp_path / "a.jsonl").write_text('{"title": "a", "text": "b"}\n{"text": "c"}\n')
    assert read_documents(tmp_path / "a.jsonl", ReadOptions(text_columns=joined)).texts[1] == "xxfld 1  xxfld 2 c"
    with pytest.raises(InputError, match=r"no column 'body'; .*--text-column"):
        read(tmp_path, content, text_columns=("text", "body"))
    for tokenizer in (Tokenizer.train_words(documents.texts, 100, 1), Tokenizer.train_subwords(documents.texts, 100),
                      Tokenizer.train_whitespace(documents.texts)):  # fmt: skip
        [ids] = tokenizer.encode([documents.texts[0]])
        assert (ids == tokenizer.vocabulary.index(FLD)).sum() == 2


def test_labels_with_a_nul_character(tmp_path: Path) -> None:
    """Which numpy would take off: two classes would be one."""
    (tmp_path / "a.jsonl").write_text('{"text": "x", "label": "a"}\n{"text": "y\\u0000", "label": "a\\u0000"}\n')
    assert read_documents(tmp_path / "a.jsonl").texts == ["x", "y\0"]
    with pytest.raises(InputError, match="row 2: column 'label' holds a NUL character"):
        read_documents(tmp_path / "a.jsonl", None, "label")


def test_messages_are_short(tmp_path: Path) -> None:
    """However long the names and values are that they quote."""
    long = "word " * 40_000
    for content, name, options in (
        (f'"3","{long}"\n"1","x"\n', "a.csv", {}),
        (",".join(f"column {i}" for i in range(5000)) + "\n", "a.csv", {}),
        (f'{{"{long}": 1}}\n', "a.jsonl", {}),
        ("text\nx\n", "a.csv", {"text_columns": (long,)}),
        (f"text\n{long},{long}\n", "a.csv", {}),
        (f'text,n\n"{long}"x,1\n', "a.csv", {}),
    ):
        with pytest.raises(InputError) as error:
            read(tmp_path, content, name, **options)
        assert len(str(error.value)) < 1200


def test_options_that_cannot_be() -> None:
    with pytest.raises(InputError, match="--delimiter must be one character, or tab, got '::'"):
        ReadOptions(delimiter="::")
    with pytest.raises(InputError, match="--columns: 'a' is given twice"):
        ReadOptions(columns=("a", "b", "a"))
    with pytest.raises(InputError, match="--text-column: 'a' is given twice"):
        ReadOptions(text_columns=("a", "a"))
    with pytest.raises(InputError, match="--format: unknown kind of file"):
        ReadOptions(format="xlsx")
    with pytest.raises(InputError, match="--split must be one of"):
        ReadOptions(split="word")
    with pytest.raises(TypeError, match="must be a tuple of names, got the str 'text'"):
        ReadOptions(text_columns="text")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "reading",
    [ReadOptions(), ReadOptions(("a", "b"), ("a", "b"), "\t", False, "utf-16", "csv.gz", "line"), ReadOptions(("a",))],
)  # fmt: skip
def test_descriptions(reading: ReadOptions) -> None:
    assert ReadOptions.from_description({"path": ["x", 1, 2], "seed": 0} | reading.description()) == reading
    assert ReadOptions().description() == {"text_column": "text", "split": "auto"}  # as corpora before have it

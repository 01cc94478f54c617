"""PTX, the text that nvcc compiles CUDA to, as a list of instructions for ``machine``."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

PARAMETERS_AT = 1 << 40  # where a kernel that takes a parameter's address finds it
SHARED_AT = 1 << 12  # addresses of shared memory are computed in 32 bits
_ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*\((.*?)\)(.*?)\n\{\n(.*?)\n\}\n", re.DOTALL)
_PARAMETER = re.compile(r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)(?:\[(\d+)\])?")
_SHARED = re.compile(r"\.shared\s+\.align\s+(\d+)\s+\.(\w+)\s+([\w$]+)(?:\[(\d+)\])?;")
_OF_LAUNCH = re.compile(r"\.extern\s+\.shared\s+\.align\s+(\d+)\s+\.b8\s+([\w$]+)\[\];")  # as large as a launch asks
_VECTOR = re.compile(r"\{(\s*[%\w]+(?:\s*,\s*[%\w]+)*\s*)\}")
_INSTRUCTION = re.compile(r"(?:@(!?)(%\w+)\s+)?([\w.:]+)\s*(.*)", re.DOTALL)


@dataclass(frozen=True)
class Register:
    name: str


@dataclass(frozen=True)
class Immediate:
    bits: int  # two's complement in 64 bits; a float's own bits


@dataclass(frozen=True)
class Address:
    base: Register | Immediate
    offset: int


Operand = Register | Immediate | Address | tuple[Register | Immediate, ...]


@dataclass(frozen=True)
class Instruction:
    text: str
    guard: str | None  # a predicate
    negated: bool
    name: str  # "ld"
    modifiers: tuple[str, ...]  # ("global", "v4", "f32")
    operands: tuple[Operand, ...]
    target: str | None = None  # of a branch


@dataclass
class Program:
    """One kernel.

    Attributes:
        name: as the linker knows it.
        instructions: in order.
        labels: the instruction that each stands before.
        parameter_bytes: of all parameters together, as a launch packs them.
        shared_bytes: of a block, beside what a launch asks for, which follows.
    """

    name: str
    parameter_bytes: int
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    shared_bytes: int = 0


def parse(text: str) -> dict[str, Program]:
    """Every kernel of a file, by name.

    Raises:
        SyntaxError: a line that is none of what kernels consist of.
    """
    text = re.sub(r"//.*", "", text)
    outside = _ENTRY.sub("", text)
    shared, of_launch = _SHARED.findall(outside), _OF_LAUNCH.findall(outside)  # declared for the whole file
    return {match.group(1): _kernel(*match.group(1, 2, 4), shared, of_launch) for match in _ENTRY.finditer(text)}


def _kernel(
    name: str, parameters: str, body: str, of_file: list[tuple[str, str, str, str]], of_launch: list[tuple[str, str]]
) -> Program:
    symbols: dict[str, int] = {}
    size = 0
    for match in _PARAMETER.finditer(parameters):
        bytes_ = int(match.group(4) or int(match.group(2)[1:]) // 8)
        align = int(match.group(1) or bytes_)
        size = -(-size // align) * align
        symbols[match.group(3)] = PARAMETERS_AT + size
        size += bytes_
    program = Program(name, size)
    for alignment, kind, symbol, length in [*(one for one in of_file if one[2] in body), *_SHARED.findall(body)]:
        begin = -(-program.shared_bytes // int(alignment)) * int(alignment)
        symbols[symbol] = SHARED_AT + begin
        program.shared_bytes = begin + int(length or 1) * int(kind[1:]) // 8
    for alignment, symbol in of_launch:
        if symbol in body:
            program.shared_bytes = -(-program.shared_bytes // int(alignment)) * int(alignment)
            symbols[symbol] = SHARED_AT + program.shared_bytes
    body = re.sub(r"call\.uni\s*(?:\(\w+\),\s*)?([\w$]+),.*?;", r"call \1;", body, flags=re.DOTALL)
    body = _VECTOR.sub(r"<\1>", body)
    body = re.sub(r"(\$\w+):", r"\1:;", body.replace("{", " ").replace("}", " "))  # braces say nothing that runs
    for statement in body.split(";"):
        line = " ".join(statement.split())
        if line.endswith(":"):
            program.labels[line[:-1]] = len(program.instructions)
        elif line and not line.startswith((".", "st.param")):
            program.instructions.append(_instruction(line, symbols))
    return program


def _instruction(line: str, symbols: dict[str, int]) -> Instruction:
    match = _INSTRUCTION.fullmatch(line)
    if match is None:
        raise SyntaxError(f"PTX that is not understood: {line}")
    negated, guard, opcode, rest = match.groups()
    name, *modifiers = opcode.replace("::", ".").split(".")
    if name in ("bra", "call"):
        return Instruction(line, guard, negated == "!", name, tuple(modifiers), (), rest.strip())
    operands = tuple(_operand(part.strip(), symbols) for part in re.split(r",(?![^<\[]*[>\]])", rest) if part.strip())
    return Instruction(line, guard, negated == "!", name, tuple(modifiers), operands)


def _operand(text: str, symbols: dict[str, int]) -> Operand:
    if text.startswith("<"):
        return tuple(_simple(part.strip(), symbols) for part in text[1:-1].split(","))
    if text.startswith("["):
        base, _, offset = text[1:-1].partition("+")
        return Address(_simple(base.strip(), symbols), int(offset or 0))
    return _simple(text.split("|")[0], symbols)


def _simple(text: str, symbols: dict[str, int]) -> Register | Immediate:
    if text.startswith("%"):
        return Register(text)
    if text in symbols:
        return Immediate(symbols[text])
    if text.startswith("0f"):
        return Immediate(int(text[2:], 16))
    if text.startswith("0d"):
        return Immediate(int(text[2:], 16))
    try:
        return Immediate(struct.unpack("<Q", struct.pack("<q", int(text, 0)))[0] if "-" in text else int(text, 0))
    except ValueError:
        return Immediate(0)  # the address of a message's text, which nobody reads

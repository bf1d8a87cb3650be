"""How a quantization stores numbers: bits, and what a group of them shares."""

from dataclasses import dataclass

from headrace.facts.shapes import Matrix


@dataclass(frozen=True, slots=True)
class Storage:
    """Numbers of `bits`; every block of `rows` x `columns` (0: all of them) shares `shared_bits`, such as a scale."""

    name: str
    bits: float
    rows: int = 0
    columns: int = 0
    shared_bits: float = 0

    def bytes(self, matrix: Matrix) -> int:
        """The bytes that the matrix takes when stored so."""
        blocks = _blocks(matrix.rows, self.rows) * _blocks(matrix.columns, self.columns) * matrix.count
        return round((matrix.numbers * self.bits + blocks * self.shared_bits) / 8)


def _blocks(size: int, block: int) -> int:
    return -(-size // block) if block else 1


BF16 = Storage("BF16", 16)
DTYPES = {
    **{"bfloat16": BF16, "float16": Storage("F16", 16), "float32": Storage("F32", 32), "half": Storage("F16", 16)},
    **{"float": Storage("F32", 32), "float64": Storage("F64", 64), "float8_e4m3fn": Storage("F8_E4M3", 8)},
    "bf16": BF16,
}
"""By the names of torch."""

FP8 = Storage("fp8", 8, shared_bits=32)
FP8_CHANNEL = Storage("fp8", 8, 1, 0, 32)
NVFP4 = Storage("nvfp4", 4, 1, 16, 8)
MXFP4 = Storage("mxfp4", 4, 1, 32, 8)
MXFP8 = Storage("mxfp8", 8, 1, 32, 8)
INT8 = Storage("int8", 8, 1, 0, 32)

# bitsandbytes: a scale of 32 bits per 64 numbers, or of 8 with one of 32 per 256 of those ("double quantization").
BNB_4BIT = Storage("bnb-4bit", 4, 1, 64, 32)
BNB_4BIT_DOUBLE = Storage("bnb-4bit", 4, 1, 64, 8 + 32 / 256)
BNB_8BIT = Storage("bnb-8bit", 8, 1, 0, 32)


def fp8_blocks(rows: int, columns: int) -> Storage:
    return Storage("fp8", 8, rows, columns, 32)


def grouped(name: str, bits: int, group: int | None, *, zeros: bool) -> Storage:
    """Integers in groups along a row, each with a 16-bit scale and, with `zeros`, a packed zero point; None: whole rows."""
    return Storage(name, bits, 1, group or 0, 16 + (bits if zeros else 0))

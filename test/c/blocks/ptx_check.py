#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Follows the PTX of the kernels of changed blocks, a warp of 32 lanes at a time, through the launches that text_test
has written, and compares all memory with what the C twins made of it. Knows the instructions that this text has and no
others; a value that was never set, an access outside the memory, or a branch on which lanes part is a failure."""
import pathlib
import re
import sys

LANES = range(32)
BITS = {"u8": 8, "b8": 8, "u32": 32, "b32": 32, "u64": 64, "b64": 64}
COMPARE = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}
ARITHMETIC = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "shl": lambda a, b: a << b,
    "shr": lambda a, b: a >> b,
}


class Wrong(Exception):
    """What the text does is not what it should do."""


def parse(text):
    """Each entry's parameters, in order as (name, bytes), its instructions, and where its labels are."""
    entries = {}
    for match in re.finditer(r"\.visible \.entry (\w+)\((.*?)\)(.*?)\{\n(.*?)\n\}", text, re.S):
        name, parameters, _, body = match.groups()
        sizes = [(p, BITS[t] // 8) for t, p in re.findall(r"\.param \.(\w+) (\w+)", parameters)]
        instructions, labels = [], {}
        for line in body.split("\n"):
            line = line.strip()
            if not line or line.startswith(".reg"):
                continue
            if line.endswith(":"):
                labels[line[:-1]] = len(instructions)
                continue
            guard, code = re.fullmatch(r"(?:@(!?%\w+) )?(.*);", line).groups()
            operation, _, rest = code.partition(" ")
            operands = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+", rest)
            instructions.append((guard, operation.split("."), operands, line))
        entries[name] = (sizes, instructions, labels)
    return entries


class Warp:
    def __init__(self, entry, parameters, memory, base, grid, block, warp):
        self.sizes, self.instructions, self.labels = entry
        self.parameters, self.memory, self.base = parameters, memory, base
        self.registers = {
            "%tid.x": [warp * 32 + lane for lane in LANES],
            "%ctaid.x": [block] * 32,
            "%nctaid.x": [grid] * 32,
        }

    def value(self, operand, lane):
        if not operand.startswith(("%", "!")):
            return int(operand, 0)
        known = self.registers.get(operand.lstrip("!"))
        if known is None or known[lane] is None:
            raise Wrong(f"{operand} was never set")
        return (not known[lane]) if operand.startswith("!") else known[lane]

    def set(self, operand, lane, value, bits=None):
        self.registers.setdefault(operand, [None] * 32)[lane] = value if bits is None else value % (1 << bits)

    def place(self, operand, lane, count):
        """Where [%register + number] lies in the memory."""
        address, _, offset = operand.strip("[]").partition("+")
        at = self.value(address.strip(), lane) + (eval(offset, {"__builtins__": {}}) if offset else 0)
        if at % count or not self.base <= at <= self.base + len(self.memory) - count:
            raise Wrong(f"{count} bytes at {at:#x}, {at - self.base} from the beginning")
        return at - self.base

    def run(self):
        at = 0
        while True:
            guard, operation, operands, line = self.instructions[at]
            lanes = [lane for lane in LANES if guard is None or bool(self.value(("!" if guard[0] == "!" else "") +
                                                                              guard.lstrip("!"), lane))]
            at += 1
            try:
                if operation[0] == "ret":
                    return
                if operation[0] == "bra":
                    if len(lanes) not in (0, 32):
                        raise Wrong("lanes part")
                    at = self.labels[operands[0]] if lanes else at
                else:
                    getattr(self, "do_" + operation[0], self.do_arithmetic)(operation, operands, lanes)
            except Wrong as wrong:
                raise Wrong(f"{line} {wrong}") from None

    def do_arithmetic(self, operation, operands, lanes):
        to, a, b = operands
        bits = BITS.get(operation[1])
        compute = ARITHMETIC[operation[0]]
        for lane in lanes:
            self.set(to, lane, compute(self.value(a, lane), self.value(b, lane)), bits)

    def do_mul(self, operation, operands, lanes):
        to, a, b = operands[:3]
        for lane in lanes:
            product = self.value(a, lane) * self.value(b, lane)
            if len(operands) == 4:
                product += self.value(operands[3], lane)
            self.set(to, lane, product, BITS[operation[2]] * (2 if operation[1] == "wide" else 1))

    do_mad = do_mul

    def do_cvt(self, operation, operands, lanes):
        for lane in lanes:
            self.set(operands[0], lane, self.value(operands[1], lane), BITS[operation[1]])

    def do_mov(self, operation, operands, lanes):
        to, value = operands
        for lane in lanes:
            if to.startswith("{"):
                low, high = (part.strip() for part in to.strip("{}").split(","))
                whole = self.value(value, lane)
                self.set(low, lane, whole, 32)
                self.set(high, lane, whole >> 32, 32)
            elif value.startswith("{"):
                low, high = (self.value(part.strip(), lane) for part in value.strip("{}").split(","))
                self.set(to, lane, low | high << 32)
            elif operation[1] == "pred":
                self.set(to, lane, bool(self.value(value, lane)))
            else:
                self.set(to, lane, self.value(value, lane), BITS[operation[1]])

    def do_setp(self, operation, operands, lanes):
        compare, bits = COMPARE[operation[1]], BITS[operation[-1]]
        for lane in lanes:
            result = compare(self.value(operands[1], lane) % (1 << bits), self.value(operands[2], lane) % (1 << bits))
            if len(operation) == 4:
                result = ARITHMETIC[operation[2]](result, self.value(operands[3], lane))
            self.set(operands[0], lane, result)

    def do_selp(self, operation, operands, lanes):
        to, yes, no, which = operands
        for lane in lanes:
            self.set(to, lane, self.value(yes if self.value(which, lane) else no, lane), BITS[operation[1]])

    def whole(self, lanes, mask):
        if len(lanes) != 32 or int(mask, 0) != 0xFFFFFFFF:
            raise Wrong("not all lanes take part")

    def do_shfl(self, operation, operands, lanes):
        to, value, which, clamp, mask = operands
        self.whole(lanes, mask)
        if clamp != "31":
            raise Wrong("a part of the warp")
        values = [self.value(value, lane) for lane in LANES]
        for lane in LANES:
            number = self.value(which, lane)
            self.set(to, lane, values[lane ^ number if operation[2] == "bfly" else number])

    def do_vote(self, operation, operands, lanes):
        to, value, mask = operands
        self.whole(lanes, mask)
        result = any([self.value(value, lane) for lane in LANES])
        for lane in LANES:
            self.set(to, lane, result)

    def do_ld(self, operation, operands, lanes):
        if operation[1] == "param":
            names = [name for name, _ in self.sizes]
            number = names.index(operands[1].strip("[]"))
            if self.sizes[number][1] * 8 != BITS[operation[2]]:
                raise Wrong("another size")
            for lane in lanes:
                self.set(operands[0], lane, self.parameters[number])
            return
        registers = [part.strip() for part in operands[0].strip("{}").split(",")]
        size = BITS[operation[-1]] // 8
        for lane in lanes:
            at = self.place(operands[1], lane, size * len(registers))
            for i, register in enumerate(registers):
                self.set(register, lane, int.from_bytes(self.memory[at + i * size : at + (i + 1) * size], "little"))

    def do_st(self, operation, operands, lanes):
        registers = [part.strip() for part in operands[1].strip("{}").split(",")]
        size = BITS[operation[-1]] // 8
        for lane in lanes:
            at = self.place(operands[0], lane, size * len(registers))
            for i, register in enumerate(registers):
                value = self.value(register, lane) % (1 << size * 8)
                self.memory[at + i * size : at + (i + 1) * size] = value.to_bytes(size, "little")


def follow(entries, case):
    """One launch, its blocks and warps one after the other. Returns what is wrong, or None."""
    name, grid, base, *parameters = case.read_text().split()
    memory = bytearray(case.with_name(case.name + ".before").read_bytes())
    wanted = case.with_name(case.name + ".after").read_bytes()
    sizes = [int(parameter.split(":")[0]) for parameter in parameters]
    if sizes != [size for _, size in entries[name][0]]:
        return "the entry has other parameters"
    values = [int(parameter.split(":")[1]) for parameter in parameters]
    try:
        for block in range(int(grid)):
            for warp in range(8):
                Warp(entries[name], values, memory, int(base), int(grid), block, warp).run()
    except Wrong as wrong:
        return str(wrong)
    differing = [i for i in range(len(memory)) if memory[i] != wanted[i]]
    return f"{len(differing)} bytes differ, the first at {differing[0]}" if differing else None


def main():
    folder = pathlib.Path(sys.argv[1])
    entries = parse((folder / "kernels.ptx").read_text())
    cases = sorted(path for path in folder.glob("case-*") if not path.suffix)
    failed = 0
    for case in cases:
        problem = follow(entries, case)
        failed += problem is not None
        verdict = f"FAIL the text in {case.name}: {problem}" if problem else f"ok   the text in {case.name}"
        print(verdict, file=sys.stderr)
    print(f"ptx: {len(cases) - failed} passed, {failed} failed")
    return 1 if failed or not cases else 0


sys.exit(main())

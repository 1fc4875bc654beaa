"""Data flow in one function
========================

Follows chosen values through a function's machine code: which bits of the host's DEBUGCTL, of a
VMCS field or of an argument may reach a test, a comparison, a store or a VMWRITE. An abstract
interpretation: each register and stack slot has, for each source, the bits that may have come from
it; where ways meet, bits add up. What follows an indirect jump is looked at with nothing known.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from kvmtest.kernels.machine_code import Function, MachineCode, Reference
from kvmtest.optional_libraries import library

__all__ = ["Event", "Kind", "Place", "Sources", "Value", "follow"]

_ALL = (1 << 64) - 1


class Kind(StrEnum):
    """What happens to values."""

    TEST = "test"
    """Bits are tested, or all others cleared: ``value`` has those of them that may be set."""
    COMPARE = "compare"
    """``value`` and ``other`` are compared or XORed."""
    MASK = "mask"
    """``value`` is ANDed with ``other``."""
    SET = "set"
    """The constant bits of ``constant`` are set, whatever the value."""
    STORE = "store"
    """``value`` is stored at ``place``."""
    VMWRITE = "vmwrite"
    """``value`` is written to the VMCS field."""


@dataclass(frozen=True, slots=True)
class Value:
    """The bits that may come from each source, by its name; ``constant`` where it is known."""

    bits: Mapping[str, int] = field(default_factory=dict)
    constant: int | None = None

    def of(self, source: str) -> int:
        """Return the bits that may come from ``source``."""
        return self.bits.get(source, 0)

    def with_mask(self, mask: int) -> "Value":
        """Return the value with all bits outside ``mask`` cleared."""
        bits = {name: kept for name, each in self.bits.items() if (kept := each & mask)}
        return Value(bits, None if self.constant is None else self.constant & mask)

    def shifted(self, places: int) -> "Value":
        """Return the value shifted to the left, to the right by a negative number."""
        moved = {n: _shift(each, places) for n, each in self.bits.items()}
        constant = None if self.constant is None else _shift(self.constant, places)
        return Value({name: each for name, each in moved.items() if each}, constant)

    def joined(self, other: "Value") -> "Value":
        """Return what either value may be."""
        if self == other:
            return self
        names = {**self.bits, **other.bits}
        bits = {name: self.of(name) | other.of(name) for name in names}
        return Value(bits, self.constant if self.constant == other.constant else None)


@dataclass(frozen=True, slots=True)
class Place:
    """A place in memory: a distance from a pointer in a register, or from a symbol."""

    offset: int
    symbol: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that a function does with values."""

    kind: Kind
    value: Value
    other: Value = Value()
    place: Place | None = None
    constant: int = 0


@dataclass(frozen=True, slots=True)
class Sources:
    """Where values come from, by the names they get."""

    memory: Mapping[Place, str] = field(default_factory=dict)
    """Words of eight bytes."""

    arguments: tuple[str, ...] = ()
    """The function's first arguments; "" is of no interest."""

    vmcs_field: tuple[int, str] = (0, "")
    """The encoding of a VMCS field that is read."""

    msr: tuple[int, str] = (0, "")
    """The number of an MSR that is read, by RDMSR or a function that gets the number."""


_NOTHING = Value()
_ARGUMENTS = ("rdi", "rsi", "rdx", "rcx", "r8", "r9")
_CLOBBERED = ("rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11")

# Called before a function's first instruction; they keep all registers.
_TRANSPARENT = frozenset({"__fentry__", "mcount"})

State = dict[str, Value]


def follow(code: MachineCode, function: Function, sources: Sources) -> list[Event]:
    """Return what ``function`` does with the values of ``sources``, in the order of addresses.

    Raises EnvironmentUnfit where capstone is missing.
    """
    return _Walk(code, function, sources).events()


class _Walk:
    """One function's abstract interpretation."""

    def __init__(self, code: MachineCode, function: Function, sources: Sources) -> None:
        self._code = code
        self._function = function
        self._sources = sources
        self._x86 = library("capstone.x86", "reading machine code", "inspect")
        self._instructions = code.instructions(function)
        self._index = {each.address: at for at, each in enumerate(self._instructions)}
        self._references: dict[int, Reference] = {}
        self._states: dict[int, State] = {}
        self._found: list[Event] | None = None

    def events(self) -> list[Event]:
        if not self._instructions:
            return []
        names = zip(_ARGUMENTS, self._sources.arguments, strict=False)
        self._reach(0, {register: Value({name: _ALL}) for register, name in names if name})
        for at, instruction in enumerate(self._instructions):
            if at not in self._states and not instruction.mnemonic.startswith(("nop", "int3")):
                self._reach(at, {})
        self._found = []
        for at in sorted(self._states):
            self._step(self._instructions[at], dict(self._states[at]))
        return self._found

    def _reach(self, start: int, state: State) -> None:
        """Carry ``state`` from an instruction to all that it leads to, until nothing changes."""
        pending = [(start, state)]
        while pending:
            at, new = pending.pop()
            old = self._states.get(at)
            merged = new if old is None else _merged(old, new)
            if old is not None and merged == old:
                continue
            self._states[at] = merged
            after = dict(merged)
            self._step(self._instructions[at], after)
            pending.extend((follower, after) for follower in self._followers(at))

    def _followers(self, at: int) -> list[int]:
        instruction = self._instructions[at]
        mnemonic = instruction.mnemonic
        found = []
        is_jump = mnemonic.startswith(("j", "loop"))
        if is_jump and not self._leaves(instruction):
            target = instruction.operands[0]
            if target.type == self._x86.X86_OP_IMM and target.imm & _ALL in self._index:
                found.append(self._index[target.imm & _ALL])
        if mnemonic not in ("jmp", "ret", "ud2", "int3", "hlt") and at + 1 < len(
            self._instructions
        ):
            found.append(at + 1)
        return found

    def _leaves(self, instruction: Any) -> bool:
        """Tell whether a jump leads out of the function."""
        symbol = self._reference(instruction).symbol
        return bool(symbol) and symbol != self._function.name

    def _reference(self, instruction: Any) -> Reference:
        if instruction.address not in self._references:
            found = self._code.reference(self._function, instruction)
            self._references[instruction.address] = found
        return self._references[instruction.address]

    # What one instruction does to a state.

    def _step(self, instruction: Any, state: State) -> None:
        handler = _HANDLERS.get(_operation(instruction))
        if handler is not None:
            handler(self, instruction, state)
        elif instruction.mnemonic.startswith("cmov"):
            self._conditional_move(instruction, state)
        else:
            self._forget(instruction, state)

    def _forget(self, instruction: Any, state: State) -> None:
        """Drop what an instruction writes that is not followed."""
        for register in instruction.regs_access()[1]:
            name = _whole(instruction.reg_name(register))
            if name:
                state.pop(name, None)

    def _move(self, instruction: Any, state: State) -> None:
        target, source = instruction.operands[:2]
        value = self._read(instruction, state, source)
        if value.bits:
            start = self._start(instruction, target) - self._start(instruction, source)
            value = value.shifted(start)
        self._write(instruction, state, target, value)

    def _conditional_move(self, instruction: Any, state: State) -> None:
        target, source = instruction.operands[:2]
        old = self._read(instruction, state, target)
        self._write(instruction, state, target, old.joined(self._read(instruction, state, source)))

    def _and(self, instruction: Any, state: State) -> None:
        target, source = instruction.operands[:2]
        old, mask = (self._read(instruction, state, each) for each in (target, source))
        if mask.constant is None and old.constant is not None:
            old, mask = mask, old
        if mask.constant is None:
            self._note(Event(Kind.MASK, old, other=mask))
            new = old.joined(mask)
        else:
            constant = self._aligned(instruction, target, mask.constant)
            self._note(Event(Kind.TEST, old.with_mask(constant), constant=constant))
            new = old.with_mask(constant)
        self._write(instruction, state, target, new)

    def _or(self, instruction: Any, state: State) -> None:
        target, source = instruction.operands[:2]
        old, more = (self._read(instruction, state, each) for each in (target, source))
        if more.constant is not None:
            constant = self._aligned(instruction, target, more.constant)
            self._note(Event(Kind.SET, old, constant=constant))
            known = None if old.constant is None else old.constant | constant
            new = Value(old.bits, known)
        else:
            new = Value(old.joined(more).bits)
        self._write(instruction, state, target, new)

    def _xor(self, instruction: Any, state: State) -> None:
        target, source = instruction.operands[:2]
        if target.type == source.type == self._x86.X86_OP_REG and target.reg == source.reg:
            self._write(instruction, state, target, Value({}, 0))
            return
        old, other = (self._read(instruction, state, each) for each in (target, source))
        if other.constant is None:
            self._note(Event(Kind.COMPARE, old, other=other))
        self._write(instruction, state, target, Value(old.joined(other).bits))

    def _sum(self, instruction: Any, state: State) -> None:
        target, source = instruction.operands[:2]
        old, other = (self._read(instruction, state, each) for each in (target, source))
        if other.constant is not None:
            self._note(Event(Kind.SET, old, constant=other.constant & _ALL))
        self._write(instruction, state, target, Value(old.joined(other).bits))

    def _test(self, instruction: Any, state: State) -> None:
        left, right = instruction.operands[:2]
        value, mask = (self._read(instruction, state, each) for each in (left, right))
        if mask.constant is not None:
            constant = self._aligned(instruction, left, mask.constant)
            self._note(Event(Kind.TEST, value.with_mask(constant), constant=constant))
        elif value != mask:
            self._note(Event(Kind.MASK, value, other=mask))

    def _compare(self, instruction: Any, state: State) -> None:
        left, right = (self._read(instruction, state, each) for each in instruction.operands[:2])
        self._note(Event(Kind.COMPARE, left, other=right))

    def _bit(self, instruction: Any, state: State) -> None:
        target, number = instruction.operands[:2]
        value = self._read(instruction, state, target)
        place = self._read(instruction, state, number).constant
        if place is None:
            self._forget(instruction, state)
            return
        bit = self._aligned(instruction, target, 1 << (place & 63))
        operation = _operation(instruction)
        if operation == "bt":
            self._note(Event(Kind.TEST, value.with_mask(bit), constant=bit))
        elif operation == "btr":
            self._write(instruction, state, target, value.with_mask(~bit & _ALL))
        else:
            self._note(Event(Kind.SET, value, constant=bit))
            self._write(instruction, state, target, Value(value.bits))

    def _shift_by(self, instruction: Any, state: State) -> None:
        target = instruction.operands[0]
        places = (
            self._read(instruction, state, instruction.operands[1]).constant
            if len(instruction.operands) > 1
            else 1
        )
        value = self._read(instruction, state, target)
        operation = _operation(instruction)
        if places is None or operation in ("rol", "ror"):
            spread = Value(dict.fromkeys(value.bits, _ALL))
        else:
            spread = value.shifted(places if operation in ("shl", "sal") else -places)
        self._write(instruction, state, target, spread)

    def _exchange(self, instruction: Any, state: State) -> None:
        one, other = instruction.operands[:2]
        first, second = (self._read(instruction, state, each) for each in (one, other))
        self._write(instruction, state, one, second)
        self._write(instruction, state, other, first)

    def _load_address(self, instruction: Any, state: State) -> None:
        self._write(instruction, state, instruction.operands[0], _NOTHING)

    def _call(self, instruction: Any, state: State) -> None:
        if self._reference(instruction).symbol in _TRANSPARENT:
            return
        number, name = self._sources.msr
        reads = name and state.get("rdi", _NOTHING).constant == number
        for register in _CLOBBERED:
            state.pop(register, None)
        if reads:
            state["rax"] = Value({name: _ALL})

    def _read_msr(self, instruction: Any, state: State) -> None:
        number, name = self._sources.msr
        reads = name and state.get("rcx", _NOTHING).constant == number
        for register in ("rax", "rdx"):
            state[register] = Value({name: _ALL}) if reads else _NOTHING

    def _vmread(self, instruction: Any, state: State) -> None:
        encoding, name = self._sources.vmcs_field
        target, number = instruction.operands[:2]
        is_field = name and self._read(instruction, state, number).constant == encoding
        self._write(instruction, state, target, Value({name: _ALL}) if is_field else _NOTHING)

    def _vmwrite(self, instruction: Any, state: State) -> None:
        encoding, name = self._sources.vmcs_field
        number, source = instruction.operands[:2]
        if name and self._read(instruction, state, number).constant == encoding:
            self._note(Event(Kind.VMWRITE, self._read(instruction, state, source)))

    # Operands.

    def _read(self, instruction: Any, state: State, operand: Any) -> Value:
        """Return an operand's value; of a part of a register, its bits where they are in it."""
        if operand.type == self._x86.X86_OP_IMM:
            return Value({}, operand.imm & (1 << 8 * operand.size) - 1)
        if operand.type == self._x86.X86_OP_REG:
            name = instruction.reg_name(operand.reg)
            whole = state.get(_whole(name), _NOTHING)
            start, width = _view(name)
            part = whole.with_mask(((1 << width) - 1) << start)
            if start and part.constant is not None:
                return Value(part.bits, part.constant >> start)
            return part
        return self._read_memory(instruction, state, operand)

    def _read_memory(self, instruction: Any, state: State, operand: Any) -> Value:
        slot = self._slot(instruction, operand)
        if slot:
            return state.get(slot, _NOTHING).with_mask((1 << 8 * operand.size) - 1)
        word = self._word(instruction, operand)
        if word is None:
            return _NOTHING
        name, byte = word
        return Value({name: (1 << 8 * operand.size) - 1 << 8 * byte & _ALL})

    def _write(self, instruction: Any, state: State, operand: Any, value: Value) -> None:
        if operand.type == self._x86.X86_OP_REG:
            name = instruction.reg_name(operand.reg)
            whole = _whole(name)
            start, width = _view(name)
            if not whole:
                return
            if width >= 32:
                # A write of 32 bits clears the upper half.
                state[whole] = value.with_mask((1 << width) - 1)
            else:
                mask = ((1 << width) - 1) << start
                rest = state.get(whole, _NOTHING).with_mask(~mask & _ALL)
                state[whole] = Value(rest.joined(value.with_mask(mask)).bits)
            return
        slot = self._slot(instruction, operand)
        if slot:
            state[slot] = value
            return
        self._note(Event(Kind.STORE, value, place=self._place(instruction, operand)))

    def _slot(self, instruction: Any, operand: Any) -> str:
        """Return the name of the place on the stack that an operand is, or ""."""
        memory = operand.mem
        if memory.index or instruction.reg_name(memory.base) != "rsp":
            return ""
        return f"stack {memory.disp}"

    def _place(self, instruction: Any, operand: Any) -> Place | None:
        memory = operand.mem
        if memory.index:
            return None
        if memory.base == self._x86.X86_REG_RIP:
            found = self._reference(instruction)
            return Place(found.offset, found.symbol) if found.symbol else None
        return Place(memory.disp)

    def _word(self, instruction: Any, operand: Any) -> tuple[str, int] | None:
        """Return the source that an operand in memory is, and the byte of it that is first."""
        place = self._place(instruction, operand)
        if place is None or operand.mem.segment:
            return None
        for source, name in self._sources.memory.items():
            byte = place.offset - source.offset
            if source.symbol == place.symbol and 0 <= byte < 8:
                return name, byte
        return None

    def _start(self, instruction: Any, operand: Any) -> int:
        """Return which bit of the whole register or word is an operand's first."""
        if operand.type == self._x86.X86_OP_REG:
            return _view(instruction.reg_name(operand.reg))[0]
        if operand.type != self._x86.X86_OP_MEM or self._slot(instruction, operand):
            return 0
        word = self._word(instruction, operand)
        return 8 * word[1] if word else 0

    def _aligned(self, instruction: Any, operand: Any, constant: int) -> int:
        """Return a constant where its bits are in the whole register or word."""
        if operand.type == self._x86.X86_OP_REG:
            start, width = _view(instruction.reg_name(operand.reg))
            mask = (constant & (1 << width) - 1) << start
            if instruction.mnemonic == "and" and width < 32:
                mask |= ~(((1 << width) - 1) << start) & _ALL
            return mask
        return constant << self._start(instruction, operand) & _ALL

    def _note(self, event: Event) -> None:
        """Keep what happens once all states are known."""
        if self._found is not None:
            self._found.append(event)


_HANDLERS: dict[str, Callable[[_Walk, Any, State], None]] = {
    **dict.fromkeys(("mov", "movabs", "movzx", "movsx", "movsxd"), _Walk._move),
    **dict.fromkeys(("add", "sub", "adc", "sbb"), _Walk._sum),
    **dict.fromkeys(("bt", "btr", "bts", "btc"), _Walk._bit),
    **dict.fromkeys(("shl", "sal", "shr", "sar", "rol", "ror"), _Walk._shift_by),
    "and": _Walk._and,
    "or": _Walk._or,
    "xor": _Walk._xor,
    "test": _Walk._test,
    "cmp": _Walk._compare,
    "xchg": _Walk._exchange,
    "lea": _Walk._load_address,
    "call": _Walk._call,
    "rdmsr": _Walk._read_msr,
    "vmread": _Walk._vmread,
    "vmwrite": _Walk._vmwrite,
}


def _views() -> dict[str, tuple[str, int, int]]:
    """Return for each name of a register the whole one, and the first bit and width of its part."""
    found = {}
    for letter in "abcd":
        for name, start, width in (("r{}x", 0, 64), ("e{}x", 0, 32), ("{}x", 0, 16)):
            found[name.format(letter)] = (f"r{letter}x", start, width)
        found[f"{letter}l"] = (f"r{letter}x", 0, 8)
        found[f"{letter}h"] = (f"r{letter}x", 8, 8)
    for pair in ("si", "di", "bp", "sp"):
        for name, width in (("r{}", 64), ("e{}", 32), ("{}", 16), ("{}l", 8)):
            found[name.format(pair)] = (f"r{pair}", 0, width)
    for number in range(8, 16):
        for suffix, width in (("", 64), ("d", 32), ("w", 16), ("b", 8)):
            found[f"r{number}{suffix}"] = (f"r{number}", 0, width)
    return found


_REGISTERS = _views()


def _operation(instruction: Any) -> str:
    """Return the mnemonic without a prefix such as lock."""
    return str(instruction.mnemonic.rpartition(" ")[2])


def _whole(name: str) -> str:
    return _REGISTERS.get(name, ("", 0, 64))[0]


def _view(name: str) -> tuple[int, int]:
    return _REGISTERS.get(name, ("", 0, 64))[1:]


def _shift(bits: int, places: int) -> int:
    return bits << places & _ALL if places >= 0 else bits >> -places


def _merged(old: State, new: State) -> State:
    return {name: old.get(name, _NOTHING).joined(new.get(name, _NOTHING)) for name in old | new}

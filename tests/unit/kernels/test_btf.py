"""What the BTF reader answers, on blobs made here and on this machine's own."""

import contextlib
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.btf_blob import Blob

from kvmtest.errors import KvmtestError
from kvmtest.kernels.btf import Btf, BtfError, Kind, Offset, Parameter, Prototype

VMLINUX = Path("/sys/kernel/btf/vmlinux")

SIGNED = True
VOID = 0


def has_member(btf: Btf, name: str, path: str) -> bool:
    return any(each.has(path) for each in btf.structs(name))


def every_kind() -> Blob:
    """Build a blob with a type of each kind, used by each other."""
    blob = Blob()
    u64 = blob.add(Kind.TYPEDEF, "u64", blob.int_("long unsigned int", 8))
    blob.add(Kind.ARRAY, "", 0, u64, u64, 4)
    blob.add(Kind.FLOAT, "double", 8)
    forward = blob.add(Kind.FWD, "kvm", 0)
    tagged = blob.add(Kind.TYPE_TAG, "user", forward)
    pointer = blob.add(Kind.PTR, "", tagged)
    const = blob.add(Kind.CONST, "", u64)
    blob.add(Kind.VOLATILE, "", const)
    blob.add(Kind.RESTRICT, "", pointer)
    inner = blob.struct_("", ("low", u64, 0), ("high", u64, 64), size=16)
    union = blob.struct_("", ("", inner, 0), ("all", u64, 0), kind=Kind.UNION, size=16)
    arch = blob.struct_("kvm_vcpu_arch", ("regs", const, 0), ("", union, 64), size=24)
    vcpu = blob.struct_("kvm_vcpu", ("kvm", pointer, 0), ("arch", arch, 64), size=32)
    blob.add(Kind.DECL_TAG, "tag", vcpu, 0xFFFFFFFF)
    flags = blob.enum("kvm_x86_run_flags", FORCE=1, LOAD=4)
    blob.enum64("wide", BIG=1 << 40)
    to_vcpu = blob.add(Kind.PTR, "", vcpu)
    blob.function("vmx_vcpu_run", flags, ("vcpu", to_vcpu), ("run_flags", u64))
    variable = blob.add(Kind.VAR, "count", u64, 1)
    blob.add(Kind.DATASEC, ".data", 8, variable, 0, 8, vlen=1)
    return blob


def ask_everything(data: bytes, base: Btf | None = None) -> None:
    btf = Btf(data, base)
    names = ["kvm_vcpu", "kvm_vcpu_arch", "kvm_x86_run_flags", "wide", "vmx_vcpu_run", "tag", "u64"]
    for name in names:
        for each in btf.structs(name):
            for member in each.members:
                btf.type_name(member.type_id)
        btf.enums(name)
        btf.functions(name)
        has_member(btf, name, "arch.high")
        btf.offsets(name, "all")


# Structs


def test_a_member_is_found_in_the_struct_that_has_it() -> None:
    blob = Blob()
    u64 = blob.int_("u64", 8)
    blob.struct_("kvm_x86_ops", ("vcpu_run", u64, 64))
    blob.struct_("other", ("elsewhere", u64, 0))
    btf = Btf(blob.bytes())
    assert has_member(btf, "kvm_x86_ops", "vcpu_run")
    assert not has_member(btf, "kvm_x86_ops", "elsewhere")
    assert not has_member(btf, "kvm_x86_ops", "nowhere")
    assert not has_member(btf, "no_such_struct", "vcpu_run")


def test_a_name_that_is_only_the_tail_of_another_is_not_found() -> None:
    blob = Blob()
    blob.struct_("kvm_x86_ops", ("vcpu_run", blob.int_(), 0))
    btf = Btf(blob.bytes())
    assert not has_member(btf, "kvm_x86_ops", "run")
    assert not btf.structs("x86_ops")


def test_a_string_that_shares_the_tail_of_a_longer_one_is_found() -> None:
    blob = Blob()
    tail = blob.string("vcpu_run") + len("vcpu_")
    u64 = blob.int_()
    blob.add(Kind.STRUCT, "kvm_x86_ops", 8, tail, u64, 0, vlen=1)
    assert has_member(Btf(blob.bytes()), "kvm_x86_ops", "run")


def test_members_of_anonymous_structs_and_unions_belong_to_the_outer_struct() -> None:
    btf = Btf(every_kind().bytes())
    assert btf.offsets("kvm_vcpu_arch", "high") == (Offset(128),)
    assert btf.offsets("kvm_vcpu_arch", "all") == (Offset(64),)


def test_a_dotted_path_adds_the_offsets_up() -> None:
    (offset,) = Btf(every_kind().bytes()).offsets("kvm_vcpu", "arch.high")
    assert (offset.in_bytes, offset.width) == (24, 0)


def test_a_path_does_not_lead_through_a_pointer() -> None:
    blob = Blob()
    inner = blob.struct_("kvm", ("vcpus", blob.int_(), 0))
    blob.struct_("kvm_vcpu", ("kvm", blob.add(Kind.PTR, "", inner), 0))
    assert not has_member(Btf(blob.bytes()), "kvm_vcpu", "kvm.vcpus")


def test_a_path_leads_through_typedefs_and_qualifiers() -> None:
    blob = Blob()
    inner = blob.struct_("", ("value", blob.int_(), 32))
    typedef = blob.add(Kind.TYPEDEF, "inner_t", blob.add(Kind.CONST, "", inner))
    blob.struct_("outer", ("field", typedef, 64))
    assert Btf(blob.bytes()).offsets("outer", "field.value") == (Offset(96),)


def test_a_bitfield_has_its_offset_and_width_in_bits() -> None:
    blob = Blob()
    blob.struct_("flags", ("first", blob.int_(), 1 << 24), ("third", 1, 3 << 24 | 9), flag=True)
    (offset,) = Btf(blob.bytes()).offsets("flags", "third")
    assert (offset.bits, offset.width, offset.in_bytes) == (9, 3, 1)


def test_a_forward_declaration_is_no_struct() -> None:
    blob = Blob()
    blob.add(Kind.FWD, "kvm_x86_ops")
    assert Btf(blob.bytes()).structs("kvm_x86_ops") == ()


def test_every_copy_of_a_struct_is_looked_at() -> None:
    blob = Blob()
    u64 = blob.int_("u64", 8)
    blob.struct_("kvm_x86_ops", ("vcpu_run", u64, 0))
    blob.struct_("kvm_x86_ops", ("vcpu_run", u64, 0), size=16)
    blob.struct_("kvm_x86_ops", ("vcpu_run", u64, 64), ("HOST_OWNED_DEBUGCTL", u64, 0), size=16)
    btf = Btf(blob.bytes())
    assert len(btf.structs("kvm_x86_ops")) == 3
    assert has_member(btf, "kvm_x86_ops", "HOST_OWNED_DEBUGCTL")
    assert btf.offsets("kvm_x86_ops", "vcpu_run") == (Offset(0), Offset(64))
    assert {each.size for each in btf.structs("kvm_x86_ops")} == {8, 16}


def test_members_are_listed_with_their_types() -> None:
    btf = Btf(every_kind().bytes())
    (vcpu,) = btf.structs("kvm_vcpu")
    assert [(m.name, btf.type_name(m.type_id), m.offset.in_bytes) for m in vcpu.members] == [
        ("kvm", "struct kvm *", 0),
        ("arch", "struct kvm_vcpu_arch", 8),
    ]
    assert (vcpu.size, vcpu.is_union) == (32, False)


@pytest.mark.parametrize("name", ["", ".", "a..b", "vcpu\0run", "vcpü", "\ud800"])
def test_an_impossible_name_is_absent(name: str) -> None:
    btf = Btf(every_kind().bytes())
    assert not has_member(btf, "kvm_vcpu", name)
    assert not btf.structs(name)


# Enums and functions


def test_enumerators_have_their_values() -> None:
    blob = Blob()
    blob.enum("plain", A=1, B=0xFFFFFFFF)
    blob.enum("negative", signed=True, C=-2, D=3)
    blob.enum64("wide", E=1 << 40, F=(1 << 64) - 1)
    blob.enum64("wide_negative", signed=True, G=-5)
    btf = Btf(blob.bytes())
    values = {name: btf.enums(name)[0].values for name in ("plain", "negative", "wide")}
    assert values == {
        "plain": {"A": 1, "B": 0xFFFFFFFF},
        "negative": {"C": -2, "D": 3},
        "wide": {"E": 1 << 40, "F": (1 << 64) - 1},
    }
    assert btf.enums("wide_negative")[0].values == {"G": -5}


def test_a_forward_declared_enum_is_none() -> None:
    blob = Blob()
    blob.enum("kvm_x86_run_flags")
    assert Btf(blob.bytes()).enums("kvm_x86_run_flags") == ()


def test_a_prototype_gives_names_and_types_in_order() -> None:
    (prototype,) = Btf(every_kind().bytes()).functions("vmx_vcpu_run")
    assert prototype == Prototype(
        "vmx_vcpu_run",
        "enum kvm_x86_run_flags",
        (Parameter("vcpu", "struct kvm_vcpu *"), Parameter("run_flags", "u64")),
    )
    assert prototype.index("run_flags") == 1
    assert prototype.index("force_immediate_exit") is None


def test_a_variadic_function_ends_in_dots() -> None:
    blob = Blob()
    blob.function("_printk", VOID, ("fmt", blob.int_()), ("", VOID))
    (prototype,) = Btf(blob.bytes()).functions("_printk")
    assert prototype.parameters == (Parameter("fmt", "int"), Parameter("", "..."))
    assert prototype.returns == "void"


Spelling = Callable[[Blob, int], int]


@pytest.mark.parametrize(
    ("spelling", "build"),
    [
        ("int", lambda b, i: i),
        ("const int *", lambda b, i: b.add(Kind.PTR, "", b.add(Kind.CONST, "", i))),
        ("int *const", lambda b, i: b.add(Kind.CONST, "", b.add(Kind.PTR, "", i))),
        ("int **", lambda b, i: b.add(Kind.PTR, "", b.add(Kind.PTR, "", i))),
        ("int [4]", lambda b, i: b.add(Kind.ARRAY, "", 0, i, i, 4)),
        ("int (*)[4]", lambda b, i: b.add(Kind.PTR, "", b.add(Kind.ARRAY, "", 0, i, i, 4))),
        ("int (*)(...)", lambda b, i: b.add(Kind.PTR, "", b.add(Kind.FUNC_PROTO, "", i))),
        ("void *", lambda b, i: b.add(Kind.PTR, "", VOID)),
        ("union u", lambda b, i: b.add(Kind.FWD, "u", flag=True)),
        ("struct {...} *", lambda b, i: b.add(Kind.PTR, "", b.struct_(""))),
    ],
)
def test_types_are_spelt_as_in_c(spelling: str, build: Spelling) -> None:
    blob = Blob()
    type_id = build(blob, blob.int_())
    assert Btf(blob.bytes()).type_name(type_id) == spelling


# Split BTF


def test_split_btf_uses_its_base() -> None:
    base = Blob()
    u64 = base.int_("u64", 8)
    base.struct_("list_head", ("next", u64, 0))
    shared = base.string("HOST_OWNED_DEBUGCTL")
    split = Blob(base)
    ops = split.add(Kind.STRUCT, "kvm_x86_ops", 8, shared, u64, 0, vlen=1)
    split.struct_("kvm_caps", ("ops", ops, 0))
    btf = Btf(split.bytes(), Btf(base.bytes()))
    assert has_member(btf, "kvm_x86_ops", "HOST_OWNED_DEBUGCTL")
    assert has_member(btf, "kvm_caps", "ops.HOST_OWNED_DEBUGCTL")
    assert has_member(btf, "list_head", "next")
    (member,) = btf.structs("kvm_x86_ops")[0].members
    assert (member.name, btf.type_name(member.type_id)) == ("HOST_OWNED_DEBUGCTL", "u64")


def test_copies_in_base_and_split_are_both_found() -> None:
    base = Blob()
    base.struct_("kvm_vcpu", ("old", base.int_(), 0))
    split = Blob(base)
    split.struct_("kvm_vcpu", ("new", 1, 0))
    btf = Btf(split.bytes(), Btf(base.bytes()))
    assert len(btf.structs("kvm_vcpu")) == 2
    assert has_member(btf, "kvm_vcpu", "old")
    assert has_member(btf, "kvm_vcpu", "new")


def over_a_base(*, own_first: bool) -> Btf:
    """A module with a struct of its own that the base has too, and one that the base alone has."""
    base = Blob()
    number = base.int_()
    base.struct_("kvm_vcpu", ("old", number, 0))
    base.struct_("list_head", ("next", number, 0))
    split = Blob(base)
    split.struct_("kvm_vcpu", ("new", number, 0))
    split.struct_("kvm_vcpu", ("new", number, 32))
    return Btf(split.bytes(), Btf(base.bytes()), own_first=own_first)


def test_own_definitions_hide_the_base_s_where_they_come_first() -> None:
    btf = over_a_base(own_first=True)
    assert not has_member(btf, "kvm_vcpu", "old")
    assert [each.is_inherited for each in btf.structs("kvm_vcpu")] == [False, False]
    assert len(btf.offsets("kvm_vcpu", "new")) == 2


def test_what_the_module_lacks_is_the_base_s_in_either_case() -> None:
    for own_first in (True, False):
        (inherited,) = over_a_base(own_first=own_first).structs("list_head")
        assert inherited.is_inherited
    assert has_member(over_a_base(own_first=False), "kvm_vcpu", "old")


def test_split_btf_without_its_base_is_refused() -> None:
    base = every_kind()
    split = Blob(base)
    split.struct_("kvm_caps", ("size", 1, 0))
    with pytest.raises(BtfError, match="string section"):
        Btf(split.bytes())


# What is no BTF


def broken_header(**fields: int) -> bytes:
    names = ("magic", "version", "flags", "hdr_len", "type_off", "type_len", "str_off", "str_len")
    data = every_kind().bytes()
    values = dict(zip(names, struct.unpack_from("=HBBIIIII", data), strict=True)) | fields
    return struct.pack("=HBBIIIII", *values.values()) + data[24:]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "too short"),
        (broken_header(magic=0x7F45), "not BTF"),
        (broken_header(magic=0x9FEB), "endian"),
        (broken_header(version=2), "version 2"),
        (broken_header(flags=1), "flags 0x1"),
        (broken_header(hdr_len=8), "length of 8"),
        (broken_header(type_off=2), "32-bit words"),
        (broken_header(type_len=1 << 30), "type section ends beyond"),
        (broken_header(str_off=1 << 30), "string section ends beyond"),
        (broken_header(str_len=0), "zero byte"),
        (every_kind().bytes()[:-1], "string section ends beyond"),
    ],
)
def test_a_broken_header_is_refused_in_one_line(data: bytes, message: str) -> None:
    with pytest.raises(BtfError, match=message) as caught:
        Btf(data)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, KvmtestError)


def test_foreign_endianness_names_both_sides() -> None:
    data = struct.pack((">" if sys.byteorder == "little" else "<") + "HBBI", 0xEB9F, 1, 0, 24)
    with pytest.raises(BtfError, match="of a foreign machine"):
        Btf(data + bytes(24))


def test_a_type_cut_short_is_refused() -> None:
    blob = Blob()
    blob.struct_("kvm_x86_ops", ("vcpu_run", 1, 0))
    del blob.types[-4:]
    with pytest.raises(BtfError, match="ends inside a type"):
        Btf(blob.bytes()).structs("kvm_x86_ops")


def test_a_header_of_a_type_cut_short_is_refused() -> None:
    blob = Blob()
    blob.struct_("kvm_x86_ops")
    blob.types += bytes(4)
    with pytest.raises(BtfError, match="ends inside a type"):
        Btf(blob.bytes()).structs("kvm_x86_ops")


def test_an_unknown_kind_is_refused() -> None:
    blob = Blob()
    blob.add(31)
    blob.struct_("kvm_x86_ops", ("vcpu_run", 1, 0))
    with pytest.raises(BtfError, match="unknown kind 31"):
        Btf(blob.bytes()).structs("kvm_x86_ops")


def test_an_unknown_kind_is_stepped_over_where_the_layout_section_gives_its_size() -> None:
    blob = Blob()
    blob.add(20, "new", 0, 7, 8, 9, vlen=2)
    blob.struct_("kvm_x86_ops", ("vcpu_run", blob.int_(), 0))
    layout = struct.pack("=BBH", 0, 0, 0) * 20 + struct.pack("=BBH", 4, 4, 0)
    assert has_member(Btf(blob.bytes(layout)), "kvm_x86_ops", "vcpu_run")


def loop_of(kind: Kind) -> bytes:
    blob = Blob()
    blob.add(kind, "a", 2)
    blob.add(kind, "b", 1)
    blob.struct_("looped", ("", 1, 0), ("member", 1, 0))
    blob.string("wanted")
    return blob.bytes()


@pytest.mark.parametrize("kind", [Kind.TYPEDEF, Kind.CONST, Kind.TYPE_TAG])
def test_a_loop_of_types_is_refused(kind: Kind) -> None:
    btf = Btf(loop_of(kind))
    with pytest.raises(BtfError, match="loop"):
        has_member(btf, "looped", "wanted")


def test_a_loop_of_pointers_has_no_name() -> None:
    with pytest.raises(BtfError, match="loop"):
        Btf(loop_of(Kind.PTR)).type_name(1)


def test_a_struct_that_holds_itself_is_searched_once() -> None:
    blob = Blob()
    blob.struct_("looped", ("", 1, 0), ("", 1, 64))
    blob.string("wanted")
    assert not has_member(Btf(blob.bytes()), "looped", "wanted")


def test_a_tree_of_shared_anonymous_structs_is_searched_in_linear_time() -> None:
    blob = Blob()
    inner = blob.struct_("", ("x", blob.int_(), 0))
    for _ in range(200):
        inner = blob.struct_("", ("", inner, 0), ("", inner, 64))
    blob.struct_("deep", ("", inner, 0))
    blob.string("wanted")
    assert not has_member(Btf(blob.bytes()), "deep", "wanted")


def test_a_reference_to_a_type_that_is_not_there_is_refused() -> None:
    blob = Blob()
    blob.struct_("kvm_vcpu", ("", 99, 0), ("member", 99, 0))
    blob.string("wanted")
    with pytest.raises(BtfError, match="type 99"):
        has_member(Btf(blob.bytes()), "kvm_vcpu", "wanted")


def test_a_reference_to_a_string_that_is_not_there_is_refused() -> None:
    blob = Blob()
    blob.add(Kind.STRUCT, "kvm_vcpu", 8, 9999, 1, 0, vlen=1)
    (vcpu,) = Btf(blob.bytes()).structs("kvm_vcpu")
    with pytest.raises(BtfError, match="string at 9999"):
        assert vcpu.members


def test_a_function_without_prototype_is_refused() -> None:
    blob = Blob()
    blob.add(Kind.FUNC, "vmx_vcpu_run", blob.int_())
    with pytest.raises(BtfError, match="no prototype"):
        Btf(blob.bytes()).functions("vmx_vcpu_run")


# Any bytes


VALID = every_kind().bytes()


@given(st.binary(max_size=400))
def test_any_bytes_give_an_answer_or_a_btf_error(data: bytes) -> None:
    answers_or_refuses(data)


@given(st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 40), max_size=60), st.binary())
def test_any_types_give_an_answer_or_a_btf_error(words: list[int], strings: bytes) -> None:
    blob = Blob()
    for name in ("kvm_vcpu", "kvm_x86_run_flags", "vmx_vcpu_run"):
        blob.string(name)
    blob.types += struct.pack(f"={len(words)}I", *words)
    blob.strings += strings + b"\0"
    answers_or_refuses(blob.bytes())


@given(st.integers(0, len(VALID) - 1))
def test_any_truncation_is_refused(length: int) -> None:
    with pytest.raises(BtfError):
        ask_everything(VALID[:length])


@given(st.lists(st.integers(0, len(VALID) * 8 - 1), min_size=1, max_size=4))
def test_any_flipped_bits_give_an_answer_or_a_btf_error(positions: list[int]) -> None:
    data = bytearray(VALID)
    for position in positions:
        data[position // 8] ^= 1 << position % 8
    answers_or_refuses(bytes(data))
    answers_or_refuses(bytes(data), Btf(VALID))


def answers_or_refuses(data: bytes, base: Btf | None = None) -> None:
    with contextlib.suppress(BtfError):
        ask_everything(data, base)


def test_the_blob_of_every_kind_is_one() -> None:
    ask_everything(VALID)
    assert {word >> 24 & 0x7F for word in type_infos(VALID)} == set(Kind)


def type_infos(data: bytes) -> list[int]:
    btf = Btf(data)
    return [btf._words[head + 1] for head in btf._heads]


# This machine


@pytest.fixture(scope="module")
def vmlinux() -> Btf:
    if not VMLINUX.exists():
        pytest.skip(f"{VMLINUX} is absent (CONFIG_DEBUG_INFO_BTF)")
    return Btf(VMLINUX.read_bytes())


def test_task_struct_is_in_this_kernel(vmlinux: Btf) -> None:
    (offset, *others) = vmlinux.offsets("task_struct", "pid")
    assert not others
    assert offset.in_bytes > 0
    assert vmlinux.structs("task_struct")[0].size > offset.in_bytes
    assert not has_member(vmlinux, "task_struct", "no_such_member")


def test_bitfields_of_this_kernel_have_widths(vmlinux: Btf) -> None:
    assert {offset.width for offset in vmlinux.offsets("sk_buff", "pkt_type")} == {3}


def test_an_enum_of_this_kernel_has_its_values(vmlinux: Btf) -> None:
    (enum, *_) = vmlinux.enums("pid_type")
    assert enum.values["PIDTYPE_PID"] == 0


def test_a_function_of_this_kernel_has_its_prototype(vmlinux: Btf) -> None:
    (printk, *_) = vmlinux.functions("_printk")
    assert printk.parameters == (Parameter("fmt", "const char *"), Parameter("", "..."))

"""kernels/btf.py: standalone BTF."""

from support.btf_blob import Blob

from fuzz.harness import Harness
from kvmtest.kernels.btf import Btf, BtfError, Kind

STRUCTS = ("kvm_x86_ops", "kvm_vcpu", "list_head")


def look(btf: Btf) -> None:
    """Ask all that can be asked."""
    for name in STRUCTS:
        for struct in btf.structs(name):
            for member in struct.members:
                btf.type_name(member.type_id)
            struct.has("HOST_OWNED_DEBUGCTL")
            struct.has("arch.host_debugctl")
        btf.offsets(name, "arch.host_debugctl")
    btf.enums("kvm_x86_run_flags")
    for function in btf.functions("vmx_vcpu_run"):
        function.index("run_flags")


def fill(blob: Blob) -> None:
    """Put into a blob one type of each kind, and what is looked for."""
    u64 = blob.int_("u64", 8)
    void = blob.add(Kind.PTR)
    const = blob.add(Kind.CONST, "", u64)
    array = blob.add(Kind.ARRAY, "", 0, const, u64, 4)
    typedef = blob.add(Kind.TYPEDEF, "gpa_t", array)
    blob.add(Kind.FWD, "list_head")
    tag = blob.add(Kind.TYPE_TAG, "user", typedef)
    volatile = blob.add(Kind.VOLATILE, "", blob.add(Kind.RESTRICT, "", void))
    blob.add(Kind.VAR, "jiffies", volatile, 1)
    blob.add(Kind.DATASEC, ".data", 8, u64, 0, 8, vlen=1)
    blob.add(Kind.FLOAT, "double", 8)
    blob.add(Kind.DECL_TAG, "tag", u64, 0)
    inner = blob.struct_("", ("host_debugctl", u64, 64), ("a", tag, 0))
    arch = blob.struct_("kvm_vcpu_arch", ("", inner, 0), ("b", volatile, 0x0100_0003), flag=True)
    blob.struct_("kvm_vcpu", ("arch", arch, 128), ("pid", u64, 0))
    blob.struct_("kvm_x86_ops", ("vcpu_run", void, 0), ("HOST_OWNED_DEBUGCTL", u64, 64))
    blob.struct_("kvm_x86_ops", ("run", void, 0), kind=Kind.UNION)
    blob.enum("kvm_x86_run_flags", KVM_RUN_FORCE_IMMEDIATE_EXIT=1, KVM_RUN_LOAD_DEBUGCTL=4)
    blob.enum64("kvm_x86_run_flags", signed=True, KVM_RUN_LOAD_DEBUGCTL=-1)
    blob.function("vmx_vcpu_run", u64, ("vcpu", void), ("run_flags", const), ("", 0))


def whole(base: Blob | None = None, layout: bytes = b"") -> bytes:
    blob = Blob(base)
    fill(blob)
    return blob.bytes(layout)


HARNESS = Harness(
    parse=lambda data: look(Btf(data)),
    seeds=(whole(), whole(layout=bytes(20 * 4) + b"\4\4\0\0"), Blob().bytes()),
    refusals=(BtfError,),
)

"""The few types of KVM's that kvmtest asks its BTF for, as BTF."""

from support.btf_blob import Blob


class KvmTypes(Blob):
    """BTF with KVM's types, standalone or split over a base."""

    def record(self, name: str, *members: tuple[str, int, int]) -> int:
        """Add a struct whose members are each given with type and offset in bytes."""
        return self.struct_(name, *((key, of, at * 8) for key, of, at in members))

    def ops(self, *members: str) -> int:
        """Add a struct kvm_x86_ops with these members."""
        return self.record("kvm_x86_ops", *((name, 1, 8 * i) for i, name in enumerate(members)))

    def flags(self, **values: int) -> int:
        """Add enum kvm_x86_run_flags."""
        return self.enum("kvm_x86_run_flags", **values)

    def vcpu(self, at: int) -> None:
        """Add struct kvm_vcpu with ``arch`` at a byte, and in that host_debugctl at byte 28."""
        arch = self.record("kvm_vcpu_arch", ("host_debugctl", 1, 28))
        self.record("kvm_vcpu", ("arch", arch, at))


def vmlinux() -> KvmTypes:
    """Return the types of a kernel image that has nothing of KVM."""
    types = KvmTypes()
    types.int_("u64", 8)
    return types


def fixed(types: KvmTypes) -> KvmTypes:
    """Add what a KVM with the fix has."""
    types.ops("vcpu_run", "HOST_OWNED_DEBUGCTL")
    types.flags(KVM_RUN_FORCE_IMMEDIATE_EXIT=1, KVM_RUN_LOAD_DEBUGCTL=4)
    types.vcpu(500)
    return types

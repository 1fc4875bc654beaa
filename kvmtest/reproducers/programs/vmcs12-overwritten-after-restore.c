#define GUEST_GDTR_BASE @GUEST_GDTR_BASE@
#define GUEST_CS_LIMIT @GUEST_CS_LIMIT@

/* Set and get the state of an L1 that has a VMCS; return whether its fields are kept. */
static int is_kept(struct guest *guest, union state *l1, const char *when)
{
	union state now = { .head.size = sizeof(now) };
	__u64 base;
	__u32 limit;

	kvm(guest->vcpu, KVM_SET_NESTED_STATE, l1);
	kvm(guest->vcpu, KVM_GET_NESTED_STATE, &now);
	memcpy(&base, vmcs12(&now, GUEST_GDTR_BASE), sizeof(base));
	memcpy(&limit, vmcs12(&now, GUEST_CS_LIMIT), sizeof(limit));
	printf("# guest GDTR base 0x%llx, CS limit 0x%x %s\n", base, limit, when);
	return !memcmp(vmcs12(&now, GUEST_GDTR_BASE), vmcs12(l1, GUEST_GDTR_BASE), sizeof(base)) &&
	       !memcmp(vmcs12(&now, GUEST_CS_LIMIT), vmcs12(l1, GUEST_CS_LIMIT), sizeof(limit));
}

int main(void)
{
	struct guest guest;
	union state l1, l2;

	setlinebuf(stdout);
	printf("KTAP version 1\n1..%zu\n", ARRAY_SIZE(claims));
	create_l1(&guest, &l2);
	l1 = l2;
	l1.head.flags = 0;
	if (!is_kept(&guest, &l1, "after KVM_SET_NESTED_STATE on a new vCPU"))
		skip("control", "vmcs12 is not kept on a new vCPU either");
	if (!enter_l2(&guest, &l2))
		skip("control", "KVM takes no vmcs12 at all");
	tell(is_kept(&guest, &l1, "after KVM_SET_NESTED_STATE on a vCPU in L2"));
	return failed ? @KSFT_FAIL@ : @KSFT_PASS@;
}

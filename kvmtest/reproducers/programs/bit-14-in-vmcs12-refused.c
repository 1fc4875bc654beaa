int main(void)
{
	__u64 freeze = @FREEZE_WHILE_SMM@;
	struct guest guest;
	union state l2;

	setlinebuf(stdout);
	printf("KTAP version 1\n1..%zu\n", ARRAY_SIZE(claims));
	create_l1(&guest, &l2);
	if (!enter_l2(&guest, &l2))
		skip("control", "KVM takes no vmcs12 at all, with DEBUGCTL 0 either");
	memcpy(vmcs12(&l2, @GUEST_IA32_DEBUGCTL@), &freeze, sizeof(freeze));
	tell(enter_l2(&guest, &l2));
	return failed ? @KSFT_FAIL@ : @KSFT_PASS@;
}

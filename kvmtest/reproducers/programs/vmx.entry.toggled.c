int main(void)
{
	struct guest guest;

	setlinebuf(stdout);
	printf("KTAP version 1\n1..%zu\n", ARRAY_SIZE(claims));
	open_host();
	set_knob(0);
	create_guest(&guest, 0);
	if (bit_at_entry(&guest, "with freeze_on_smi=0"))
		skip("control", "a new vCPU has bit 14 set");
	for (int value = 1; told < ARRAY_SIZE(claims); value = !value) {
		set_knob(value);
		tell(bit_at_entry(&guest, value ? "after 0, 1" : "after 1, 0") == value);
	}
	return failed ? @KSFT_FAIL@ : @KSFT_PASS@;
}

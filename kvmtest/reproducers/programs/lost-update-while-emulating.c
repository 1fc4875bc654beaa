int main(void)
{
	struct guest used, new;

	setlinebuf(stdout);
	printf("KTAP version 1\n1..%zu\n", ARRAY_SIZE(claims));
	require_emulation();
	open_host();
	set_knob(1);
	create_guest(&used, 0);
	if (!bit_at_entry(&used, "with freeze_on_smi=1, nothing emulated"))
		skip("control", "no bit 14 without emulation either: see vmx.entry.toggled");

	create_guest(&new, 0);
	emulate(&new);
	tell(bit_at_entry(&new, "with freeze_on_smi=1, first seen while emulating") == 1);

	set_knob(0);
	emulate(&used);
	tell(bit_at_entry(&used, "with freeze_on_smi=0, first seen while emulating") == 0);
	return failed ? @KSFT_FAIL@ : @KSFT_PASS@;
}

"""What the Intel lab decides of a stock kernel, by what its emulator has."""

#: What one CPU decides with any emulator.
DECIDED = {
    "kernel.fix-present",
    "host.knob-effective",
    "vmx.entry.fresh",
    "vmx.entry.toggled",
    "vmx.entry.toggled-back",
    "vmx.entry.flag-economy",
    "guest.rdmsr-hides",
    "vmx.guest.wrmsr-refused",
    "vmx.guest.write-keeps-host-bit",
    "vmx.guest.rtm-debug",
    "nvmx.entry.l2",
    "nvmx.entry.vmfail-reload",
    "nvmx.vmcs12.freeze-bit",
    "nvmx.vmcs12.quirk-disabled",
    "nvmx.vmcs12.validity",
    "nvmx.vmcs12.save",
    "nvmx.restore",
    "any.soak",
    "any.no-warnings",
}
#: A known defect of each kernel: FAIL.
LOST_UPDATE = "vmx.entry.after-emulation"
LEAKS = {"vmx.leak.host-events", "vmx.leak.guest-pmu", "nvmx.leak.l2"}
#: What an emulator with performance counters decides, and no other.
NEED_COUNTERS = {"host.msr-survives", *LEAKS}

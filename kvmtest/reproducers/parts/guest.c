#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define PML4 @PML4@
#define PDPT @PDPT@
#define PAGE_DIRECTORY @PAGE_DIRECTORY@
#define CODE @CODE@
#define STACK @STACK@
#define MEMORY_SIZE @MEMORY_SIZE@

@CODE:out_and_again@

struct guest {
	int vm, vcpu;
	void *memory;
	struct kvm_run *run;
	struct kvm_sregs reset;
};

#define kvm(fd, request, argument) \
	check(#request, ioctl(fd, request, (unsigned long)(argument)))

/* Make a VM with one vCPU, which has a local APIC if there are pins of an irqchip. */
static void create_guest(struct guest *guest, __u32 pins)
{
	struct kvm_enable_cap irqchip = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { pins } };
	struct kvm_userspace_memory_region region = { .memory_size = MEMORY_SIZE };
	struct kvm_cpuid2 *cpuid = calloc(1, 1 << 16);
	int system = check("/dev/kvm", open("/dev/kvm", O_RDWR));

	guest->memory = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	region.userspace_addr = (unsigned long)guest->memory;
	guest->vm = kvm(system, KVM_CREATE_VM, 0);
	kvm(guest->vm, KVM_SET_TSS_ADDR, @TSS_ADDRESS@);
	kvm(guest->vm, KVM_SET_USER_MEMORY_REGION, &region);
	if (pins)
		kvm(guest->vm, KVM_ENABLE_CAP, &irqchip);
	guest->vcpu = kvm(guest->vm, KVM_CREATE_VCPU, 0);
	guest->run = mmap(NULL, kvm(system, KVM_GET_VCPU_MMAP_SIZE, 0),
			  PROT_READ | PROT_WRITE, MAP_SHARED, guest->vcpu, 0);
	if (!cpuid || guest->memory == MAP_FAILED || guest->run == MAP_FAILED)
		skip("memory", strerror(errno));
	cpuid->nent = 256;
	kvm(system, KVM_GET_SUPPORTED_CPUID, cpuid);
	kvm(guest->vcpu, KVM_SET_CPUID2, cpuid);
	kvm(guest->vcpu, KVM_GET_SREGS, &guest->reset);
	memcpy(guest->memory + CODE, out_and_again, sizeof(out_and_again));
	free(cpuid);
	close(system);
}

static void set_registers(struct guest *guest, struct kvm_sregs *sregs, __u64 rip)
{
	struct kvm_regs regs = { .rip = rip, .rsp = STACK, .rflags = @RFLAGS@ };

	kvm(guest->vcpu, KVM_SET_SREGS, sregs);
	kvm(guest->vcpu, KVM_SET_REGS, &regs);
}

/* Put the vCPU at CODE in 64-bit mode, with the first 2 MiB mapped to themselves. */
static void set_long_mode(struct guest *guest)
{
	struct kvm_sregs sregs = guest->reset;

	*(__u64 *)(guest->memory + PML4) = PDPT | 3;
	*(__u64 *)(guest->memory + PDPT) = PAGE_DIRECTORY | 3;
	*(__u64 *)(guest->memory + PAGE_DIRECTORY) = 0x83;
	sregs.cs = (struct kvm_segment) {
		.limit = ~0U, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1,
	};
	sregs.cr0 = @CR0@; /* PG, NE, ET, MP, PE */
	sregs.cr3 = PML4;
	sregs.cr4 |= @CR4@; /* PAE */
	sregs.efer = @EFER@; /* LMA, LME */
	set_registers(guest, &sregs, CODE);
}

/* Run the vCPU until it exits to userspace, and complete its instruction. */
static __u32 run(struct guest *guest)
{
	__u32 reason;

	kvm(guest->vcpu, KVM_RUN, 0);
	reason = guest->run->exit_reason;
	guest->run->immediate_exit = 1;
	ioctl(guest->vcpu, KVM_RUN, 0);
	guest->run->immediate_exit = 0;
	return reason;
}

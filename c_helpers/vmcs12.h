/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The VMCS of a nested guest as KVM keeps it for a guest hypervisor, and as KVM_GET_NESTED_STATE gives it
 * to userspace: struct vmcs12 of arch/x86/kvm/vmx/vmcs12.h, whose layout never changes. The fields are
 * those of the Intel SDM, volume 3, appendix B.
 */
#ifndef KVMTEST_VMCS12_H
#define KVMTEST_VMCS12_H

#include <stddef.h>
#include <stdint.h>

#define VMCS12_REVISION 0x11e57ed0

struct vmcs12 {
	uint32_t revision;
	uint32_t abort;
	uint32_t launch_state;
	uint32_t padding[7];
	uint64_t io_bitmap_a;
	uint64_t io_bitmap_b;
	uint64_t msr_bitmap;
	uint64_t vm_exit_msr_store_addr;
	uint64_t vm_exit_msr_load_addr;
	uint64_t vm_entry_msr_load_addr;
	uint64_t tsc_offset;
	uint64_t virtual_apic_page_addr;
	uint64_t apic_access_addr;
	uint64_t posted_intr_desc_addr;
	uint64_t ept_pointer;
	uint64_t eoi_exit_bitmap0;
	uint64_t eoi_exit_bitmap1;
	uint64_t eoi_exit_bitmap2;
	uint64_t eoi_exit_bitmap3;
	uint64_t xss_exit_bitmap;
	uint64_t guest_physical_address;
	uint64_t vmcs_link_pointer;
	uint64_t guest_ia32_debugctl;
	uint64_t guest_ia32_pat;
	uint64_t guest_ia32_efer;
	uint64_t guest_ia32_perf_global_ctrl;
	uint64_t guest_pdptr0;
	uint64_t guest_pdptr1;
	uint64_t guest_pdptr2;
	uint64_t guest_pdptr3;
	uint64_t guest_bndcfgs;
	uint64_t host_ia32_pat;
	uint64_t host_ia32_efer;
	uint64_t host_ia32_perf_global_ctrl;
	uint64_t vmread_bitmap;
	uint64_t vmwrite_bitmap;
	uint64_t vm_function_control;
	uint64_t eptp_list_address;
	uint64_t pml_address;
	uint64_t encls_exiting_bitmap;
	uint64_t tsc_multiplier;
	uint64_t padding64[1];
	uint64_t cr0_guest_host_mask;
	uint64_t cr4_guest_host_mask;
	uint64_t cr0_read_shadow;
	uint64_t cr4_read_shadow;
	uint64_t dead_space[4];
	uint64_t exit_qualification;
	uint64_t guest_linear_address;
	uint64_t guest_cr0;
	uint64_t guest_cr3;
	uint64_t guest_cr4;
	uint64_t guest_es_base;
	uint64_t guest_cs_base;
	uint64_t guest_ss_base;
	uint64_t guest_ds_base;
	uint64_t guest_fs_base;
	uint64_t guest_gs_base;
	uint64_t guest_ldtr_base;
	uint64_t guest_tr_base;
	uint64_t guest_gdtr_base;
	uint64_t guest_idtr_base;
	uint64_t guest_dr7;
	uint64_t guest_rsp;
	uint64_t guest_rip;
	uint64_t guest_rflags;
	uint64_t guest_pending_dbg_exceptions;
	uint64_t guest_sysenter_esp;
	uint64_t guest_sysenter_eip;
	uint64_t host_cr0;
	uint64_t host_cr3;
	uint64_t host_cr4;
	uint64_t host_fs_base;
	uint64_t host_gs_base;
	uint64_t host_tr_base;
	uint64_t host_gdtr_base;
	uint64_t host_idtr_base;
	uint64_t host_ia32_sysenter_esp;
	uint64_t host_ia32_sysenter_eip;
	uint64_t host_rsp;
	uint64_t host_rip;
	uint64_t paddingl[8];
	uint32_t pin_based_vm_exec_control;
	uint32_t cpu_based_vm_exec_control;
	uint32_t exception_bitmap;
	uint32_t page_fault_error_code_mask;
	uint32_t page_fault_error_code_match;
	uint32_t cr3_target_count;
	uint32_t vm_exit_controls;
	uint32_t vm_exit_msr_store_count;
	uint32_t vm_exit_msr_load_count;
	uint32_t vm_entry_controls;
	uint32_t vm_entry_msr_load_count;
	uint32_t vm_entry_intr_info_field;
	uint32_t vm_entry_exception_error_code;
	uint32_t vm_entry_instruction_len;
	uint32_t tpr_threshold;
	uint32_t secondary_vm_exec_control;
	uint32_t vm_instruction_error;
	uint32_t vm_exit_reason;
	uint32_t vm_exit_intr_info;
	uint32_t vm_exit_intr_error_code;
	uint32_t idt_vectoring_info_field;
	uint32_t idt_vectoring_error_code;
	uint32_t vm_exit_instruction_len;
	uint32_t vmx_instruction_info;
	uint32_t guest_es_limit;
	uint32_t guest_cs_limit;
	uint32_t guest_ss_limit;
	uint32_t guest_ds_limit;
	uint32_t guest_fs_limit;
	uint32_t guest_gs_limit;
	uint32_t guest_ldtr_limit;
	uint32_t guest_tr_limit;
	uint32_t guest_gdtr_limit;
	uint32_t guest_idtr_limit;
	uint32_t guest_es_ar_bytes;
	uint32_t guest_cs_ar_bytes;
	uint32_t guest_ss_ar_bytes;
	uint32_t guest_ds_ar_bytes;
	uint32_t guest_fs_ar_bytes;
	uint32_t guest_gs_ar_bytes;
	uint32_t guest_ldtr_ar_bytes;
	uint32_t guest_tr_ar_bytes;
	uint32_t guest_interruptibility_info;
	uint32_t guest_activity_state;
	uint32_t guest_sysenter_cs;
	uint32_t host_ia32_sysenter_cs;
	uint32_t vmx_preemption_timer_value;
	uint32_t padding32[7];
	uint16_t virtual_processor_id;
	uint16_t posted_intr_nv;
	uint16_t guest_es_selector;
	uint16_t guest_cs_selector;
	uint16_t guest_ss_selector;
	uint16_t guest_ds_selector;
	uint16_t guest_fs_selector;
	uint16_t guest_gs_selector;
	uint16_t guest_ldtr_selector;
	uint16_t guest_tr_selector;
	uint16_t guest_intr_status;
	uint16_t host_es_selector;
	uint16_t host_cs_selector;
	uint16_t host_ss_selector;
	uint16_t host_ds_selector;
	uint16_t host_fs_selector;
	uint16_t host_gs_selector;
	uint16_t host_tr_selector;
	uint16_t guest_pml_index;
};

_Static_assert(offsetof(struct vmcs12, virtual_apic_page_addr) == 96, "as in the kernel");
_Static_assert(offsetof(struct vmcs12, guest_pml_index) == 996, "as in the kernel");

#endif

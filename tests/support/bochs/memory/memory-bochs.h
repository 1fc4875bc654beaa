// SPDX-License-Identifier: GPL-2.0-only
#ifndef STAND_IN_MEMORY_BOCHS_H
#define STAND_IN_MEMORY_BOCHS_H

// SMRAM alone
class BX_MEM_C {
public:
	static constexpr bx_phy_address base = 0xa0000;

	Bit8u smram[0x20000];
	int writes;
	unsigned last_size;

	void writePhysicalPage(BX_CPU_C *, bx_phy_address address, unsigned size, void *data)
	{
		if (address < base || address + size > base + sizeof(smram))
			abort();
		memcpy(smram + address - base, data, size);
		writes++;
		last_size = size;
	}
};

inline BX_MEM_C bx_mem;

#endif

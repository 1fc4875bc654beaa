// SPDX-License-Identifier: GPL-2.0-only
#ifndef STAND_IN_PC_SYSTEM_H
#define STAND_IN_PC_SYSTEM_H

typedef void (*bx_timer_handler_t)(void *);

// One timer
class bx_pc_system_c {
public:
	static constexpr unsigned timer = 7;

	bx_timer_handler_t handler;
	Bit64u ticks; // until it expires, once; 0: it does not run

	int register_timer_ticks(void *, bx_timer_handler_t its_handler, Bit64u after, bool repeats, bool runs,
				 const char *)
	{
		handler = its_handler;
		ticks = runs && !repeats ? after : 0;
		return timer;
	}
	void activate_timer_ticks(unsigned which, Bit64u after, bool repeats)
	{
		if (which != timer || repeats)
			abort();
		ticks = after;
	}
	void deactivate_timer(unsigned which)
	{
		if (which != timer)
			abort();
		ticks = 0;
	}
};

inline bx_pc_system_c bx_pc_system;

#endif

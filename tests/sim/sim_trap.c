/* sim_trap.c - what happens between two stores of the device into memory that others see.
 *
 * The used rings, packed rings and the in-flight regions are what a killed device leaves behind,
 * and the order of its stores there is what its successor relies on; a ring is also where device
 * and driver may miss each other.  To be killed, or let the driver run, between any two stores, the
 * pages are write-protected: each store faults, and is let through alone (single step).  When a
 * kill is due the handler jumps out of the device for good; in a race it first runs a turn of the
 * driver, whose own mapping is not protected.  Elsewhere than on x86-64 there is no single step;
 * there, kills and turns fall between two turns of a reactor. */
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/bytes.h"
#include "link/memory_map.h"
#include "sim.h"

#ifdef __has_feature
#if __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__ 1
#endif
#endif

/* The thread sanitizer keeps SIGTRAP back, so there is no single step with it either. */
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
#define HAS_TRAPS 1
#else
#define HAS_TRAPS 0
#endif

static struct sim *armed;

static void protect(void *at, size_t bytes, int protection)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	uintptr_t first = align_down((uintptr_t)at, page);

	if (mprotect((void *)first, align_up((uintptr_t)at + bytes, page) - first, protection))
		abort();
}

static void protect_part(struct sim *s, uint64_t iova, size_t bytes, int protection)
{
	bool remote;
	void *at = memory_map_contiguous(s->map, iova, bytes, MEMORY_WRITE, &remote);

	if (at)
		protect(at, bytes, protection);
}

static void protect_all(struct sim *s, int protection)
{
	for (unsigned i = 0; i < s->plan.queues; i++) {
		struct sim_queue *q = &s->queues[i];
		size_t size = q->ring.size;

		if (q->ring.packed)
			protect_part(s, q->ring.descriptor_iova, 16 * size, protection);
		protect_part(s, q->ring.device_iova, q->ring.packed ? 4 : 4 + 8 * size + 2,
			     protection);
		protect(q->inflight, q->inflight_bytes, protection);
	}
}

void sim_trap_store(struct sim *s)
{
	if (armed != s)
		return;
	if (s->racing && sim_chance(s, 3))
		sim_driver_turn(s);
	if (s->kill_after && !--s->kill_after)
		siglongjmp(s->kill_point, 1);
}

#if HAS_TRAPS

enum { TRAP_FLAG = 0x100 }; /* of the flags register: one instruction, then SIGTRAP */

static void on_store(int number, siginfo_t *info, void *context)
{
	ucontext_t *u = context;

	if (!armed) { /* a fault of its own: let it happen */
		signal(SIGSEGV, SIG_DFL);
		return;
	}
	sim_trap_store(armed);
	protect_all(armed, PROT_READ | PROT_WRITE);
	u->uc_mcontext.gregs[REG_EFL] |= TRAP_FLAG;
}

static void on_step(int number, siginfo_t *info, void *context)
{
	ucontext_t *u = context;

	u->uc_mcontext.gregs[REG_EFL] &= ~TRAP_FLAG;
	if (armed)
		protect_all(armed, PROT_READ);
}

static void catch_stores(void)
{
	struct sigaction store = { .sa_sigaction = on_store, .sa_flags = SA_SIGINFO };
	struct sigaction step = { .sa_sigaction = on_step, .sa_flags = SA_SIGINFO };

	sigaction(SIGSEGV, &store, NULL);
	sigaction(SIGTRAP, &step, NULL);
}

#else

static void catch_stores(void)
{
}

#endif

void sim_trap_arm(struct sim *s, unsigned kill_after, bool racing)
{
	s->kill_after = kill_after;
	s->racing = racing;
	armed = s;
#if HAS_TRAPS
	catch_stores();
	protect_all(s, PROT_READ);
#else
	(void)catch_stores;
#endif
}

void sim_trap_disarm(struct sim *s)
{
	if (!armed)
		return;
	armed = NULL;
	s->kill_after = 0;
	s->racing = false;
	protect_all(s, PROT_READ | PROT_WRITE);
}

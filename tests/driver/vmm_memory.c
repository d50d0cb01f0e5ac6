/* vmm_memory.c - a guest's RAM in two places. */
#include "driver/vmm_memory.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static void must(int good, const char *what)
{
	if (good)
		return;
	perror(what);
	abort();
}

/* ---- who stores where ---- */

/* A signal handler has no argument. */
static struct vmm_memory *watched;
static struct sigaction before;

static void protect(const struct vmm_memory *m, uint64_t page, uint64_t count, int protection)
{
	must(!mprotect(m->view.bytes + page * VMM_PAGE, count * VMM_PAGE, protection), "mprotect");
}

/* A store to a page that was protected: noted, and then carried out.  What is not ours meets the
 * handler that was there before, the second time. */
static void on_store(int number, siginfo_t *info, void *context)
{
	uint64_t at = (uintptr_t)info->si_addr - (uintptr_t)watched->view.bytes;
	uint64_t page = at / VMM_PAGE;

	(void)context;
	if (at >= watched->view.size || watched->written[page / 64] >> page % 64 & 1) {
		sigaction(number, &before, NULL);
		return;
	}
	watched->written[page / 64] |= UINT64_C(1) << page % 64;
	protect(watched, page, 1, PROT_READ | PROT_WRITE);
}

void vmm_memory_watch(struct vmm_memory *m)
{
	struct sigaction action = { .sa_sigaction = on_store, .sa_flags = SA_SIGINFO | SA_NODEFER };

	must(!watched, "a second memory is watched");
	watched = m;
	sigemptyset(&action.sa_mask);
	must(!sigaction(SIGSEGV, &action, &before), "sigaction");
	memset(m->written, 0, vmm_memory_words(m) * sizeof(*m->written));
	protect(m, 0, m->pages, PROT_READ);
}

void vmm_memory_unwatch(struct vmm_memory *m)
{
	if (watched != m)
		return;
	protect(m, 0, m->pages, PROT_READ | PROT_WRITE);
	sigaction(SIGSEGV, &before, NULL);
	watched = NULL;
}

void vmm_memory_take_written(struct vmm_memory *m, uint64_t *bitmap)
{
	protect(m, 0, m->pages, PROT_READ);
	for (uint64_t i = 0; i < vmm_memory_words(m); i++) {
		bitmap[i] |= m->written[i];
		m->written[i] = 0;
	}
}

/* ---- places ---- */

static void show(struct vmm_memory *m, void *address, int flags)
{
	m->view.bytes = mmap(address, m->view.size, PROT_READ | PROT_WRITE, MAP_SHARED | flags,
			     vmm_memory_here(m)->fd, 0);
	must(m->view.bytes != MAP_FAILED, "mmap");
}

void vmm_memory_open(struct vmm_memory *m, uint64_t iova, uint64_t size)
{
	*m = (struct vmm_memory){ .pages = size / VMM_PAGE };
	must(!(size % VMM_PAGE), "memory that ends within a page");
	for (unsigned i = 0; i < 2; i++)
		guest_memory_open(&m->sides[i], iova, size);
	m->view = (struct guest_memory){ .fd = -1, .iova = iova, .size = size };
	m->written = calloc(vmm_memory_words(m), sizeof(*m->written));
	must(m->written != NULL, "calloc");
	show(m, NULL, 0);
}

void vmm_memory_close(struct vmm_memory *m)
{
	vmm_memory_unwatch(m);
	guest_memory_close(&m->view);
	for (unsigned i = 0; i < 2; i++)
		guest_memory_close(&m->sides[i]);
	free(m->written);
	*m = (struct vmm_memory){ 0 };
}

void vmm_memory_move(struct vmm_memory *m)
{
	m->at = !m->at;
	show(m, m->view.bytes, MAP_FIXED);
}

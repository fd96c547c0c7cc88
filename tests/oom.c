/* Preloaded into the service by oom.py: makes chosen allocations fail, and counts what is alive.
 *
 * The file that VRAMCAST_OOM names is mapped and shared with the test, which arms the library by a countdown and reads
 * how often memory was asked for and how many blocks are alive. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* glibc's own, under the names it exports for this. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *block, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void __libc_free(void *block);

struct control {
	_Atomic int64_t countdown; /* the allocation that brings it to 0 fails; 0: none does */
	_Atomic int64_t lasting;   /* 1: all after that one fail too */
	_Atomic int64_t asked;     /* allocations since the start */
	_Atomic int64_t failed;
	_Atomic int64_t alive;     /* blocks */
};

static struct control unmapped, *control = &unmapped;

static __attribute__((constructor)) void map_control(void)
{
	const char *path = getenv("VRAMCAST_OOM");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *mapped = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (fd >= 0)
		close(fd);
	if (mapped != MAP_FAILED)
		control = mapped;
}

/* Counts an allocation; whether it has to fail. */
static int fails(void)
{
	int64_t left;

	atomic_fetch_add(&control->asked, 1);
	if (!atomic_load(&control->countdown))
		return 0;
	left = atomic_fetch_sub(&control->countdown, 1);
	if (left < 1 || (left == 1 && atomic_load(&control->lasting)))
		atomic_store(&control->countdown, left < 1 ? 0 : 1);
	if (left != 1)
		return 0;
	atomic_fetch_add(&control->failed, 1);
	errno = ENOMEM;
	return 1;
}

static void *counted(void *block)
{
	atomic_fetch_add(&control->alive, block != NULL);
	return block;
}

void *malloc(size_t size)
{
	return fails() ? NULL : counted(__libc_malloc(size));
}

void *calloc(size_t count, size_t size)
{
	return fails() ? NULL : counted(__libc_calloc(count, size));
}

void *realloc(void *block, size_t size)
{
	void *moved = fails() ? NULL : __libc_realloc(block, size);

	return block ? moved : counted(moved);
}

void *aligned_alloc(size_t alignment, size_t size)
{
	return fails() ? NULL : counted(__libc_memalign(alignment, size));
}

void free(void *block)
{
	atomic_fetch_sub(&control->alive, block != NULL);
	__libc_free(block);
}

#include "server/log.h"
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { RING_SIZE = 256 * 1024, GATHER_MS = 20, LAST_WAIT_MS = 1000 };

/* Bytes from tail to head, modulo the size, are waiting. head is the loop's, tail the log thread's. */
struct ring {
	_Alignas(64) atomic_size_t head;
	_Alignas(64) atomic_size_t tail;
	char bytes[RING_SIZE];
};

struct srv_log {
	int fd, wake, count;
	atomic_bool awake;   /* somebody wrote to wake since it was last read */
	atomic_bool stop, done;
	pthread_t thread;
	struct ring **rings;
};

static void write_all(int fd, const char *bytes, size_t length)
{
	while (length) {
		ssize_t written = write(fd, bytes, length);

		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
			return; /* a full disk, a closed pipe: the lines are lost, the service goes on */
		bytes += written;
		length -= (size_t)written;
	}
}

static void empty_ring(int fd, struct ring *ring)
{
	size_t head = atomic_load_explicit(&ring->head, memory_order_acquire);
	size_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);

	while (tail != head) {
		size_t at = tail % RING_SIZE, length = head - tail;

		length = length < RING_SIZE - at ? length : RING_SIZE - at;
		write_all(fd, ring->bytes + at, length);
		tail += length;
		atomic_store_explicit(&ring->tail, tail, memory_order_release);
	}
}

static void *run(void *argument)
{
	struct srv_log *log = argument;
	const struct timespec gather = { .tv_nsec = GATHER_MS * 1000000L };
	struct pollfd wake = { .fd = log->wake, .events = POLLIN };
	uint64_t count;
	bool stop;

	do {
		while (poll(&wake, 1, -1) < 0 && errno == EINTR)
			continue;
		if (read(log->wake, &count, sizeof count) < 0 && errno != EAGAIN)
			break;
		stop = atomic_load(&log->stop);
		if (!stop)
			nanosleep(&gather, NULL);
		atomic_store(&log->awake, false);
		for (int i = 0; i < log->count; i++)
			empty_ring(log->fd, log->rings[i]);
	} while (!stop);
	atomic_store(&log->done, true);
	return NULL;
}

static void wake_up(struct srv_log *log)
{
	const uint64_t one = 1;

	if (!atomic_exchange(&log->awake, true) && write(log->wake, &one, sizeof one) < 0)
		atomic_store(&log->awake, false);
}

bool srv_log_add(struct srv_log *log, int number, const char *line, size_t length)
{
	struct ring *ring = log->rings[number];
	size_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
	size_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
	size_t at = head % RING_SIZE, first = length < RING_SIZE - at ? length : RING_SIZE - at;

	if (length > RING_SIZE - (head - tail))
		return false;
	memcpy(ring->bytes + at, line, first);
	memcpy(ring->bytes, line + first, length - first);
	atomic_store_explicit(&ring->head, head + length, memory_order_release);
	wake_up(log);
	return true;
}

static void free_log(struct srv_log *log)
{
	for (int i = 0; log->rings && i < log->count; i++)
		free(log->rings[i]);
	free(log->rings);
	if (log->wake >= 0)
		close(log->wake);
	free(log);
}

static bool make_rings(struct srv_log *log)
{
	log->rings = calloc((size_t)log->count, sizeof(struct ring *));
	for (int i = 0; log->rings && i < log->count; i++) {
		log->rings[i] = aligned_alloc(64, sizeof(struct ring));
		if (!log->rings[i])
			return false;
		atomic_init(&log->rings[i]->head, 0);
		atomic_init(&log->rings[i]->tail, 0);
	}
	return log->rings != NULL;
}

struct srv_log *srv_log_create(int fd, int rings)
{
	struct srv_log *log = calloc(1, sizeof *log);

	if (!log)
		return NULL;
	log->fd = fd;
	log->count = rings;
	log->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (log->wake < 0 || !make_rings(log) || pthread_create(&log->thread, NULL, run, log)) {
		free_log(log);
		return NULL;
	}
	return log;
}

void srv_log_destroy(struct srv_log *log)
{
	const struct timespec step = { .tv_nsec = 1000000 };

	if (!log)
		return;
	atomic_store(&log->stop, true);
	atomic_store(&log->awake, false);
	wake_up(log);
	for (int i = 0; i < LAST_WAIT_MS && !atomic_load(&log->done); i++)
		nanosleep(&step, NULL);
	if (!atomic_load(&log->done)) {
		pthread_detach(log->thread); /* stuck in write(): its memory is left to the end of the process */
		return;
	}
	pthread_join(log->thread, NULL);
	free_log(log);
}

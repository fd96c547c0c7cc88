#include "server/loop.h"
#include <fcntl.h>
#include <microhttpd.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
	ROUND_MS = 1000,            /* longest wait of a loop; the reaper runs as often */
	DRAIN_ROUND_MS = 10,
	QUIET_MS = 100,             /* a drain is over when nothing was in flight for so long */
	STACK_SIZE = 1024 * 1024,
	FIRST_DAEMON = 2,           /* of what a round waits for: before them the stop and the workers' desk */
	LONG_REQUESTS = 64          /* at once, of all loops: the next ones are refused */
};

struct loop {
	struct srv_http http;
	struct srv_loops *loops;
	struct srv_context *context;
	pthread_t thread;
	bool started;
	int daemon_count;
	struct MHD_Daemon *daemon[CFG_LISTEN_MAX];
	uint64_t reaped;            /* when the reaper last ran */
	atomic_uint_least64_t seen; /* when the last round began */
};

struct srv_loops {
	struct srv_service *service;
	struct srv_intake intake;
	struct srv_pool *pool;
	int stop;                   /* eventfd: readable once the loops have to stop; nobody reads it */
	int count;
	struct srv_context **contexts;
	struct loop *loop;
};

/* How long poll() may wait, in milliseconds, by what the daemons want and our own rounds. */
static int next_timeout(const struct loop *loop)
{
	unsigned round = loop->http.draining ? DRAIN_ROUND_MS : ROUND_MS;
	unsigned deadline = loop->http.intake->limits.deadline_ms / 4 + 1;

	round = deadline < round ? deadline : round;
	for (int i = 0; i < loop->daemon_count; i++) {
		MHD_UNSIGNED_LONG_LONG wanted;

		if (MHD_get_timeout(loop->daemon[i], &wanted) == MHD_YES && wanted < round)
			round = (unsigned)wanted;
	}
	return (int)round;
}

static void reap_sometimes(struct loop *loop)
{
	uint64_t now = srv_now(), pause = loop->http.intake->limits.deadline_ms / 4;

	pause = pause < ROUND_MS ? pause : ROUND_MS;
	if (now - loop->reaped < pause * 1000000)
		return;
	loop->reaped = now;
	srv_http_reap(&loop->http);
}

/* One round: waits for events of the daemons or the stop, serves, reaps. True when the stop was seen. */
static bool run_round(struct loop *loop)
{
	struct pollfd fds[CFG_LISTEN_MAX + FIRST_DAEMON] = {
		{ .fd = loop->http.draining ? -1 : loop->loops->stop, .events = POLLIN },
		{ .fd = loop->http.desk.wake, .events = POLLIN },
	};

	for (int i = 0; i < loop->daemon_count; i++) {
		fds[i + FIRST_DAEMON].fd = MHD_get_daemon_info(loop->daemon[i], MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
		fds[i + FIRST_DAEMON].events = POLLIN;
	}
	atomic_store_explicit(&loop->seen, srv_now(), memory_order_relaxed);
	if (poll(fds, (nfds_t)loop->daemon_count + FIRST_DAEMON, next_timeout(loop)) < 0)
		fds[0].revents = 0; /* a signal, or the kernel short of memory: another round */
	srv_context_refresh(loop->context);
	if (loop->http.jobs)
		srv_http_resume(&loop->http);
	for (int i = 0; i < loop->daemon_count; i++)
		MHD_run_wait(loop->daemon[i], 0);
	reap_sometimes(loop);
	return fds[0].revents != 0;
}

/* Only the thread that runs a daemon may quiesce it: elsewhere libmicrohttpd can abort. */
static void stop_listening(struct loop *loop)
{
	for (int i = 0; i < loop->daemon_count; i++) {
		MHD_socket fd = MHD_quiesce_daemon(loop->daemon[i]);

		if (fd != MHD_INVALID_SOCKET)
			close(fd);
	}
}

static void drain(struct loop *loop)
{
	uint64_t begun = srv_now(), limit = (uint64_t)loop->http.intake->limits.drain_ms * 1000000;

	loop->http.draining = true;
	loop->http.last_active = begun;
	stop_listening(loop);
	while (srv_now() - begun < limit
	       && (loop->http.active || srv_now() - loop->http.last_active < QUIET_MS * UINT64_C(1000000)))
		run_round(loop);
	if (loop->http.jobs)
		srv_pool_cancel(loop->loops->pool);
	while (loop->http.jobs)
		run_round(loop);
}

static void *run(void *argument)
{
	struct loop *loop = argument;

	while (!run_round(loop))
		continue;
	drain(loop);
	for (int i = 0; i < loop->daemon_count; i++)
		MHD_stop_daemon(loop->daemon[i]);
	loop->daemon_count = 0;
	return NULL;
}

/* ---- start and stop */

/* Part number i of total in count parts that differ by one at most, but never none. */
static unsigned share(unsigned total, unsigned count, unsigned i)
{
	unsigned part = total / count + (i < total % count);

	return part ? part : 1;
}

static bool start_daemons(struct loop *loop, const struct srv_loops_options *options, unsigned number)
{
	unsigned listens = (unsigned)options->listen_count, threads = (unsigned)options->threads;

	for (unsigned i = 0; i < listens; i++) {
		unsigned limit = share(options->connection_limit, threads * listens, number * listens + i);
		int fd = fcntl(options->listen_fds[i], F_DUPFD_CLOEXEC, 0);

		loop->daemon[i] = fd < 0 ? NULL : srv_http_start(&loop->http, fd, limit);
		if (!loop->daemon[i]) {
			if (fd >= 0)
				close(fd);
			return false;
		}
		loop->daemon_count++;
	}
	return true;
}

static bool start_thread(struct loop *loop)
{
	pthread_attr_t attributes;

	if (pthread_attr_init(&attributes))
		return false;
	loop->started = !pthread_attr_setstacksize(&attributes, STACK_SIZE)
			&& !pthread_create(&loop->thread, &attributes, run, loop);
	pthread_attr_destroy(&attributes);
	return loop->started;
}

static bool prepare_loop(struct srv_loops *loops, const struct srv_loops_options *options, int number)
{
	struct loop *loop = &loops->loop[number];

	loop->loops = loops;
	loop->http.desk.wake = -1;
	atomic_store_explicit(&loop->seen, srv_now(), memory_order_relaxed);
	loop->context = srv_context_create(loops->service);
	if (!loop->context)
		return false;
	loops->contexts[number] = loop->context;
	loop->context->defers = true;
	loop->http = (struct srv_http){
		.context = loop->context, .intake = &loops->intake, .pool = loops->pool, .log = options->log, .ring = number,
		.log_json = options->log_json,
	};
	return srv_desk_init(&loop->http.desk) && start_daemons(loop, options, (unsigned)number);
}

static bool prepare(struct srv_loops *loops, const struct srv_loops_options *options)
{
	int workers = options->threads; /* one batch may have every processor: loops come first by their priority */

	loops->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	loops->contexts = calloc((size_t)(options->threads + workers), sizeof(struct srv_context *));
	loops->loop = calloc((size_t)options->threads, sizeof *loops->loop);
	loops->pool = srv_pool_create(loops->service, workers, LONG_REQUESTS);
	if (loops->stop < 0 || !loops->contexts || !loops->loop || !loops->pool)
		return false;
	for (int i = 0; i < workers; i++)
		loops->contexts[options->threads + i] = srv_pool_context(loops->pool, i);
	for (; loops->count < options->threads; loops->count++)
		if (!prepare_loop(loops, options, loops->count))
			return false;
	return true;
}

struct srv_loops *srv_loops_start(struct srv_service *service, const struct srv_loops_options *options, char *error,
				  size_t size)
{
	struct srv_loops *loops = calloc(1, sizeof *loops);
	bool prepared;

	snprintf(error, size, "memory, descriptors or threads are short");
	if (!loops)
		return NULL;
	loops->service = service;
	loops->intake.limits = options->limits;
	loops->stop = -1;
	prepared = prepare(loops, options);
	if (!prepared && loops->loop && loops->count < options->threads)
		loops->count++; /* the one that failed half way */
	service->contexts = loops->contexts;
	service->context_count = prepared ? loops->count + options->threads : 0;
	for (int i = 0; prepared && i < loops->count; i++)
		prepared = start_thread(&loops->loop[i]);
	if (prepared)
		return loops;
	srv_loops_stop(loops);
	return NULL;
}

bool srv_loops_are_alive(const struct srv_loops *loops, uint64_t nanoseconds)
{
	uint64_t now = srv_now();

	for (int i = 0; i < loops->count; i++)
		if (now - atomic_load_explicit(&loops->loop[i].seen, memory_order_relaxed) > nanoseconds)
			return false;
	return true;
}

static void finish_loop(struct loop *loop)
{
	for (int i = 0; i < loop->daemon_count; i++)
		MHD_stop_daemon(loop->daemon[i]);
	srv_http_finish(&loop->http);
	srv_desk_finish(&loop->http.desk);
	srv_context_destroy(loop->context);
}

void srv_loops_stop(struct srv_loops *loops)
{
	const uint64_t one = 1;

	if (!loops)
		return;
	if (loops->stop >= 0 && write(loops->stop, &one, sizeof one) < 0)
		perror("vramcast: cannot stop the loops");
	for (int i = 0; i < loops->count; i++)
		if (loops->loop[i].started)
			pthread_join(loops->loop[i].thread, NULL);
	/* none is freed before all have ended: /metrics of one reads the others' counters */
	for (int i = 0; i < loops->count; i++)
		finish_loop(&loops->loop[i]);
	srv_pool_destroy(loops->pool);
	loops->service->contexts = NULL;
	loops->service->context_count = 0;
	if (loops->stop >= 0)
		close(loops->stop);
	free(loops->contexts);
	free(loops->loop);
	free(loops);
}

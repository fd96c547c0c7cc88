/* The loops: a thread each, with its own epoll daemons (one for every listening socket), context and log ring. Nothing
 * is shared on the way of a request. */
#ifndef SRV_LOOP_H
#define SRV_LOOP_H

#include "server/http.h"

struct srv_loops;

struct srv_loops_options {
	int threads;
	unsigned connection_limit;  /* of the whole process */
	const int *listen_fds;      /* listening and not blocking; borrowed, every daemon gets a duplicate */
	int listen_count;
	struct srv_log *log;        /* with a ring for each thread; NULL: none */
	bool log_json;
	struct srv_limits limits;
};

/* Starts the threads. NULL, and one line in error, when something is short. The caller stops and destroys the
 * result. */
struct srv_loops *srv_loops_start(struct srv_service *service, const struct srv_loops_options *options, char *error,
				  size_t size);

/* Whether every loop went round within the last nanoseconds, which are seconds. */
bool srv_loops_are_alive(const struct srv_loops *loops, uint64_t nanoseconds);

/* Stops listening, finishes what is in flight (at most limits.drain_ms), ends the threads and frees everything. NULL is
 * fine. */
void srv_loops_stop(struct srv_loops *loops);

#endif

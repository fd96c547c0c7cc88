/* The service without a socket: what all threads share, what each has for itself, and the one function that answers. */
#ifndef SRV_SERVICE_H
#define SRV_SERVICE_H

#include <pthread.h>
#include <stdatomic.h>
#include "config/advice.h"
#include "estimator/memo.h"
#include "server/edition.h"
#include "server/memo.h"
#include "server/metrics.h"
#include "server/problem.h"
#include "server/reply.h"

/* SRV_VERSION: the version of the project, given by the build. */

/* Shared by all threads; read-only while they run, but for the atomics. */
struct srv_service {
	pthread_mutex_t lock;            /* of the next two; the number may be read without it */
	struct srv_edition *edition;     /* the newest */
	atomic_uint edition_number;
	int origin_count;
	const char *const *origins;      /* allowed by CORS; "*" is any */
	atomic_bool draining;
	atomic_int long_requests;        /* that the workers have to answer now, */
	atomic_int most_long_requests;   /* and how many they take; 0: any */
	int context_count;               /* contexts whose metrics are summed */
	struct srv_context *const *contexts;
};

/* What one thread needs to answer: buffers, work space, counters. Never shared. */
struct srv_context {
	struct srv_service *service;
	struct srv_edition *edition;     /* what requests are answered by, until srv_context_refresh() */
	unsigned edition_number;
	struct srv_buffer buffer;        /* the answer being written */
	struct est_arena arena;
	void *arena_base;
	struct est_memo outcomes;        /* of the arena: of runs with the same parameters */
	void *outcomes_base;
	const void **rows;               /* room for the rows of the longest list or of a verdict, row_count of them */
	size_t row_count;
	struct cfg_request request;      /* large: kept off the stack */
	struct est_report report;
	struct cfg_trial trial;
	bool defers;                     /* what takes long is left to somebody else: srv_reply.deferred */
	bool advised;                    /* advice was asked for */
	size_t advice_count;
	struct cfg_advice advice[CFG_ADVICE_MAX];
	struct est_faults faults;
	struct srv_memo memo;            /* of /estimate */
	char spelled[SRV_MEMO_REQUEST_MAX]; /* the JSON of a request in one spelling */
	uint64_t id_state;               /* of the request ids that are made here */
	struct srv_metrics metrics;
};

/* edition is given away. origins is borrowed. */
void srv_service_init(struct srv_service *service, struct srv_edition *edition, const char *const *origins,
		      int origin_count);
void srv_service_finish(struct srv_service *service);

/* Makes edition, which is given away, the newest. Every context takes it up with its next refresh. Any thread. */
void srv_service_publish(struct srv_service *service, struct srv_edition *edition);

/* A new context on the heap; NULL when memory is short. destroy takes NULL. */
struct srv_context *srv_context_create(struct srv_service *service);
void srv_context_destroy(struct srv_context *context);

/* Takes up the newest edition, if there is memory for it, between two requests. */
void srv_context_refresh(struct srv_context *context);

/* Answers request: finds the route, chooses the format, runs the handler, adds the headers that every answer has. The
 * body lies in context->buffer until the next call. Never fails: where memory is short the answer is a 503. */
void srv_route(struct srv_context *context, const struct srv_request *request, struct srv_reply *reply);

/* The same for a request that the transport refuses. */
void srv_refuse(struct srv_context *context, const struct srv_request *request, enum srv_problem problem,
		const char *detail, struct srv_reply *reply);

#endif

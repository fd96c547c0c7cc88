/* Workers: threads that do what takes long (plans, batches, limits, advice), so that the loops stay free for what is
 * quick. A job goes to the pool, to the end of a queue, and comes back to the loop that it is from by the loop's desk.
 * What takes longer than a slice comes in parts, each a job of its own: many long answers take turns. What one of them
 * will want later is done ahead of time by workers whom nobody waits for: one alone has all of them. */
#ifndef SRV_WORK_H
#define SRV_WORK_H

#include "server/service.h"

struct srv_connection;
struct srv_pool;
struct srv_body;

enum { SRV_PART_SIZE = 64 * 1024 }; /* a part is worth sending from here on */

/* Where the finished jobs of one loop lie. */
struct srv_desk {
	pthread_mutex_t lock;
	struct srv_job *finished;
	int wake;                  /* an eventfd: readable when something lies there */
};

struct srv_job {
	struct srv_job *next;
	struct srv_desk *desk;
	void *connection;          /* this, the peer and the body are the loop's own */
	struct srv_connection *peer;
	struct srv_body *body;
	/* A request to be answered: reply, its body in buffer. */
	const struct srv_request *request;
	struct srv_reply reply;
	/* Or, where request is NULL, parts of a span of stream to be made, until buffer is worth sending. */
	struct srv_stream *stream;
	struct srv_span span;
	bool ended;                /* the span has no more */
	struct srv_buffer buffer;
};

/* Both on the heap or in the caller's memory, as the names say; false and NULL when something is short. */
bool srv_desk_init(struct srv_desk *desk);
void srv_desk_finish(struct srv_desk *desk);

/* A pool of threads for service. most: requests that it takes at once. */
struct srv_pool *srv_pool_create(struct srv_service *service, int threads, int most);
/* Ends the threads; no job may be out. Takes NULL. */
void srv_pool_destroy(struct srv_pool *pool);

/* How many threads it has. */
int srv_pool_threads(const struct srv_pool *pool);
/* The contexts of its threads, whose metrics count. */
struct srv_context *srv_pool_context(const struct srv_pool *pool, int i);

/* Whether one more request may come; then it counts until srv_pool_leave(). */
bool srv_pool_enter(struct srv_pool *pool);
void srv_pool_leave(struct srv_pool *pool);

/* Queues a job that somebody waits for. It belongs to the pool until it lies on its desk. */
void srv_pool_do(struct srv_pool *pool, struct srv_job *job);
/* Queues a job that nobody waits for yet: it is done when there are no others. */
void srv_pool_do_ahead(struct srv_pool *pool, struct srv_job *job);
/* From now on somebody waits for a job that was queued ahead. */
void srv_pool_hurry(struct srv_pool *pool, struct srv_job *job);

/* From now on jobs are not done but come back as failed: a request with a refusal, a part with a buffer that has
 * failed. */
void srv_pool_cancel(struct srv_pool *pool);

/* Takes all that lies on the desk: a list by next, in no order. */
struct srv_job *srv_desk_take(struct srv_desk *desk);

#endif

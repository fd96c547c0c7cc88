#define _DEFAULT_SOURCE /* syscall() */
#include "server/work.h"
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
	STACK_SIZE = 1024 * 1024,
	PART_NANOSECONDS = 10000000, /* a part is worth sending after so long, or when it is long */
	NICENESS = 5                /* loops come first where processors are short */
};

struct worker {
	struct srv_pool *pool;
	struct srv_context *context;
	pthread_t thread;
	bool started;
};

struct queue {
	struct srv_job *first, **last;
};

struct srv_pool {
	struct srv_service *service;
	pthread_mutex_t lock;      /* of the queues */
	pthread_cond_t queued;
	struct queue awaited, ahead;
	bool stopping;
	atomic_bool cancelled;
	int most, count;
	struct worker *worker;
};

/* ---- desks */

bool srv_desk_init(struct srv_desk *desk)
{
	*desk = (struct srv_desk){ .wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) };
	pthread_mutex_init(&desk->lock, NULL);
	return desk->wake >= 0;
}

void srv_desk_finish(struct srv_desk *desk)
{
	if (desk->wake >= 0)
		close(desk->wake);
	pthread_mutex_destroy(&desk->lock);
}

static void put_back(struct srv_job *job)
{
	const uint64_t one = 1;
	struct srv_desk *desk = job->desk;

	pthread_mutex_lock(&desk->lock);
	job->next = desk->finished;
	desk->finished = job;
	if (!job->next && write(desk->wake, &one, sizeof one) < 0)
		desk->finished = job; /* it is readable already */
	pthread_mutex_unlock(&desk->lock);
}

struct srv_job *srv_desk_take(struct srv_desk *desk)
{
	struct srv_job *jobs;
	uint64_t count;

	pthread_mutex_lock(&desk->lock);
	jobs = desk->finished;
	desk->finished = NULL;
	if (jobs && read(desk->wake, &count, sizeof count) < 0)
		count = 0; /* nothing to be read: the next one writes */
	pthread_mutex_unlock(&desk->lock);
	return jobs;
}

/* ---- doing */

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * UINT64_C(1000000000) + (uint64_t)time.tv_nsec;
}

/* The body moves from the context's buffer to the job's. */
static void answer(struct srv_context *context, struct srv_job *job, bool cancelled)
{
	struct srv_buffer empty = job->buffer;

	srv_context_refresh(context);
	if (cancelled)
		srv_refuse(context, job->request, SRV_DRAINING, "the service is going away", &job->reply);
	else
		srv_route(context, job->request, &job->reply);
	srv_reply_copy_remembered(&job->reply);
	job->buffer = context->buffer;
	context->buffer = empty;
	job->reply.buffer = &job->buffer;
}

static void make_parts(struct srv_context *context, struct srv_job *job)
{
	uint64_t begun = now();

	while (!job->ended && !job->buffer.failed && job->buffer.length < SRV_PART_SIZE
	       && !atomic_load(&job->stream->left) && now() - begun < PART_NANOSECONDS)
		job->ended = !srv_stream_part(job->stream, &job->span, context, &job->buffer);
}

static void do_job(struct worker *worker, struct srv_job *job)
{
	bool cancelled = atomic_load(&worker->pool->cancelled);

	if (job->request)
		answer(worker->context, job, cancelled);
	else if (cancelled)
		job->buffer.failed = true;
	else
		make_parts(worker->context, job);
	put_back(job);
}

/* ---- queues */

static void queue_init(struct queue *queue)
{
	*queue = (struct queue){ .last = &queue->first };
}

static void append(struct queue *queue, struct srv_job *job)
{
	job->next = NULL;
	*queue->last = job;
	queue->last = &job->next;
}

/* What link, of the queue, points to. */
static struct srv_job *unlink_job(struct queue *queue, struct srv_job **link)
{
	struct srv_job *job = *link;

	*link = job->next;
	if (!job->next)
		queue->last = link;
	return job;
}

/* The next job, waited for; NULL when the pool stops. */
static struct srv_job *take(struct srv_pool *pool)
{
	struct queue *queue;
	struct srv_job *job;

	pthread_mutex_lock(&pool->lock);
	while (!pool->awaited.first && !pool->ahead.first && !pool->stopping)
		pthread_cond_wait(&pool->queued, &pool->lock);
	queue = pool->awaited.first ? &pool->awaited : &pool->ahead;
	job = queue->first ? unlink_job(queue, &queue->first) : NULL;
	pthread_mutex_unlock(&pool->lock);
	return job;
}

static void *run(void *argument)
{
	struct worker *worker = argument;
	struct srv_job *job;

	/* of this thread alone; where it is not allowed it runs as the others */
	setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), NICENESS);
	while ((job = take(worker->pool)))
		do_job(worker, job);
	return NULL;
}

static void put(struct srv_pool *pool, struct queue *queue, struct srv_job *job)
{
	pthread_mutex_lock(&pool->lock);
	append(queue, job);
	pthread_cond_signal(&pool->queued);
	pthread_mutex_unlock(&pool->lock);
}

void srv_pool_do(struct srv_pool *pool, struct srv_job *job)
{
	put(pool, &pool->awaited, job);
}

void srv_pool_do_ahead(struct srv_pool *pool, struct srv_job *job)
{
	put(pool, &pool->ahead, job);
}

void srv_pool_hurry(struct srv_pool *pool, struct srv_job *job)
{
	struct srv_job **link;

	pthread_mutex_lock(&pool->lock);
	for (link = &pool->ahead.first; *link && *link != job; link = &(*link)->next)
		continue;
	if (*link)
		append(&pool->awaited, unlink_job(&pool->ahead, link)); /* else a worker has it */
	pthread_mutex_unlock(&pool->lock);
}

bool srv_pool_enter(struct srv_pool *pool)
{
	if (atomic_fetch_add(&pool->service->long_requests, 1) < pool->most)
		return true;
	srv_pool_leave(pool);
	return false;
}

void srv_pool_leave(struct srv_pool *pool)
{
	atomic_fetch_sub(&pool->service->long_requests, 1);
}

void srv_pool_cancel(struct srv_pool *pool)
{
	atomic_store(&pool->cancelled, true);
}

int srv_pool_threads(const struct srv_pool *pool)
{
	return pool->count;
}

struct srv_context *srv_pool_context(const struct srv_pool *pool, int i)
{
	return pool->worker[i].context;
}

/* ---- start and stop */

static bool start(struct worker *worker, struct srv_pool *pool)
{
	pthread_attr_t attributes;

	worker->pool = pool;
	worker->context = srv_context_create(pool->service);
	if (!worker->context || pthread_attr_init(&attributes))
		return false;
	worker->started = !pthread_attr_setstacksize(&attributes, STACK_SIZE)
			  && !pthread_create(&worker->thread, &attributes, run, worker);
	pthread_attr_destroy(&attributes);
	return worker->started;
}

struct srv_pool *srv_pool_create(struct srv_service *service, int threads, int most)
{
	struct srv_pool *pool = calloc(1, sizeof *pool);
	bool started;

	if (!pool)
		return NULL;
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->queued, NULL);
	pool->service = service;
	queue_init(&pool->awaited);
	queue_init(&pool->ahead);
	pool->most = most;
	atomic_store(&service->most_long_requests, most);
	pool->worker = calloc((size_t)threads, sizeof *pool->worker);
	started = pool->worker != NULL;
	for (; started && pool->count < threads; pool->count++)
		started = start(&pool->worker[pool->count], pool);
	if (started)
		return pool;
	srv_pool_destroy(pool);
	return NULL;
}

void srv_pool_destroy(struct srv_pool *pool)
{
	if (!pool)
		return;
	pthread_mutex_lock(&pool->lock);
	pool->stopping = true;
	pthread_cond_broadcast(&pool->queued);
	pthread_mutex_unlock(&pool->lock);
	for (int i = 0; i < pool->count; i++) {
		if (pool->worker[i].started)
			pthread_join(pool->worker[i].thread, NULL);
		srv_context_destroy(pool->worker[i].context);
	}
	free(pool->worker);
	pthread_cond_destroy(&pool->queued);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
}

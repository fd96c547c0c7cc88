/* Faults as RFC 9457 problem documents. The table here is the only place that knows a status of 400 or above. */
#ifndef SRV_PROBLEM_H
#define SRV_PROBLEM_H

#include "estimator/fault.h"
#include "server/reply.h"

enum srv_problem {
	SRV_OK = 0,
	SRV_NOT_JSON, SRV_NOT_KUBERNETES, SRV_BAD_FRAMING, SRV_UNAUTHORIZED, SRV_NOT_FOUND, SRV_METHOD_NOT_ALLOWED, SRV_NOT_ACCEPTABLE,
	SRV_LENGTH_REQUIRED, SRV_TOO_LARGE, SRV_TARGET_TOO_LONG, SRV_UNSUPPORTED_TYPE, SRV_EXPECTATION_FAILED, SRV_INVALID,
	SRV_OUT_OF_MEMORY, SRV_OVERLOADED, SRV_DRAINING,
	SRV_PROBLEMS
};

struct srv_problem_row {
	int status;
	const char *name;        /* last part of "type": "urn:vramcast:problem:invalid" */
	const char *title;
	const char *retry_after; /* seconds; NULL: no such header */
};

/* The row of a problem; SRV_OK has none. */
const struct srv_problem_row *srv_problem_row(enum srv_problem problem);

/* Makes reply that problem: whatever was written before is dropped, headers too. detail is one sentence. */
void srv_reply_problem(struct srv_reply *reply, enum srv_problem problem, const char *detail);

/* A 400 with every fault of a body that is not what Kubernetes sends. */
void srv_reply_not_kubernetes(struct srv_reply *reply, const struct est_faults *faults);

/* A 422 with every fault of the list and their true count. */
void srv_reply_faults(struct srv_reply *reply, const struct est_faults *faults);

/* Why a request that could not be read or checked was refused: SRV_INVALID for its faults; SRV_OUT_OF_MEMORY where
 * it has none, or where jansson ran short (which is forgotten with the asking). */
enum srv_problem srv_refusal(const struct est_faults *faults);
/* The reply to it: the faults, or the 503. */
void srv_reply_refusal(struct srv_reply *reply, const struct est_faults *faults);

/* That document alone, as one of several answers in a body. */
void srv_problem_write_faults(struct srv_buffer *buffer, const struct est_faults *faults);

/* The 503 that needs no memory: made before the first request. */
void srv_reply_no_memory(struct srv_reply *reply);
/* The same as bytes, for where there is no reply to fill. NUL-ended. */
extern const char srv_no_memory_body[];

extern const char srv_problem_type[]; /* application/problem+json */

#endif

/* AdmissionReview of admission.k8s.io/v1: what the API server asks, and its answer. */
#ifndef SRV_REVIEW_H
#define SRV_REVIEW_H

#include <jansson.h>
#include "estimator/fault.h"
#include "server/buffer.h"

struct srv_review { /* borrowed from the body */
	const char *uid;
	const json_t *object;    /* NULL: there is nothing to be judged */
	const json_t *old;       /* what an update changes; NULL where the object is made */
};

/* Reads a body; false when it is no AdmissionReview. An object is judged when it is made or changed: not while it is
 * being deleted, nor when a part of it is written (scale, status). */
bool srv_review_read(const json_t *body, struct srv_review *ret, struct est_faults *faults);

enum { SRV_WARNINGS_MAX = 32, SRV_WARNING_MAX = 256, SRV_REFUSAL_MAX = 768 };

struct srv_review_answer { /* all zero: it is allowed */
	int code;                /* of a refusal: 403 or 400; 0: it is allowed */
	char message[SRV_REFUSAL_MAX];
	size_t warning_count;
	char warning[SRV_WARNINGS_MAX][SRV_WARNING_MAX];
	const json_t *patch;     /* an array of operations (RFC 6902), borrowed; NULL or empty: nothing changes */
};

/* Adds a warning, after our name, unless it is there. part is of what the warning is, before it; "" */
void srv_review_warn(struct srv_review_answer *answer, const char *part, const char *text);

/* Refuses; of several refusals the first is told. */
void srv_review_refuse(struct srv_review_answer *answer, int code, const char *part, const char *reason,
		       const char *remedy);

/* Appends the answer to review. */
void srv_review_write(struct srv_buffer *buffer, const struct srv_review *review,
		      const struct srv_review_answer *answer);

#endif

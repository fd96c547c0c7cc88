/* Admission webhooks of Kubernetes: what validating and mutating share. */
#ifndef SRV_ADMISSION_H
#define SRV_ADMISSION_H

#include "server/judge.h"
#include "server/review.h"

/* What an object says. */
struct srv_workload {
	size_t count;
	struct cfg_template template[CFG_TEMPLATES_MAX];
	struct cfg_pod pod[CFG_TEMPLATES_MAX];
};

/* An object under review. */
struct srv_admission {
	struct srv_call *call;
	struct srv_review review;
	struct cfg_wish fallback;       /* where nothing says which GPU */
	struct srv_workload now;
	struct srv_review_answer answer;
};

/* The body of the review, of which admission says all; new reference. NULL: it was answered why not, or is left to
 * somebody else. */
json_t *srv_admission_begin(struct srv_call *call, struct srv_admission *admission);

/* Writes the answer, as far as progress allows. */
void srv_admission_end(struct srv_admission *admission, enum srv_progress progress);

/* The pods that are one run with those of template i: templates of one request are. */
struct srv_gang srv_workload_gang(const struct srv_workload *workload, size_t i);

/* What stands before something that is said of template i: its name, where there are several. */
const char *srv_workload_part(const struct srv_workload *workload, size_t i);

#endif

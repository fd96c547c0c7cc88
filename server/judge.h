/* Judges the run of a pod, in sentences for the one who submits it. */
#ifndef SRV_JUDGE_H
#define SRV_JUDGE_H

#include "config/pod.h"
#include "server/handlers.h"

enum srv_outcome {
	SRV_RUN_HELD,      /* by every card that the pod may land on */
	SRV_RUN_TIGHT,     /* the same, but the high figure of one is more than it has */
	SRV_RUN_IN_PART,   /* by some of them */
	SRV_RUN_NOT_HELD,  /* by none */
	SRV_RUN_UNJUDGED,  /* the card is not known */
	SRV_RUN_WRONG      /* the request is, or the container is none */
};

/* Kubernetes cuts a warning after 256 characters. */
enum { SRV_SENTENCE_MAX = 240 };

struct srv_judgement {
	enum srv_outcome outcome;
	char reason[SRV_SENTENCE_MAX]; /* "" when held */
	char remedy[SRV_SENTENCE_MAX]; /* what would make it held; "" */
	char note[SRV_SENTENCE_MAX];   /* that pod and request differ in the number of GPUs; "" */
};

/* The pods that are one run. */
struct srv_gang {
	int64_t pods;                  /* 1: how many there are of it is not known */
	int64_t gpus;                  /* of all containers that train; 0: they do not ask */
};

enum srv_progress { SRV_DONE, SRV_LEFT, SRV_SHORT }; /* done; left to somebody else; memory is short */

/* Reads the pod's request, judged for wish, into context->request; SRV_RUN_HELD where it is right, else the outcome
 * is SRV_RUN_WRONG and says why. The request borrows from ret_body, which the caller releases, whatever came out. */
enum srv_progress srv_judge_read(struct srv_call *call, const struct cfg_pod *pod, const struct cfg_wish *wish,
				 const struct srv_gang *gang, struct srv_judgement *ret, json_t **ret_body);

/* The same, judged for the pod's own wish, else for the cards of its request, else for fallback. */
enum srv_progress srv_judge_read_own(struct srv_call *call, const struct cfg_pod *pod, const struct cfg_wish *fallback,
				     const struct srv_gang *gang, struct srv_judgement *ret, json_t **ret_body);

/* Reads so, and judges the pod. */
enum srv_progress srv_judge(struct srv_call *call, const struct cfg_pod *pod, const struct cfg_wish *fallback,
			    const struct srv_gang *gang, struct srv_judgement *ret);

/* "needs 28.1 GiB a GPU; t4 has 15.0 GiB", or why the card cannot run it. */
void srv_judge_reason(const struct cfg_request *request, const struct est_fit *fit, char ret[SRV_SENTENCE_MAX]);

/* Whether the run succeeds there by the expected figure. */
bool srv_judge_held(const struct est_fit *fit);

#endif

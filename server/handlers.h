/* One call of a route, and what the routes' table names. A handler reads, checks, computes, answers. */
#ifndef SRV_HANDLERS_H
#define SRV_HANDLERS_H

#include "server/formats.h"
#include "server/query.h"
#include "server/service.h"

struct srv_call {
	struct srv_context *context;
	const struct srv_request *request;
	struct srv_reply *reply;
	enum srv_format format;          /* negotiated, on routes that have formats */
	char id[SRV_PARAMETER_MAX];      /* the decoded {id} of the path */
};

/* estimate.c */
void srv_post_estimate(struct srv_call *call);
void srv_get_estimate(struct srv_call *call);
/* The body of the call as JSON; new reference. NULL: the reply says why. */
json_t *srv_parse_body(struct srv_call *call);
/* The same, after its query was found empty. */
json_t *srv_read_body(struct srv_call *call);
/* The same of a call that takes long and is answered in rows: for_people says which formats there are, to who asks for another one. */
json_t *srv_read_long_body(struct srv_call *call, const char *for_people);
/* Longer bodies are left to somebody else before they are read. */
enum { SRV_BODY_AT_ONCE = 64 * 1024 };
/* Whether a single replay of it takes long: MLX's, or that of a model beyond measure. */
bool srv_is_long_run(const struct cfg_request *request);
/* Whether what the request includes is little enough to do for one request; else a fault at base + "/include". */
bool srv_check_work(const struct cfg_request *request, const char *base, struct est_faults *faults);
/* Leaves a call that takes long to somebody else, in a context that defers; whether it did: the caller then returns. */
bool srv_leave_long(struct srv_call *call, bool takes_long);
/* context->request -> context->report; false when memory is short. */
bool srv_replay(struct srv_context *context);
/* The same, with the limits and the advice that the request asks for by name. */
bool srv_run(struct srv_context *context);
/* These -> buffer; false when memory is short. */
bool srv_write_estimate(struct srv_context *context, enum srv_format format, struct srv_buffer *buffer);

/* estimates.c */
void srv_post_estimates(struct srv_call *call);

/* plan.c */
void srv_post_plan(struct srv_call *call);

/* admission.c, mutate.c, extender.c: what Kubernetes asks. */
void srv_post_k8s_validate(struct srv_call *call);
void srv_post_k8s_mutate(struct srv_call *call);
void srv_post_k8s_filter(struct srv_call *call);

/* presets.c */
bool srv_presets_init(struct srv_listing *listing, const struct cfg_catalog *catalog);
void srv_get_presets(struct srv_call *call);
void srv_get_preset(struct srv_call *call);

/* gpus.c */
bool srv_gpus_init(struct srv_listing *listing, const struct cfg_catalog *catalog);
void srv_get_gpus(struct srv_call *call);
void srv_get_gpu(struct srv_call *call);

/* meta.c */
void srv_get_page(struct srv_call *call);
void srv_get_page_file(struct srv_call *call);
void srv_get_openapi_yaml(struct srv_call *call);
void srv_get_openapi_json(struct srv_call *call);
void srv_get_healthz(struct srv_call *call);
void srv_get_readyz(struct srv_call *call);
void srv_get_metrics(struct srv_call *call);

/* lists.c: what the two catalogues share. */

/* Reads the query of a list into values, of which text is put into lower case, for srv_listing_matches(). False when the call is answered:
 * the query is at fault, or the client has the list already. */
bool srv_list_begin(struct srv_call *call, const struct srv_listing *listing, const struct srv_parameter *parameters, size_t count,
		    struct srv_value *values, struct srv_value *text);
/* Writes count of the rows of listing (context->rows), of total that match, in the format of the call. */
void srv_list_write(struct srv_call *call, const struct srv_listing *listing, size_t count, size_t total);
/* Writes row i of listing alone. */
void srv_list_write_one(struct srv_call *call, const struct srv_listing *listing, size_t i);
/* Answers that call->id names nothing, or several rows (candidates > 1), with the nearest id when there is one. */
void srv_list_not_found(struct srv_call *call, const char *noun, size_t candidates, const char *suggestion);

#endif

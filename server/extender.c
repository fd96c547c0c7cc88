/* POST /k8s/filter: a scheduler extender. Of the nodes that a pod might go to, those are left whose cards hold its
 * run. */
#include <stdio.h>
#include <stdlib.h>
#include "config/read.h"
#include "server/judge.h"
#include "server/write.h"

/* An ExtenderArgs. A scheduler sends whole nodes, or where nodeCacheCapable is set their names alone. */
struct filter {
	struct srv_call *call;
	const json_t *nodes, *names;    /* arrays; NULL: not sent */
	struct cfg_pod pod;
	bool judged;                    /* context->report is of the pod's run on the cards of wish */
	struct cfg_wish wish;
	struct srv_judgement whole;     /* of the pod as it is, where names are all there is */
};

/* ---- reading */

static void need(bool right, const char *pointer, const char *what, struct est_faults *faults)
{
	if (!right)
		est_fault_add(faults, pointer, EST_WRONG_TYPE, "must be %s", what);
}

static bool read_arguments(const json_t *body, struct filter *filter, struct est_faults *faults)
{
	const json_t *nodes = json_object_get(body, "Nodes"), *names = json_object_get(body, "NodeNames");
	struct cfg_template template;

	need(json_is_object(body), "", "an object", faults);
	if (!json_is_object(body))
		return false;
	nodes = json_is_null(nodes) ? NULL : nodes;
	filter->names = json_is_null(names) ? NULL : names;
	filter->nodes = json_object_get(nodes, "items");
	need(nodes || filter->names, "/Nodes", "an object, where there is no /NodeNames", faults);
	need(!nodes || json_is_array(filter->nodes), "/Nodes/items", "an array", faults);
	need(!filter->names || json_is_array(filter->names), "/NodeNames", "an array", faults);
	if (cfg_workload_pod(json_object_get(body, "Pod"), &template))
		cfg_pod_read(NULL, &template, filter->call->context->edition->catalog, &filter->pod);
	else
		est_fault_add(faults, "/Pod", EST_WRONG_TYPE, "must be a pod with a spec");
	return !faults->count;
}

static const json_t *labels_of(const json_t *node)
{
	return json_object_get(json_object_get(node, "metadata"), "labels");
}

static const char *name_of(const json_t *node)
{
	const char *name = json_string_value(json_object_get(json_object_get(node, "metadata"), "name"));

	return name ? name : "";
}

/* ---- judging */

/* Every kind of card that a node has, once; what is beyond the room is not judged. */
static void gather_cards(struct filter *filter)
{
	for (size_t i = 0; i < json_array_size(filter->nodes); i++) {
		struct cfg_wish own;

		cfg_wish_from_labels(labels_of(json_array_get(filter->nodes, i)), filter->call->context->edition->catalog, &own);
		if (own.card_count)
			cfg_wish_add_card(&filter->wish, own.cards[0]);
		else if (own.size_count)
			cfg_wish_add_size(&filter->wish, own.sizes[0]);
	}
}

static enum srv_progress judge_nodes(struct filter *filter)
{
	struct srv_call *call = filter->call;
	struct srv_context *context = call->context;
	const struct srv_gang gang = { 1, filter->pod.gpus };
	struct srv_judgement judgement;
	json_t *body;
	enum srv_progress progress;

	gather_cards(filter);
	if (!filter->wish.card_count && !filter->wish.size_count)
		return SRV_DONE;
	progress = srv_judge_read(call, &filter->pod, &filter->wish, &gang, &judgement, &body);
	if (progress == SRV_DONE && judgement.outcome == SRV_RUN_HELD) {
		if (srv_leave_long(call, srv_is_long_run(&context->request))) {
			progress = SRV_LEFT;
		} else {
			filter->judged = srv_replay(context);
			progress = filter->judged ? SRV_DONE : SRV_SHORT;
		}
	}
	json_decref(body);
	return progress;
}

static enum srv_progress judge(struct filter *filter)
{
	const struct cfg_wish none = { 0 };
	const struct srv_gang gang = { 1, filter->pod.gpus };

	if (!filter->pod.request)
		return SRV_DONE;
	if (filter->nodes)
		return judge_nodes(filter);
	return srv_judge(filter->call, &filter->pod, &none, &gang, &filter->whole);
}

/* The verdict on the cards of a node; NULL where they are not known. */
static const struct est_fit *find_fit(const struct filter *filter, const struct cfg_wish *own)
{
	const struct est_report *report = &filter->call->context->report;

	for (size_t i = 0; i < report->fit_count; i++) {
		const struct est_gpu *gpu = report->fits[i].gpu;
		bool is_size = i >= filter->wish.card_count;

		if (own->card_count ? gpu == &own->cards[0]->gpu
				    : own->size_count && is_size && gpu->memory_bytes == own->sizes[0])
			return &report->fits[i];
	}
	return NULL;
}

/* GPUs that a pod of the run takes on a node. */
static int64_t wanted_gpus(const struct filter *filter)
{
	const struct est_parallelism *parallelism = &filter->call->context->request.request.parallelism;
	int64_t most = parallelism->gpus_per_node;

	return filter->pod.gpus ? filter->pod.gpus : parallelism->gpus < most ? parallelism->gpus : most;
}

/* Why the pod may not go to node; "" where it may, as to one of which nothing is known. */
static void refuse(const struct filter *filter, const json_t *node, char ret[SRV_SENTENCE_MAX])
{
	const json_t *labels = labels_of(node);
	const struct est_fit *fit;
	struct cfg_wish own;
	int64_t count;

	ret[0] = '\0';
	if (!filter->judged)
		return;
	cfg_wish_from_labels(labels, filter->call->context->edition->catalog, &own);
	fit = find_fit(filter, &own);
	if (fit && !srv_judge_held(fit))
		srv_judge_reason(&filter->call->context->request, fit, ret);
	else if (cfg_quantity_whole(json_object_get(labels, "nvidia.com/gpu.count"), &count) && count < wanted_gpus(filter))
		snprintf(ret, SRV_SENTENCE_MAX, "takes %lld GPUs, the node has %lld", (long long)wanted_gpus(filter),
			 (long long)count);
}

/* ---- the answer */

/* What is left, as it is written, and what is not. */
struct parts {
	struct srv_buffer *left;
	size_t left_count;
	json_t *failed; /* why, by name */
};

static void add_failed(struct parts *parts, const char *name, const char *why)
{
	char text[SRV_SENTENCE_MAX + 16];

	snprintf(text, sizeof text, "vramcast: %s", why);
	json_object_set_new(parts->failed, name, json_string(text));
}

static int append(const char *bytes, size_t length, void *buffer)
{
	srv_buffer_add(buffer, bytes, length);
	return 0;
}

static void write_json(struct srv_buffer *buffer, const json_t *value)
{
	if (json_dump_callback(value, append, buffer, JSON_COMPACT | JSON_ENCODE_ANY))
		buffer->failed = true;
}

static void add_left(struct parts *parts, const json_t *value)
{
	if (parts->left_count++)
		srv_buffer_add_byte(parts->left, ',');
	write_json(parts->left, value);
}

static void write_nodes(const struct filter *filter, struct parts *parts)
{
	char why[SRV_SENTENCE_MAX];

	SRV_PUT(parts->left, "{\"Nodes\":{\"metadata\":{},\"items\":[");
	for (size_t i = 0; i < json_array_size(filter->nodes); i++) {
		const json_t *node = json_array_get(filter->nodes, i);

		refuse(filter, node, why);
		if (*why)
			add_failed(parts, name_of(node), why);
		else
			add_left(parts, node);
	}
	SRV_PUT(parts->left, "]},\"NodeNames\":null");
}

static void write_names(const struct filter *filter, struct parts *parts)
{
	bool held = !filter->pod.request || filter->whole.outcome != SRV_RUN_NOT_HELD;

	SRV_PUT(parts->left, "{\"Nodes\":null,\"NodeNames\":[");
	for (size_t i = 0; i < json_array_size(filter->names); i++) {
		const json_t *name = json_array_get(filter->names, i);
		const char *text = json_string_value(name);

		if (held)
			add_left(parts, name);
		else if (text)
			add_failed(parts, text, filter->whole.reason);
	}
	srv_buffer_add_byte(parts->left, ']');
}

static void write_result(const struct filter *filter, struct srv_buffer *buffer)
{
	struct parts parts = { .left = buffer, .failed = json_object() };

	if (filter->nodes)
		write_nodes(filter, &parts);
	else
		write_names(filter, &parts);
	SRV_PUT(buffer, ",\"FailedNodes\":");
	write_json(buffer, parts.failed);
	SRV_PUT(buffer, ",\"Error\":\"\"}");
	json_decref(parts.failed);
}

void srv_post_k8s_filter(struct srv_call *call)
{
	struct est_faults *faults = &call->context->faults;
	struct filter filter = { .call = call };
	enum srv_progress progress;
	json_t *body;

	if (srv_leave_long(call, call->request->body_length > SRV_BODY_AT_ONCE))
		return;
	body = srv_read_body(call);
	if (!body)
		return;
	if (!read_arguments(body, &filter, faults)) {
		srv_reply_not_kubernetes(call->reply, faults);
		json_decref(body);
		return;
	}
	progress = judge(&filter);
	if (progress == SRV_DONE) {
		write_result(&filter, call->reply->buffer);
		call->reply->content_type = "application/json";
	}
	if (progress == SRV_SHORT || cfg_json_is_short())
		srv_reply_no_memory(call->reply);
	json_decref(body);
}

/* A pod's request as the body of POST /estimate. */
#include <stdlib.h>
#include <string.h>
#include "config/pod.h"
#include "config/read.h"

enum { REASON_MAX = 200 };

static const char blanks[] = " \t\r\n";

/* "model=x lora.rank=8" -> "model=x&lora.rank=8": blanks part the words, and nothing else is special in them. On the
 * heap; NULL when memory is short. */
static char *words_to_query(const char *words)
{
	char *query = malloc(3 * strlen(words) + 1), *at = query;

	for (; query && *words; words++) {
		if (strchr(blanks, *words)) {
			*at++ = '&';
		} else if (strchr("&%+#", *words)) {
			*at++ = '%';
			*at++ = "0123456789ABCDEF"[*words >> 4];
			*at++ = "0123456789ABCDEF"[*words & 15];
		} else {
			*at++ = *words;
		}
	}
	if (query)
		*at = '\0';
	return query;
}

static json_t *parse_words(const char *text, struct est_faults *faults)
{
	static const char *const none[] = { NULL };
	char *query = words_to_query(text);
	json_t *body = query ? cfg_query_to_json(query, none, faults) : NULL;

	free(query);
	return body;
}

static json_t *parse_json(const char *text, struct est_faults *faults)
{
	char reason[REASON_MAX];
	bool no_memory = false;
	json_t *body = cfg_parse_json(text, strlen(text), reason, sizeof reason, &no_memory);

	if (!body && !no_memory)
		est_fault_add(faults, "", EST_WRONG_TYPE, "is not JSON: %s", reason);
	return body;
}

/* Sets group.key unless the request names it. */
static void fill_whole(json_t *body, const char *group, const char *key, int64_t value)
{
	json_t *object = json_object_get(body, group), *own = json_object_get(object, key);

	if (!object || json_is_null(object)) {
		object = json_object();
		json_object_set_new(body, group, object);
	}
	if (json_is_object(object) && (!own || json_is_null(own)))
		json_object_set_new(object, key, json_integer(value));
}

/* The GPUs that the request names for all of its run; 0: none. */
static int64_t named_gpus(const json_t *body)
{
	return json_integer_value(json_object_get(json_object_get(body, "parallelism"), "gpus"));
}

static void fill_gpus(json_t *body, const struct cfg_pod *pod, int64_t run_gpus)
{
	int64_t all = named_gpus(body);

	if (!all && run_gpus > 1)
		fill_whole(body, "parallelism", "gpus", all = run_gpus);
	if (pod->gpus && all > pod->gpus)
		fill_whole(body, "parallelism", "gpus_per_node", pod->gpus);
}

static void set_cards(json_t *body, const struct cfg_wish *wish)
{
	json_t *cards = json_array(), *sizes = json_array();

	for (size_t i = 0; i < wish->card_count; i++)
		json_array_append_new(cards, json_string(wish->cards[i]->gpu.id));
	for (size_t i = 0; i < wish->size_count; i++)
		json_array_append_new(sizes, json_integer((json_int_t)wish->sizes[i]));
	json_object_set(body, "gpus", wish->card_count ? cards : json_null());
	json_object_set(body, "gpu_memory_bytes", wish->size_count ? sizes : json_null());
	json_decref(cards);
	json_decref(sizes);
}

json_t *cfg_pod_body(const struct cfg_pod *pod, const struct cfg_wish *wish, int64_t run_gpus,
		     struct est_faults *faults)
{
	const char *text = pod->request + strspn(pod->request, blanks);
	json_t *body = *text == '{' ? parse_json(text, faults) : parse_words(text, faults);

	if (body && (wish->card_count || wish->size_count))
		set_cards(body, wish);
	if (body)
		fill_gpus(body, pod, run_gpus);
	if (!cfg_json_is_short())
		return body;
	json_decref(body);
	return NULL;
}

/* Trainers' own files, as they come: an object of them, or a request that has one. What is said to be ignored is
 * there. */
#include <stdlib.h>
#include <string.h>
#include "tests/fuzz/fuzz.h"

enum { LAYERS_MAX = 8 };

/* Whether RFC 6901's pointer leads somewhere in value. */
static bool leads(const json_t *value, const char *pointer)
{
	while (value && *pointer == '/') {
		char key[EST_POINTER_MAX];
		size_t used = 0;

		for (pointer++; *pointer && *pointer != '/'; pointer++) {
			bool escaped = *pointer == '~' && pointer[1];

			pointer += escaped;
			key[used++] = (char)(!escaped ? *pointer : *pointer == '0' ? '~' : '/');
		}
		key[used] = '\0';
		value = json_is_array(value) ? json_array_get(value, strtoul(key, NULL, 10)) : json_object_get(value, key);
	}
	return value != NULL;
}

/* A pointer that was cut for its length leads nowhere. */
static bool is_cut(const char *pointer)
{
	return strlen(pointer) + 64 > EST_POINTER_MAX;
}

static void check_ignored(const struct cfg_ignored *ignored, const json_t *body)
{
	const char *pointer = ignored->text;

	for (size_t i = 0; i < ignored->count; i++) {
		fuzz_require(is_cut(pointer) || leads(body, pointer), "what is ignored is there: %s", pointer);
		pointer += strlen(pointer) + 1;
	}
	fuzz_require(ignored->count <= ignored->total, "no more is listed than is ignored");
}

/* A request around files. New reference. */
static json_t *wrap(json_t *files)
{
	return json_pack("{s:s, s:s, s:{s:i}, s:o}", "model", "qwen3-0.6b", "gpus", "t4", "parallelism", "gpus", 8, "from",
			 files);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct cfg_request request;
	json_t *body = fuzz_parse(data, size);

	if (!body)
		return 0;
	if (!json_object_get(body, "from"))
		body = wrap(body);
	fuzz_require(body != NULL, "memory is short");
	if (fuzz_read(body, &request)) {
		check_ignored(&request.ignored, body);
		if (est_model_all_layers(&request.model) <= LAYERS_MAX)
			fuzz_estimate(&request);
	}
	json_decref(body);
	return 0;
}

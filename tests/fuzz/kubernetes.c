/* What Kubernetes asks: a letter before the body says where. An answer to a review is of it, a patch adds what is not
 * there to what is, and every node is left or told why not. */
#include <stdlib.h>
#include <string.h>
#include "tests/fuzz/served.h"

static const struct {
	char letter;
	const char *path, *query;
} routes[] = {
	{ 'v', "/k8s/validate", "timeout=3s" }, { 'c', "/k8s/validate/fail-closed", NULL },
	{ 'w', "/k8s/validate/warn", "gpus=l4,t4" }, { 'm', "/k8s/mutate", NULL }, { 'f', "/k8s/filter", NULL },
};
enum { ROUTES = sizeof(routes) / sizeof(routes[0]), WARNING_MAX = 256 };

/* ---- patches */

static int digit_of(char letter)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const char *at = letter == '=' ? digits : strchr(digits, letter);

	fuzz_require(at && *at, "'%c' is of base64", letter);
	return (int)(at - digits);
}

/* New reference. */
static json_t *decode(const char *text)
{
	size_t length = strlen(text), used = 0;
	char *bytes = malloc(length + 1);
	json_t *patch;

	fuzz_require(bytes && length % 4 == 0, "base64 comes in fours");
	for (size_t i = 0; i < length; i += 4) {
		int group = digit_of(text[i]) << 18 | digit_of(text[i + 1]) << 12 | digit_of(text[i + 2]) << 6
			    | digit_of(text[i + 3]);

		for (int shift = 16; shift >= 0; shift -= 8)
			bytes[used++] = (char)(group >> shift & 255);
	}
	while (used && !bytes[used - 1])
		used--;
	patch = json_loadb(bytes, used, JSON_REJECT_DUPLICATES, NULL);
	fuzz_require(patch != NULL, "a patch is JSON: %.*s", (int)used, bytes);
	free(bytes);
	return patch;
}

/* One step of a pointer, from *at on, which moves behind it; its escapes undone. */
static void read_step(const char **at, char *ret, size_t size)
{
	size_t used = 0;

	for (++*at; **at && **at != '/' && used + 1 < size; ++*at) {
		ret[used++] = **at == '~' ? (*at)[1] == '1' ? '/' : '~' : **at;
		*at += **at == '~';
	}
	ret[used] = '\0';
}

/* What is added is not there, and what it is added to is. */
static void check_operation(const json_t *operation, const json_t *object)
{
	const char *path = json_string_value(json_object_get(operation, "path")), *at = path;
	char step[512];

	fuzz_require(!strcmp(json_string_value(json_object_get(operation, "op")), "add"), "an operation adds");
	while (strchr(at + 1, '/')) {
		read_step(&at, step, sizeof(step));
		object = json_is_array(object) ? json_array_get(object, strtoul(step, NULL, 10))
					       : json_object_get(object, step);
	}
	read_step(&at, step, sizeof(step));
	if (json_is_array(object) && !strcmp(step, "-"))
		return;
	fuzz_require(json_is_object(object), "there is something to add to at %s", path);
	object = json_object_get(object, step);
	fuzz_require(!json_is_object(object) && !json_is_string(object), "nothing is overwritten at %s", path);
}

/* ---- answers */

static void check_warnings(const json_t *warnings)
{
	const json_t *warning;
	size_t i;

	fuzz_require(!warnings || json_array_size(warnings), "no list of warnings is empty");
	json_array_foreach(warnings, i, warning)
		fuzz_require(json_string_length(warning) <= WARNING_MAX, "a warning is short");
}

static void check_review(const char *path, const json_t *body, const json_t *answer)
{
	const json_t *request = json_object_get(body, "request"), *told = json_object_get(answer, "response");
	const json_t *allowed = json_object_get(told, "allowed"), *operation;
	const char *encoded = json_string_value(json_object_get(told, "patch"));
	json_t *patch = encoded ? decode(encoded) : NULL;
	size_t i;

	fuzz_require(json_equal(json_object_get(told, "uid"), json_object_get(request, "uid")),
		     "the answer is to the request");
	fuzz_require(json_is_true(allowed) == !json_object_get(told, "status"), "a refusal has a status");
	fuzz_require(json_is_true(allowed) || !strncmp(path, "/k8s/validate", 13), "what fills in refuses nothing");
	fuzz_require(json_is_true(allowed) || strcmp(path, "/k8s/validate/warn") != 0, "what warns refuses nothing");
	check_warnings(json_object_get(told, "warnings"));
	json_array_foreach(patch, i, operation)
		check_operation(operation, json_object_get(request, "object"));
	json_decref(patch);
}

static void check_filter(const json_t *body, const json_t *answer)
{
	const json_t *nodes = json_object_get(body, "Nodes"), *names = json_object_get(body, "NodeNames");
	const json_t *left = json_object_get(answer, "Nodes");
	size_t failed = json_object_size(json_object_get(answer, "FailedNodes"));
	size_t sent = json_array_size(json_is_object(nodes) ? json_object_get(nodes, "items") : names);
	size_t kept = json_array_size(json_is_object(left) ? json_object_get(left, "items")
							    : json_object_get(answer, "NodeNames"));

	fuzz_require(json_is_object(nodes) == json_is_object(left), "nodes are answered by nodes, names by names");
	fuzz_require(kept <= sent && failed <= sent - kept, "a node is left or not");
	fuzz_require(kept == sent || failed || !json_is_object(nodes), "why a node is not left is told");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct srv_request request = { .method = "POST", .path = routes[0].path, .content_type = "application/json" };
	struct srv_reply reply;
	json_t *body, *answer;
	size_t length;
	const char *text;

	for (size_t i = 0; i < ROUTES; i++)
		if (size && data[0] == routes[i].letter) {
			request.path = routes[i].path;
			request.query = routes[i].query;
		}
	request.body = size ? (const char *)data + 1 : "";
	request.body_length = size ? size - 1 : 0;
	srv_route(served_context(), &request, &reply);
	fuzz_require(reply.status == 200 || reply.status == 400, "status %d", reply.status);
	text = srv_reply_body(&reply, &length);
	answer = json_loadb(text, length, JSON_REJECT_DUPLICATES, NULL);
	fuzz_require(answer != NULL, "an answer is JSON: %.*s", (int)(length < 1000 ? length : 1000), text);
	body = reply.status == 200 ? fuzz_parse((const uint8_t *)request.body, request.body_length) : NULL;
	if (body && !strcmp(request.path, "/k8s/filter"))
		check_filter(body, answer);
	else if (body)
		check_review(request.path, body, answer);
	json_decref(body);
	json_decref(answer);
	return 0;
}

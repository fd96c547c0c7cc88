#include "server/review.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "server/write.h"

static const char api_version[] = "admission.k8s.io/v1", kind_name[] = "AdmissionReview";

/* ---- reading */

static const char *need_text(const json_t *object, const char *key, const char *pointer, struct est_faults *faults)
{
	const json_t *value = json_object_get(object, key);

	if (!value)
		est_fault_add(faults, pointer, EST_MISSING, "is required");
	else if (!json_is_string(value))
		est_fault_add(faults, pointer, EST_WRONG_TYPE, "must be a string");
	return json_string_value(value);
}

static void need_word(const json_t *object, const char *key, const char *pointer, const char *word,
		      struct est_faults *faults)
{
	const char *text = need_text(object, key, pointer, faults);

	if (text && strcmp(text, word))
		est_fault_add(faults, pointer, EST_UNKNOWN_VALUE, "must be \"%s\"", word);
}

static bool is_judged(const json_t *request, const char *operation)
{
	const json_t *object = json_object_get(request, "object");
	const char *part = json_string_value(json_object_get(request, "subResource"));

	return json_is_object(object) && (!part || !*part) && (!strcmp(operation, "CREATE") || !strcmp(operation, "UPDATE"))
	       && !json_string_value(json_object_get(json_object_get(object, "metadata"), "deletionTimestamp"));
}

bool srv_review_read(const json_t *body, struct srv_review *ret, struct est_faults *faults)
{
	const json_t *request = json_object_get(body, "request"), *old = json_object_get(request, "oldObject");
	const char *operation;

	if (!json_is_object(body)) {
		est_fault_add(faults, "", EST_WRONG_TYPE, "must be an object");
		return false;
	}
	need_word(body, "apiVersion", "/apiVersion", api_version, faults);
	need_word(body, "kind", "/kind", kind_name, faults);
	if (!request)
		est_fault_add(faults, "/request", EST_MISSING, "is required");
	else if (!json_is_object(request))
		est_fault_add(faults, "/request", EST_WRONG_TYPE, "must be an object");
	if (!json_is_object(request))
		return false;
	ret->uid = need_text(request, "uid", "/request/uid", faults);
	operation = need_text(request, "operation", "/request/operation", faults);
	if (faults->count)
		return false;
	ret->object = is_judged(request, operation) ? json_object_get(request, "object") : NULL;
	ret->old = json_is_object(old) ? old : NULL;
	return true;
}

/* ---- what is answered */

/* Cuts text that was cut by snprintf() within a character of UTF-8 before it. */
static void mend_end(char *text, size_t size)
{
	size_t length = strlen(text), start = length;

	if (length + 1 < size)
		return;
	while (start && ((unsigned char)text[start - 1] & 0xC0) == 0x80)
		start--;
	if (start && (unsigned char)text[start - 1] >= 0xC0)
		text[start - 1] = '\0';
}

void srv_review_warn(struct srv_review_answer *answer, const char *part, const char *text)
{
	char *warning = answer->warning[answer->warning_count];
	size_t i = 0;

	if (answer->warning_count == SRV_WARNINGS_MAX || !*text)
		return;
	snprintf(warning, SRV_WARNING_MAX, "vramcast: %s%s%s", part, *part ? ": " : "", text);
	mend_end(warning, SRV_WARNING_MAX);
	while (strcmp(answer->warning[i], warning))
		i++;
	answer->warning_count += i == answer->warning_count;
}

void srv_review_refuse(struct srv_review_answer *answer, int code, const char *part, const char *reason,
		       const char *remedy)
{
	if (answer->code)
		return;
	answer->code = code;
	snprintf(answer->message, sizeof answer->message, "%s%s%s%s%s", part, *part ? ": " : "", reason, *remedy ? "; " : "",
		 remedy);
	mend_end(answer->message, sizeof answer->message);
}

/* Not Invalid, of which an older kubectl tells the details alone. */
static void write_refusal(struct srv_buffer *buffer, const struct srv_review_answer *answer)
{
	SRV_PUT(buffer, ",\"status\":{\"status\":\"Failure\",\"reason\":");
	srv_write_string(buffer, answer->code == 400 ? "BadRequest" : "Forbidden");
	SRV_PUT(buffer, ",\"code\":");
	srv_write_i64(buffer, answer->code);
	SRV_PUT(buffer, ",\"message\":");
	srv_write_string(buffer, answer->message);
	srv_buffer_add_byte(buffer, '}');
}

static void write_warnings(struct srv_buffer *buffer, const struct srv_review_answer *answer)
{
	for (size_t i = 0; i < answer->warning_count; i++) {
		srv_write_text(buffer, i ? "," : ",\"warnings\":[");
		srv_write_string(buffer, answer->warning[i]);
	}
	if (answer->warning_count)
		srv_buffer_add_byte(buffer, ']');
}

static void write_base64(struct srv_buffer *buffer, const char *bytes, size_t length)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

	for (size_t i = 0; i < length; i += 3) {
		size_t left = length - i;
		unsigned group = (unsigned)(unsigned char)bytes[i] << 16;

		group |= left > 1 ? (unsigned)(unsigned char)bytes[i + 1] << 8 : 0;
		group |= left > 2 ? (unsigned)(unsigned char)bytes[i + 2] : 0;
		srv_buffer_add_byte(buffer, digits[group >> 18]);
		srv_buffer_add_byte(buffer, digits[group >> 12 & 63]);
		srv_buffer_add_byte(buffer, left > 1 ? digits[group >> 6 & 63] : '=');
		srv_buffer_add_byte(buffer, left > 2 ? digits[group & 63] : '=');
	}
}

static void write_patch(struct srv_buffer *buffer, const json_t *patch)
{
	char *text = json_dumps(patch, JSON_COMPACT);

	SRV_PUT(buffer, ",\"patchType\":\"JSONPatch\",\"patch\":\"");
	if (text)
		write_base64(buffer, text, strlen(text));
	else
		buffer->failed = true;
	srv_buffer_add_byte(buffer, '"');
	free(text);
}

void srv_review_write(struct srv_buffer *buffer, const struct srv_review *review,
		      const struct srv_review_answer *answer)
{
	SRV_PUT(buffer, "{\"apiVersion\":\"admission.k8s.io/v1\",\"kind\":\"AdmissionReview\",\"response\":{\"uid\":");
	srv_write_string(buffer, review->uid);
	SRV_PUT(buffer, ",\"allowed\":");
	srv_write_bool(buffer, !answer->code);
	if (answer->code)
		write_refusal(buffer, answer);
	write_warnings(buffer, answer);
	if (json_array_size(answer->patch))
		write_patch(buffer, answer->patch);
	SRV_PUT(buffer, "}}");
}

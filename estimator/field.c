#include "estimator/fields.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "estimator/slots.h"

#include "estimator/field_slots.inc" /* slots */

const struct est_field *est_field_find(const char *name)
{
	for (size_t at = est_slot(name); slots[at]; at = (at + 1) % EST_SLOTS)
		if (!strcmp(est_request_fields[slots[at] - 1].name, name))
			return &est_request_fields[slots[at] - 1];
	return NULL;
}

bool est_request_names(const struct est_request *request, const char *name)
{
	const struct est_field *field = est_field_find(name);

	return field && est_field_is_named(field, request);
}

void est_request_name(struct est_request *request, const struct est_field *field)
{
	size_t i = (size_t)(field - est_request_fields);

	request->named[i / 64] |= UINT64_C(1) << i % 64;
}

const struct est_field *est_next_named(const struct est_request *request, size_t *at)
{
	while (*at < est_request_field_count) {
		uint64_t left = request->named[*at / 64] >> *at % 64;

		if (left) {
			*at += (size_t)__builtin_ctzll(left) + 1;
			return &est_request_fields[*at - 1];
		}
		*at = (*at / 64 + 1) * 64;
	}
	return NULL;
}

void est_request_forget(struct est_request *request, const struct est_field *field)
{
	size_t i = (size_t)(field - est_request_fields);

	request->named[i / 64] &= ~(UINT64_C(1) << i % 64);
	if (field->kind == EST_FIELD_NAMES)
		((struct est_names *)(void *)((char *)request + field->offset))->count = 0;
	est_field_set(field, request, field->fallback);
}

void est_request_init(struct est_request *ret_request)
{
	size_t i;

	memset(ret_request, 0, sizeof(*ret_request));
	for (i = 0; i < est_request_field_count; i++)
		if (est_request_fields[i].fallback < 0 || est_request_fields[i].fallback > 0) /* zero is there already */
			est_field_set(&est_request_fields[i], ret_request, est_request_fields[i].fallback);
}

double est_field_get(const struct est_field *field, const struct est_request *request)
{
	const char *at = (const char *)request + field->offset;

	switch (field->kind) {
	case EST_FIELD_BOOL:
		return *(const bool *)at;
	case EST_FIELD_INT:
	case EST_FIELD_VERSION:
		return (double)*(const int64_t *)(const void *)at;
	case EST_FIELD_REAL:
		return *(const double *)(const void *)at;
	case EST_FIELD_WORD:
	case EST_FIELD_CHECKPOINTING:
	case EST_FIELD_WORDS:
		return *(const unsigned *)(const void *)at;
	case EST_FIELD_NAMES:
		return ((const struct est_names *)(const void *)at)->all;
	default:
		return 0;
	}
}

void est_field_set(const struct est_field *field, struct est_request *request, double value)
{
	void *at = (char *)request + field->offset;

	switch (field->kind) {
	case EST_FIELD_BOOL:
		*(bool *)at = value != 0;
		break;
	case EST_FIELD_INT:
	case EST_FIELD_VERSION:
		*(int64_t *)at = (int64_t)value;
		break;
	case EST_FIELD_REAL:
		*(double *)at = value;
		break;
	case EST_FIELD_WORD:
	case EST_FIELD_CHECKPOINTING:
	case EST_FIELD_WORDS:
		*(unsigned *)at = (unsigned)value;
		break;
	case EST_FIELD_NAMES:
		((struct est_names *)at)->all = value != 0;
		break;
	default:
		break;
	}
}

/* The words whose bits are set, or the names of a list, with commas between. */
static void join(char *text, size_t size, const char *item)
{
	size_t used = strlen(text);

	snprintf(text + used, size - used, "%s%s", used ? "," : "", item);
}

static void join_bits(const struct est_word *words, unsigned bits, char *text, size_t size)
{
	for (; words->name; words++)
		if (bits & (unsigned)words->value)
			join(text, size, words->name);
}

static void join_names(const struct est_field *field, const struct est_request *request, char *text, size_t size)
{
	const struct est_names *names = (const void *)((const char *)request + field->offset);
	int i;

	if (names->all)
		join(text, size, "all-linear");
	for (i = 0; i < names->count; i++)
		join(text, size, names->name[i]);
	est_text_trim(text);
}

static void write_checkpointing(const struct est_request *request, char *text, size_t size)
{
	if (request->checkpointing == EST_CHECKPOINT_EVERY_N)
		snprintf(text, size, "every_n_layers %lld", (long long)request->every_n_layers);
	else if (request->checkpointing == EST_CHECKPOINT_SELECTIVE)
		snprintf(text, size, "selective %s", est_word_name(est_selective_words, (int)request->selective));
	else
		est_copy_text(text, size, est_word_name(est_checkpointing_words, (int)request->checkpointing));
}

static void write_number(const struct est_field *field, double value, char *text, size_t size)
{
	/* The words of a number are negative (auto), so that a count of elements is never taken for one. */
	bool worded = field->kind == EST_FIELD_WORD || (field->words && value < 0);
	const char *word = worded ? est_word_name(field->words, (int)value) : "";

	if (*word)
		est_copy_text(text, size, word);
	else if (field->kind == EST_FIELD_INT || (fabs(value) < 1e5 && value == floor(value)))
		est_whole_text((int64_t)value, text, size);
	else
		snprintf(text, size, "%g", value);
}

const char *est_field_text(const struct est_field *field, const struct est_request *request, char *text, size_t size)
{
	double value = est_field_get(field, request);

	text[0] = '\0';
	switch (field->kind) {
	case EST_FIELD_BOOL:
		est_copy_text(text, size, value != 0 ? "true" : "false");
		break;
	case EST_FIELD_WORDS:
		join_bits(field->words, (unsigned)value, text, size);
		break;
	case EST_FIELD_NAMES:
		join_names(field, request, text, size);
		break;
	case EST_FIELD_CHECKPOINTING:
		write_checkpointing(request, text, size);
		break;
	case EST_FIELD_VERSION:
		snprintf(text, size, "%d.%d", (int)value / 1000, (int)value % 1000);
		break;
	case EST_FIELD_INT:
	case EST_FIELD_REAL:
	case EST_FIELD_WORD:
		write_number(field, value, text, size);
		break;
	default:
		break;
	}
	return text;
}

void est_field_refuse(const char *name, const struct est_request *request, struct est_faults *faults, const char *why,
		      ...)
{
	const struct est_field *field = est_field_find(name);
	char value[EST_NAME_MAX], reason[EST_DETAIL_MAX];
	va_list arguments;

	va_start(arguments, why);
	vsnprintf(reason, sizeof(reason), why, arguments);
	va_end(arguments);
	est_fault_add(faults, field->pointer, EST_NOT_SUPPORTED_YET, "%s %s%s",
		      est_field_text(field, request, value, sizeof(value)), reason,
		      est_field_is_named(field, request) ? "" : " (the default here: name another)");
}

void est_refuse_with(const char *what, const struct est_refusal rows[], size_t count, const struct est_request *request,
		     struct est_faults *faults)
{
	for (size_t i = 0; i < count; i++)
		if (rows[i].refused)
			est_field_refuse(rows[i].field, request, faults, "is not modelled yet with %s", what);
}

void est_refuse_other_steps(const char *what, const struct est_request *request, struct est_faults *faults)
{
	const struct est_refusal rows[] = {
		{ "objective", !est_models_language(request) },
		{ "task", request->task != EST_CAUSAL_LM },
		{ "loss", request->loss != EST_LOSS_STANDARD },
		{ "liger_kernel", request->liger_kernel },
		{ "torch_compile", request->torch_compile },
		{ "fuse_optimizer_in_backward", request->fuse_optimizer_in_backward },
	};

	est_refuse_with(what, rows, sizeof(rows) / sizeof(rows[0]), request, faults);
}

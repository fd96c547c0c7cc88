#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config/families.h"
#include "config/infer.h"
#include "config/read.h"

/* A member of a custom model; what is absent is inferred and noted under pointer. */
struct member {
	const char *name, *pointer;
	size_t offset;
	double max;
	const char *how; /* how it is inferred */
};

#define MEMBER(member) #member, "/model/" #member, offsetof(struct est_model, member)

/* clang-format off */
static const struct member members[] = {
	{ MEMBER(hidden_size), 1 << 17, "the width at which the MLP is 3.5 times as wide" },
	{ MEMBER(num_hidden_layers), EST_LAYERS_MAX, "between the depths of Llama's sizes, or what there is room for" },
	{ MEMBER(num_attention_heads), 4096, "hidden_size / head_dim" },
	{ MEMBER(num_key_value_heads), 4096, "8 or 4 groups of heads; one for each head of a small model" },
	{ MEMBER(head_dim), 4096, "hidden_size / num_attention_heads; 128, or 64 below a width of 2048" },
	{ MEMBER(intermediate_size), 1 << 20, "what is left of parameters" },
	{ MEMBER(vocab_size), 1 << 24, "Llama 3's; 32000 below 1e9 parameters, 1024 below 1e7" },
};
enum { MEMBERS = sizeof(members) / sizeof(members[0]) };

/* clang-format on */

static const double least_parameters = 1e5, most_parameters = 1e13;

static int64_t *int_member(struct est_model *model, const struct member *member)
{
	return (int64_t *)(void *)((char *)model + member->offset);
}

static void complain(const char *pointer, const char *name, enum est_fault_code code, const char *detail,
		     struct est_faults *faults)
{
	char at[EST_POINTER_MAX];

	snprintf(at, sizeof(at), "%s/%s", pointer, name);
	est_fault_add(faults, at, code, "%s", detail);
}

/* "8B", "350M", "1.5e9" -> a number; 0 when text is none. */
static double parse_parameters(const char *text)
{
	static const struct { char suffix; double factor; } suffixes[] = {
		{ 'k', 1e3 }, { 'm', 1e6 }, { 'b', 1e9 }, { 't', 1e12 }
	};
	char *end;
	double number;

	if (strspn(text, "0123456789.") == 0)
		return 0;
	number = strtod(text, &end);
	for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++)
		if (tolower((unsigned char)*end) == suffixes[i].suffix && !end[1])
			return number * suffixes[i].factor;
	return *end || strpbrk(text, "xX") ? 0 : number;
}

static double read_parameters(const json_t *object, const char *pointer, struct est_faults *faults)
{
	const json_t *value = json_object_get(object, "parameters");
	double number = json_is_string(value) ? parse_parameters(json_string_value(value)) : json_number_value(value);

	if (!value || json_is_null(value))
		complain(pointer, "parameters", EST_MISSING, "is required", faults);
	else if (!json_is_number(value) && !json_is_string(value))
		complain(pointer, "parameters", EST_WRONG_TYPE, "must be a number, or text such as \"8B\"", faults);
	else if (json_is_string(value) && number <= 0)
		complain(pointer, "parameters", EST_WRONG_TYPE, "must be a number, or text such as \"8B\" or \"350M\"",
			 faults);
	else if (number < least_parameters || number > most_parameters)
		complain(pointer, "parameters", EST_OUT_OF_RANGE, "must be a number from 1e5 to 1e13", faults);
	return number;
}

static void read_member(const json_t *object, const char *pointer, const struct member *member,
			struct est_model *model, struct est_faults *faults)
{
	const json_t *value = json_object_get(object, member->name);
	double number = json_number_value(value);
	char detail[EST_DETAIL_MAX];

	if (!value || json_is_null(value))
		return;
	snprintf(detail, sizeof(detail), "must be a whole number from 1 to %.0f", member->max);
	if (!json_is_number(value))
		complain(pointer, member->name, EST_WRONG_TYPE, detail, faults);
	else if (!(number >= 1 && number <= member->max) || number != (double)(int64_t)number)
		complain(pointer, member->name, EST_OUT_OF_RANGE, detail, faults);
	else
		*int_member(model, member) = (int64_t)number;
}

static void read_tie(const json_t *object, const char *pointer, double parameters, struct est_model *model,
		     struct est_faults *faults)
{
	const json_t *value = json_object_get(object, "tie_word_embeddings");

	model->tie_word_embeddings = parameters < 4e9;
	if (json_is_boolean(value))
		model->tie_word_embeddings = json_is_true(value);
	else if (value && !json_is_null(value))
		complain(pointer, "tie_word_embeddings", EST_WRONG_TYPE, "must be true or false", faults);
}

static bool is_known(const char *name)
{
	for (size_t i = 0; i < MEMBERS; i++)
		if (!strcmp(name, members[i].name))
			return true;
	return !strcmp(name, "parameters") || !strcmp(name, "tie_word_embeddings");
}

static void refuse_unknown(const json_t *object, const char *pointer, struct est_faults *faults)
{
	const char *name;
	json_t *value;

	json_object_foreach(cfg_json_iterable(object), name, value) {
		char at[EST_POINTER_MAX];

		if (is_known(name))
			continue;
		snprintf(at, sizeof(at), "%s", pointer);
		cfg_pointer_add(at, name);
		est_fault_add(faults, at, EST_UNKNOWN_FIELD, "is not a known field of a custom model");
	}
}

/* What the members that were given or inferred contradict. */
static void check_shape(const struct est_model *given, const struct est_model *model, double parameters,
			const char *pointer, struct est_faults *faults)
{
	double counted = (double)est_model_count_parameters(model);
	char detail[EST_DETAIL_MAX];

	if (given->num_attention_heads && !given->head_dim && model->hidden_size % model->num_attention_heads)
		complain(pointer, "num_attention_heads", EST_CONTRADICTION, "must divide hidden_size", faults);
	if (model->num_attention_heads % model->num_key_value_heads)
		complain(pointer, "num_key_value_heads", EST_CONTRADICTION, "must divide num_attention_heads", faults);
	snprintf(detail, sizeof(detail), "must go with the shape, which counts %.0f parameters", counted);
	if (fabs(counted - parameters) > 0.1 * parameters)
		complain(pointer, "parameters", EST_CONTRADICTION, detail, faults);
}

static void note_member(const struct member *member, int64_t value, struct est_notes *notes)
{
	char text[EST_NOTE_VALUE_MAX];

	snprintf(text, sizeof(text), "%lld", (long long)value);
	est_note_add(notes, member->pointer, text, "inferred from parameters: %s", member->how);
}

static void note_shape(const struct est_model *given, struct est_model *model, bool tie_given,
		       struct est_notes *notes)
{
	est_note_add(notes, "/model", "llama", "a custom model is taken for a Llama: RMSNorm, rotary positions, a "
		     "gated SiLU MLP, no biases; the shape counts %lld parameters",
		     (long long)est_model_count_parameters(model));
	for (size_t i = 0; i < MEMBERS; i++) {
		struct est_model before = *given;

		if (!*int_member(&before, &members[i]))
			note_member(&members[i], *int_member(model, &members[i]), notes);
	}
	if (!tie_given)
		est_note_add(notes, "/model/tie_word_embeddings", model->tie_word_embeddings ? "true" : "false",
			     "inferred from parameters: tied below 4e9");
}

bool cfg_model_from_parameters(const json_t *object, const char *pointer, struct est_model *ret_model,
			       struct est_notes *notes, struct est_faults *faults)
{
	struct est_model given = cfg_family_find("llama")->shape, model;
	size_t before = faults->count;
	double parameters = read_parameters(object, pointer, faults);

	given.max_position_embeddings = 131072; /* Llama 3's; nothing depends on it with rotary positions */
	for (size_t i = 0; i < MEMBERS; i++)
		read_member(object, pointer, &members[i], &given, faults);
	read_tie(object, pointer, parameters, &given, faults);
	refuse_unknown(object, pointer, faults);
	if (faults->count > before)
		return false;
	model = given;
	cfg_infer_shape(&model, parameters);
	check_shape(&given, &model, parameters, pointer, faults);
	if (faults->count > before)
		return false;
	snprintf(model.id, sizeof(model.id), "custom");
	model.parameters = (int64_t)llround(parameters);
	model.inferred = true;
	note_shape(&given, &model, json_is_boolean(json_object_get(object, "tie_word_embeddings")), notes);
	*ret_model = model;
	return true;
}

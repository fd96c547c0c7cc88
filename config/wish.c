#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config/pod.h"
#include "config/read.h"

/* Labels that nodes have by their cards: of GPU feature discovery, of Google's, Amazon's and Karpenter's clouds, of
 * AMD's node labeller. The first of these that is there counts. */
static const char *const product_labels[] = {
	"nvidia.com/gpu.product", "cloud.google.com/gke-accelerator", "k8s.amazonaws.com/accelerator",
	"karpenter.k8s.aws/instance-gpu-name", "amd.com/gpu.product-name", "beta.amd.com/gpu.product-name", NULL
};
static const char memory_label[] = "nvidia.com/gpu.memory"; /* in MiB */

bool cfg_wish_is_empty(const struct cfg_wish *wish)
{
	return !wish->card_count && !wish->size_count && !*wish->unknown;
}

/* ---- single cards */

/* GPU feature discovery labels a node with the driver's name, dashes for blanks: such are among a card's aliases. */
static bool is_product_label(const char *alias)
{
	return !strchr(alias, ' ') && (!strncmp(alias, "NVIDIA-", 7) || !strncmp(alias, "Tesla-", 6));
}

const char *cfg_card_label(const struct cfg_card *card, size_t *at)
{
	const json_t *aliases = card ? json_object_get(card->row, "aliases") : NULL;

	while (*at < json_array_size(aliases)) {
		const char *alias = json_string_value(json_array_get(aliases, (*at)++));

		if (is_product_label(alias))
			return alias;
	}
	return NULL;
}

bool cfg_wish_add_card(struct cfg_wish *wish, const struct cfg_card *card)
{
	size_t i = 0;

	while (i < wish->card_count && wish->cards[i] != card)
		i++;
	if (i == wish->card_count && i < CFG_WISH_MAX)
		wish->cards[wish->card_count++] = card;
	return i < CFG_WISH_MAX;
}

bool cfg_wish_add_size(struct cfg_wish *wish, uint64_t bytes)
{
	size_t i = 0;

	while (i < wish->size_count && wish->sizes[i] != bytes)
		i++;
	if (i == wish->size_count && i < CFG_WISH_MAX)
		wish->sizes[wish->size_count++] = bytes;
	return i < CFG_WISH_MAX;
}

/* Nodes whose cards are shared by time have the product's name with a word behind it. */
static void copy_name(const char *text, size_t length, char ret[CFG_WISH_NAME_MAX])
{
	static const char shared[] = "-SHARED";
	size_t end = sizeof shared - 1;

	snprintf(ret, CFG_WISH_NAME_MAX, "%.*s", (int)(length < CFG_WISH_NAME_MAX ? length : CFG_WISH_NAME_MAX - 1), text);
	length = strlen(ret);
	if (length > end && !strcmp(ret + length - end, shared))
		ret[length - end] = '\0';
}

static void add_name(const char *text, size_t length, const struct cfg_catalog *catalog, struct cfg_wish *wish)
{
	char name[CFG_WISH_NAME_MAX];
	const struct cfg_card *card;

	copy_name(text, length, name);
	card = cfg_catalog_find_card(catalog, name, NULL);
	if ((!card || !cfg_wish_add_card(wish, card)) && !*wish->unknown)
		memcpy(wish->unknown, name, sizeof name);
}

static void add_mib(const char *text, int64_t more, struct cfg_wish *wish)
{
	char *end;
	long long mib = strtoll(text, &end, 10);

	if (end != text && !*end && mib > 0 && mib < 1 << 30)
		cfg_wish_add_size(wish, (uint64_t)(mib + more) << 20);
}

void cfg_wish_from_names(const char *names, const struct cfg_catalog *catalog, struct cfg_wish *ret)
{
	static const char between[] = ", \t\n";

	*ret = (struct cfg_wish){ 0 };
	for (names += strspn(names, between); *names; names += strspn(names, between)) {
		size_t length = strcspn(names, between);

		add_name(names, length, catalog, ret);
		names += length;
	}
}

/* ---- labels of one node */

static const char *text_of(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

void cfg_wish_from_labels(const json_t *labels, const struct cfg_catalog *catalog, struct cfg_wish *ret)
{
	const char *product = NULL, *memory = text_of(labels, memory_label);

	*ret = (struct cfg_wish){ 0 };
	for (int i = 0; !product && product_labels[i]; i++)
		product = text_of(labels, product_labels[i]);
	if (product)
		add_name(product, strlen(product), catalog, ret);
	if (memory && !ret->card_count)
		add_mib(memory, 0, ret);
}

/* ---- what a pod demands of nodes */

/* One of matchExpressions that names products, or tells their memory: In, or Gt as it is printed among the hints. */
static void add_expression(const json_t *expression, const struct cfg_catalog *catalog, struct cfg_wish *wish)
{
	const char *key = text_of(expression, "key"), *operator = text_of(expression, "operator");
	const json_t *values = json_object_get(expression, "values");
	bool in = operator && !strcmp(operator, "In"), above = operator && !strcmp(operator, "Gt");
	bool is_product = false, is_memory = key && !strcmp(key, memory_label);

	for (int i = 0; key && product_labels[i]; i++)
		is_product = is_product || !strcmp(key, product_labels[i]);
	for (size_t i = 0; i < json_array_size(values); i++) {
		const char *value = json_string_value(json_array_get(values, i));

		if (value && is_product && in)
			add_name(value, strlen(value), catalog, wish);
		else if (value && is_memory && (in || above))
			add_mib(value, above, wish);
	}
}

/* Where one of the terms, of which any will do, leaves the card open, all of them do. */
static void read_affinity(const json_t *terms, const struct cfg_catalog *catalog, struct cfg_wish *ret)
{
	for (size_t i = 0; i < json_array_size(terms); i++) {
		const json_t *expressions = json_object_get(json_array_get(terms, i), "matchExpressions");
		struct cfg_wish term = { 0 };

		for (size_t j = 0; j < json_array_size(expressions); j++)
			add_expression(json_array_get(expressions, j), catalog, &term);
		if (cfg_wish_is_empty(&term)) {
			*ret = term;
			return;
		}
		for (size_t j = 0; j < term.card_count; j++)
			cfg_wish_add_card(ret, term.cards[j]);
		for (size_t j = 0; !term.card_count && j < term.size_count; j++)
			cfg_wish_add_size(ret, term.sizes[j]);
		if (!*ret->unknown)
			memcpy(ret->unknown, term.unknown, sizeof ret->unknown);
	}
}

void cfg_wish_from_spec(const json_t *spec, const struct cfg_catalog *catalog, struct cfg_wish *ret)
{
	const json_t *node = json_object_get(json_object_get(spec, "affinity"), "nodeAffinity");
	const json_t *required = json_object_get(node, "requiredDuringSchedulingIgnoredDuringExecution");

	cfg_wish_from_labels(json_object_get(spec, "nodeSelector"), catalog, ret);
	if (cfg_wish_is_empty(ret))
		read_affinity(json_object_get(required, "nodeSelectorTerms"), catalog, ret);
}

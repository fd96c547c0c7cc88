/* What /plan searches: a request, what of it may vary, and on which cards. A recipe is a choice of every field that
 * varies but for three that are scaled: the number of GPUs, the batch, the length. */
#ifndef CFG_SPACE_H
#define CFG_SPACE_H

#include "config/config.h"
#include "config/vary.h"

enum cfg_objective { CFG_FEWEST_GPUS, CFG_LARGEST_BATCH, CFG_LONGEST_SEQUENCE, CFG_CHEAPEST };
extern const struct est_word cfg_objective_words[];

enum { CFG_SPACE_GPUS = 1024, CFG_SPACE_LIMIT = 100, CFG_SPACE_LIMIT_DEFAULT = 10, CFG_SPACE_RECIPES = 16384,
       CFG_SPACE_ENTRIES = 262144,
       CFG_SPACE_CARDS = 64, CFG_AXES_MAX = 12, CFG_AXIS_VALUES = 32, CFG_SCALE_VALUES = 1088,
       CFG_RECIPE_CHANGES = 24 };

/* One field and the values that it takes; "offload" is two fields at once. */
struct cfg_axis {
	const char *name;
	const struct est_field *field; /* NULL: offload */
	size_t count;
	double values[CFG_AXIS_VALUES];
};

/* A field of which more needs more (fewer GPUs too), ascending. */
struct cfg_scale {
	size_t count;
	int64_t values[CFG_SCALE_VALUES];
};

struct cfg_space {
	struct cfg_request base;
	json_t *request;              /* as it was sent; kept */
	const struct cfg_catalog *catalog;
	enum cfg_objective objective;
	int64_t max_gpus;
	size_t limit;
	size_t axis_count;
	struct cfg_axis axes[CFG_AXES_MAX];
	struct cfg_scale gpus, batches, lengths;
	double price[CFG_SPACE_CARDS]; /* US dollars an hour of one card; NAN: not known */
	size_t recipe_count;          /* product of the axes */
};

struct cfg_recipe {
	size_t change_count;
	struct cfg_change changes[CFG_RECIPE_CHANGES]; /* in the order of the fields */
	const struct est_field *rows[CFG_RECIPE_CHANGES]; /* of the changes */
	bool alone;                   /* strategy none: one data-parallel rank; else several */
};

/* {"request": {...}, "gpus"?, "max_gpus"?, "vary"?, "objective"?, "limit"?, "prices"?} -> space. All faults at once,
 * by their pointers. False with faults, or without when memory is short. */
bool cfg_space_init(struct cfg_space *space, const json_t *body, const struct cfg_catalog *catalog,
		    struct est_faults *faults);
void cfg_space_finish(struct cfg_space *space);

/* Recipe i of recipe_count. False when another is the same (a rank where there are no adapters). */
bool cfg_space_recipe(const struct cfg_space *space, size_t i, struct cfg_recipe *ret);

/* Adds the number of GPUs, the batch and the length to a recipe's changes, as far as they are not the request's own. */
void cfg_recipe_scale(const struct cfg_space *space, int64_t gpus, int64_t batch, int64_t length,
		      struct cfg_recipe *recipe);

/* The request with a recipe's changes, for one card, as it may be sent to /estimate. New reference; NULL when memory
 * is short. */
json_t *cfg_space_request(const struct cfg_space *space, const struct cfg_recipe *recipe, const struct est_gpu *card);

#endif

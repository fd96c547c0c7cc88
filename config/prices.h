/* What a GPU costs an hour, for who asks for the cheapest: one published figure for each card that is commonly let,
 * with where and when it was read. Prices differ several times over between providers; a request may bring its own. */
#ifndef CFG_PRICES_H
#define CFG_PRICES_H

#include <stddef.h>

struct cfg_price {
	const char *gpu;         /* id of gpus.json */
	double usd_per_hour;     /* one GPU, on demand, without commitment */
	const char *source, *date;
};

/* The table, by id; how many rows. */
const struct cfg_price *cfg_prices(size_t *ret_count);
/* The row of a card; NULL when there is none. */
const struct cfg_price *cfg_price_find(const char *gpu);

#endif

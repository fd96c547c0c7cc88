#include "config/prices.h"
#include <string.h>

#define RUNPOD "runpod.io/pricing, Community Cloud"
#define AKASH "akash.network/pricing/gpus"
#define VERDA "verda.com/pricing"

/* clang-format off */
static const struct cfg_price rows[] = {
	{ "a100-pcie-80gb", 1.19, RUNPOD, "2026-11-09" },
	{ "a100-sxm4-40gb", 1.00, RUNPOD, "2026-08-19" },
	{ "a100-sxm4-80gb", 1.39, RUNPOD, "2026-11-09" },
	{ "a40", 0.44, "runpod.io/pricing, Secure Cloud", "2026-08-19" },
	{ "b200-sxm-180gb", 5.98, RUNPOD, "2026-08-19" },
	{ "b300-sxm-288gb", 6.94, RUNPOD, "2026-08-19" },
	{ "h100-nvl-94gb", 2.59, RUNPOD, "2026-11-09" },
	{ "h100-pcie-80gb", 1.99, RUNPOD, "2026-11-09" },
	{ "h100-sxm5-80gb", 2.69, RUNPOD, "2026-11-09" },
	{ "h200-sxm-141gb", 3.59, RUNPOD, "2026-03-10" },
	{ "l4", 0.44, RUNPOD, "2026-03-10" },
	{ "l40", 0.69, RUNPOD, "2026-03-10" },
	{ "l40s", 0.79, RUNPOD, "2026-03-10" },
	{ "quadro-rtx-8000", 0.21, AKASH, "2026-09-20" },
	{ "rtx-3090", 0.22, RUNPOD, "2026-03-10" },
	{ "rtx-4090", 0.34, RUNPOD, "2026-03-10" },
	{ "rtx-5090", 0.69, RUNPOD, "2026-03-10" },
	{ "rtx-a6000", 0.82, VERDA, "2026-10-29" },
	{ "rtx-pro-6000-blackwell-server", 2.04, AKASH, "2026-09-20" },
	{ "rtx-pro-6000-blackwell-workstation", 1.45, AKASH, "2026-09-20" },
};
/* clang-format on */

const struct cfg_price *cfg_prices(size_t *ret_count)
{
	*ret_count = sizeof(rows) / sizeof(rows[0]);
	return rows;
}

const struct cfg_price *cfg_price_find(const char *gpu)
{
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (!strcmp(rows[i].gpu, gpu))
			return &rows[i];
	return NULL;
}

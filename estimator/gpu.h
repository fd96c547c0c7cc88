/* One accelerator, as the estimator sees it. Filled by config/catalog.c from gpus.json or from a bare size. */
#ifndef EST_GPU_H
#define EST_GPU_H

#include <stdbool.h>
#include <stdint.h>

enum est_vendor { EST_NVIDIA, EST_AMD, EST_APPLE, EST_INTEL, EST_GOOGLE, EST_AWS,
		  EST_HABANA /* Intel's Gaudi: a runtime of its own */ };
enum est_gpu_kind { EST_DISCRETE, EST_UNIFIED, EST_MIG };

struct est_gpu {
	const char *id;              /* borrowed from the catalogue */
	const char *name;
	enum est_vendor vendor;
	enum est_gpu_kind kind;
	int64_t compute_capability;  /* 10 * major + minor, NVIDIA only (Hopper 90, consumer Blackwell 120); else 0 */
	uint64_t memory_bytes;       /* what the driver says, or the planning figure */
	uint64_t usable_bytes;       /* what one process can have of it; Apple: the default Metal limit */
	bool bf16, fp8;
	bool fast_links;             /* NVLink, Infinity Fabric, ...: the cards of a node do not talk over PCIe */
};

#endif

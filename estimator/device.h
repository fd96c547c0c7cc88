/* What depends on the card: memory beside the caching allocator's, the cuBLAS workspaces within it, and which recipes
 * a card cannot run. THEORY 8.1-8.3. */
#ifndef EST_DEVICE_H
#define EST_DEVICE_H

#include <stdbool.h>
#include "estimator/gpu.h"
#include "estimator/report.h"
#include "estimator/request.h"

enum { EST_WORKSPACES = 2 }; /* one for the thread of the forward pass, one for autograd's */

/* Bytes of one cuBLAS (hipBLAS) workspace, allocated through the caching allocator with the first matrix product of a
 * thread; 0 where there is no such thing (Metal, XLA). */
uint64_t est_device_workspace(const struct est_gpu *gpu);

/* Driver context and loaded kernels of one process: outside the allocator, on every card. Provisional figures, hence
 * the range. */
struct est_range est_device_context(const struct est_gpu *gpu);

/* Buffers of the communicators (NCCL, RCCL, oneCCL) of one rank, outside the allocator; 0 on one card. */
struct est_range est_device_communication(const struct est_gpu *gpu, const struct est_parallelism *parallelism);

/* Context and communication together: device - reserved. */
struct est_range est_device_outside(const struct est_gpu *gpu, const struct est_parallelism *parallelism);

/* What PyTorch's SDPA may choose from on a card, each with what stands before it. */
enum est_sdpa_choice {
	EST_SDPA_LACKS_FLASH,    /* its memory-efficient kernel: NVIDIA before Ampere */
	EST_SDPA_HAS_FLASH,      /* flash: NVIDIA from Ampere on, AMD's CDNA; taken for granted elsewhere */
	EST_SDPA_PREFERS_CUDNN,  /* cuDNN's first: Hopper, and Blackwell of data centres, with PyTorch 2.11 and later */
	EST_SDPA_CHOICES
};

/* What the request's sdpa chooses from on the card; flash where the request's attention is not for sdpa to choose. */
enum est_sdpa_choice est_device_sdpa(const struct est_gpu *gpu, const struct est_request *request);

/* Why the card cannot run the recipe, or not as it is modelled; NULL when it can. Static text, a clause without the
 * full stop. */
const char *est_device_refuses(const struct est_gpu *gpu, const struct est_request *request);

#endif

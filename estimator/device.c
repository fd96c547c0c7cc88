#include "estimator/device.h"

static const uint64_t mib = 1 << 20;

struct mib_range {
	uint64_t low, expected, high;
};

/* The first row of the vendor whose compute capability is not above the card's; 0 holds for unknown ones too. NVIDIA:
 * lazily loaded kernels (CUDA 11.7 on), 150 MiB more or less by what the step loads. AMD: HIP runtime with its code
 * objects. Apple: Metal's heaps and command buffers. Google: what XLA reserves at the top of memory (258 and 528 MiB
 * are told by its own messages). The others: wide, for want of measurements. */
static const struct {
	enum est_vendor vendor;
	int64_t capability;
	struct mib_range context;
} contexts[] = {
	{ EST_NVIDIA, 120, { 330, 480, 700 } },
	{ EST_NVIDIA, 100, { 450, 600, 750 } },
	{ EST_NVIDIA, 90, { 370, 520, 670 } },
	{ EST_NVIDIA, 89, { 280, 430, 580 } },
	{ EST_NVIDIA, 86, { 230, 380, 530 } },
	{ EST_NVIDIA, 80, { 300, 450, 600 } },
	{ EST_NVIDIA, 75, { 200, 330, 550 } },
	{ EST_NVIDIA, 70, { 250, 380, 600 } },
	{ EST_NVIDIA, 60, { 180, 300, 550 } },
	{ EST_NVIDIA, 0, { 250, 450, 750 } },
	{ EST_AMD, 0, { 300, 600, 1200 } },
	{ EST_APPLE, 0, { 50, 200, 600 } },
	{ EST_INTEL, 0, { 200, 500, 1200 } },
	{ EST_GOOGLE, 0, { 258, 528, 1024 } },
	{ EST_AWS, 0, { 256, 512, 1536 } },
	{ EST_HABANA, 0, { 256, 512, 1536 } },
};

/* Of one communicator for collectives, and of what each further one adds. Measured: NVLink 544 MB for two ranks, 688 MB
 * for more, PCIe 150 to 300 MiB; RCCL 1 GiB and 0.65 GiB. TPU and Neuron runtimes have theirs in the program, Metal
 * has none. */
static const struct {
	enum est_vendor vendor;
	bool fast_links;
	struct mib_range first, further;
} communicators[] = {
	{ EST_NVIDIA, true, { 307, 614, 922 }, { 307, 614, 922 } },
	{ EST_NVIDIA, false, { 150, 230, 310 }, { 150, 230, 310 } },
	{ EST_AMD, true, { 614, 1024, 1536 }, { 400, 666, 1000 } },
	{ EST_AMD, false, { 300, 614, 1024 }, { 200, 400, 700 } },
	{ EST_INTEL, true, { 200, 512, 1024 }, { 200, 512, 1024 } },
	{ EST_INTEL, false, { 150, 300, 614 }, { 150, 300, 614 } },
};

/* Of a group that sends point to point or all to all: channels for every peer. */
static const struct mib_range peer_group = { 1024, 1536, 3072 };

static struct est_range times(struct mib_range range, uint64_t count)
{
	return (struct est_range){ range.low * count * mib, range.expected * count * mib, range.high * count * mib };
}

static struct est_range sum(struct est_range one, struct est_range other)
{
	return (struct est_range){ one.low + other.low, one.expected + other.expected, one.high + other.high };
}

uint64_t est_device_workspace(const struct est_gpu *gpu)
{
	if (gpu->vendor == EST_NVIDIA)
		return gpu->compute_capability >= 90 ? 32 * mib : 8519680; /* :4096:2:16:8, in KiB */
	return gpu->vendor == EST_AMD ? 32 * mib : 0;
}

struct est_range est_device_context(const struct est_gpu *gpu)
{
	for (size_t i = 0; i < sizeof(contexts) / sizeof(contexts[0]); i++)
		if (contexts[i].vendor == gpu->vendor && contexts[i].capability <= gpu->compute_capability)
			return times(contexts[i].context, 1);
	return (struct est_range){ 0, 0, 0 };
}

struct est_range est_device_communication(const struct est_gpu *gpu, const struct est_parallelism *parallelism)
{
	bool shares = parallelism->strategy != EST_SINGLE || parallelism->tensor > 1; /* else a stage talks to its neighbours alone */
	uint64_t collective, peers;

	if (parallelism->gpus <= 1)
		return (struct est_range){ 0, 0, 0 };
	collective = (uint64_t)(parallelism->strategy != EST_SINGLE) + (uint64_t)(parallelism->strategy == EST_HSDP)
		     + (uint64_t)(parallelism->tensor > 1);
	peers = (uint64_t)(parallelism->pipeline > 1) + (uint64_t)(parallelism->context > 1)
		+ (uint64_t)(parallelism->expert > 1);
	for (size_t i = 0; i < sizeof(communicators) / sizeof(communicators[0]); i++)
		if (communicators[i].vendor == gpu->vendor && communicators[i].fast_links == gpu->fast_links)
			return sum(sum(times(communicators[i].first, shares), times(communicators[i].further, collective - shares)),
				   times(peer_group, peers));
	return (struct est_range){ 0, 0, 0 };
}

struct est_range est_device_outside(const struct est_gpu *gpu, const struct est_parallelism *parallelism)
{
	return sum(est_device_context(gpu), est_device_communication(gpu, parallelism));
}

/* check_prefer_cudnn_attention() has been there since 2.10, and wants cuDNN 9.15.1: wheels have it from 2.11 on */
static bool prefers_cudnn(const struct est_gpu *gpu, const struct est_versions *versions)
{
	int64_t generation = gpu->compute_capability / 10;

	return gpu->vendor == EST_NVIDIA && (generation == 9 || generation == 10)
	       && (versions->torch == 0 || versions->torch >= 2011);
}

enum est_sdpa_choice est_device_sdpa(const struct est_gpu *gpu, const struct est_request *request)
{
	if (request->attention != EST_SDPA)
		return EST_SDPA_HAS_FLASH;
	if (gpu->vendor == EST_NVIDIA && gpu->compute_capability && gpu->compute_capability < 80)
		return EST_SDPA_LACKS_FLASH;
	return prefers_cudnn(gpu, &request->versions) ? EST_SDPA_PREFERS_CUDNN : EST_SDPA_HAS_FLASH;
}

/* ---- what a card cannot run */

static bool is_older(const struct est_gpu *gpu, int64_t capability)
{
	return gpu->vendor == EST_NVIDIA && gpu->compute_capability && gpu->compute_capability < capability;
}

static bool runs_xla(const struct est_gpu *gpu)
{
	return gpu->vendor == EST_GOOGLE || gpu->vendor == EST_AWS;
}

/* MLX computes in Metal's bfloat on every chip (mlx/backend/metal/kernels/bf16.h). */
static bool bf16(const struct est_gpu *gpu, const struct est_request *request)
{
	return !gpu->bf16 && request->framework != EST_MLX && (request->precision == EST_BF16_MASTER || request->precision == EST_BF16_MIXED
			      || request->precision == EST_PURE_BF16 || request->precision == EST_BF16_AUTOCAST);
}

static bool fp8(const struct est_gpu *gpu, const struct est_request *request)
{
	return !gpu->fp8 && request->optimizer == EST_ADAMW_FP8;
}

static bool flash_2(const struct est_gpu *gpu, const struct est_request *request)
{
	bool is_foreign = gpu->vendor != EST_NVIDIA && gpu->vendor != EST_AMD;

	return request->attention == EST_FLASH_ATTENTION_2 && (is_older(gpu, 80) || is_foreign);
}

static bool flash_3(const struct est_gpu *gpu, const struct est_request *request)
{
	bool is_hopper = gpu->vendor == EST_NVIDIA && (!gpu->compute_capability || gpu->compute_capability == 90);

	return request->attention == EST_FLASH_ATTENTION_3 && !is_hopper;
}

static bool sdpa_kernel(const struct est_gpu *gpu, const struct est_request *request)
{
	switch (request->attention) {
	case EST_SDPA_FLASH:
		return is_older(gpu, 80) || gpu->vendor == EST_APPLE || runs_xla(gpu);
	case EST_SDPA_EFFICIENT:
		return gpu->vendor == EST_APPLE || runs_xla(gpu);
	case EST_SDPA_CUDNN:
		return is_older(gpu, 80) || gpu->vendor != EST_NVIDIA;
	default:
		return false;
	}
}

static bool triton(const struct est_gpu *gpu, const struct est_request *request)
{
	bool wanted = request->torch_compile || request->liger_kernel || request->loss == EST_LOSS_LIGER
		|| request->loss == EST_LOSS_CUT_CROSS_ENTROPY || request->attention == EST_FLEX_ATTENTION;

	return wanted && (is_older(gpu, 70) || gpu->vendor == EST_APPLE || runs_xla(gpu));
}

static bool cut_cross_entropy(const struct est_gpu *gpu, const struct est_request *request)
{
	return request->loss == EST_LOSS_CUT_CROSS_ENTROPY && is_older(gpu, 80);
}

static bool bitsandbytes_optimizer(const struct est_gpu *gpu, const struct est_request *request)
{
	bool wanted = request->optimizer == EST_ADAMW_8BIT || request->optimizer == EST_PAGED_ADAMW_32BIT
		|| request->optimizer == EST_PAGED_ADAMW_8BIT || request->optimizer == EST_LION
		|| request->optimizer == EST_LION_8BIT;

	return wanted && (gpu->vendor == EST_APPLE || runs_xla(gpu));
}

static bool bitsandbytes_weights(const struct est_gpu *gpu, const struct est_request *request)
{
	return request->method == EST_QLORA && request->framework != EST_MLX && runs_xla(gpu);
}

static bool int8_weights(const struct est_gpu *gpu, const struct est_request *request)
{
	return request->method == EST_QLORA && request->quantization.type == EST_INT8 && is_older(gpu, 75);
}

static bool torchao_optimizer(const struct est_gpu *gpu, const struct est_request *request)
{
	bool wanted = request->optimizer == EST_ADAMW_4BIT || request->optimizer == EST_ADAMW_FP8
		|| request->optimizer == EST_ADAMW_8BIT_TORCHAO;

	return wanted && (is_older(gpu, 80) || gpu->vendor == EST_APPLE || runs_xla(gpu));
}

static bool collectives(const struct est_gpu *gpu, const struct est_request *request)
{
	return gpu->vendor == EST_APPLE && request->framework != EST_MLX && request->parallelism.gpus > 1;
}

/* ---- what runs otherwise than is replayed: CUDA's figures say nothing of it. The rule of thumb knows none of this. */

/* MPSAllocator packs buffers into heaps of 8 MiB to 1 GiB, and scaled_dot_product_attention is a kernel of its own. */
static bool mps(const struct est_gpu *gpu, const struct est_request *request)
{
	return gpu->vendor == EST_APPLE && request->framework != EST_MLX && request->accounting == EST_REPLAY;
}

/* MLX's CUDA backend has other kernels, another allocator and graphs of its own. */
static bool mlx_elsewhere(const struct est_gpu *gpu, const struct est_request *request)
{
	return gpu->vendor != EST_APPLE && request->framework == EST_MLX && request->accounting == EST_REPLAY;
}

/* The compiler fuses the whole step and lays its buffers out beforehand: no caching allocator is asked. */
static bool xla(const struct est_gpu *gpu, const struct est_request *request)
{
	return runs_xla(gpu) && request->accounting == EST_REPLAY;
}

static bool hpu(const struct est_gpu *gpu, const struct est_request *request)
{
	return gpu->vendor == EST_HABANA && request->accounting == EST_REPLAY;
}

/* XPUCachingAllocator is CUDA's design, but SDPA's training kernels are oneDNN's and SYCL-TLA's, where there are any
 * (torch-xpu-ops issues 1749, 2489 and 3143): what they save is not known, and the math kernel takes far more. */
static bool xpu_attention(const struct est_gpu *gpu, const struct est_request *request)
{
	return gpu->vendor == EST_INTEL && request->attention != EST_EAGER && request->attention != EST_SDPA_MATH
	       && request->accounting == EST_REPLAY;
}

static const struct {
	bool (*cannot)(const struct est_gpu *gpu, const struct est_request *request);
	const char *reason;
} rules[] = {
	{ bf16, "the card has no bf16 arithmetic: use an fp16 precision" },
	{ fp8, "the card has no fp8 arithmetic" },
	{ flash_2, "FlashAttention 2 needs CUDA of compute capability 8.0 or ROCm" },
	{ flash_3, "FlashAttention 3 needs a Hopper card" },
	{ sdpa_kernel, "this kernel of scaled_dot_product_attention does not run on the card" },
	{ triton, "Triton, which the compiled kernels need, does not support the card" },
	{ cut_cross_entropy, "cut cross entropy needs compute capability 8.0" },
	{ bitsandbytes_optimizer, "bitsandbytes has no optimizer kernels for the card" },
	{ bitsandbytes_weights, "bitsandbytes does not support the card" },
	{ int8_weights, "LLM.int8() needs compute capability 7.5" },
	{ torchao_optimizer, "torchao's low-bit optimizers need compute capability 8.0, ROCm or XPU" },
	{ collectives, "PyTorch has no collective communication between Apple's GPUs" },
	{ mlx_elsewhere, "mlx is modelled on Apple's GPUs: MLX's CUDA backend is not" },
	{ mps, "PyTorch's allocator and attention on Apple's GPUs (MPS) are not modelled: the replay is of CUDA's" },
	{ xla, "XLA and Neuron compile the step and lay its memory out themselves, which is not modelled: the replay is of CUDA's" },
	{ hpu, "PyTorch's allocator and attention on Gaudi (HPU) are not modelled: the replay is of CUDA's" },
	{ xpu_attention, "PyTorch's fused attention on Intel's GPUs (XPU) is not modelled: eager and sdpa_math are" },
};

const char *est_device_refuses(const struct est_gpu *gpu, const struct est_request *request)
{
	for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++)
		if (rules[i].cannot(gpu, request))
			return rules[i].reason;
	return NULL;
}

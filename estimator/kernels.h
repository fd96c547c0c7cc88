/* Layers that are no attention as packages of kernels run them: causal-conv1d, flash-linear-attention and mamba-ssm, each where
 * Transformers finds it installed (use_kernel_func_from_hub_with_fallback of its hub_kernels.py). Each is one autograd function,
 * whose kernels leave no trace in memory but what its Python code allocates for them. As in ops.h, results are temporary. */
#ifndef EST_KERNELS_H
#define EST_KERNELS_H

#include "estimator/pass.h"

/* causal_conv1d_fn() of causal-conv1d: x, permuted and borrowed, and weight as they are, the activation within. */
struct est_tensor est_kernel_conv(struct est_tape *tape, const struct est_mixer *mixer, struct est_tensor x);

/* chunk_gated_delta_rule() of flash-linear-attention: qkv are views of the convolution's result; all are borrowed. */
struct est_tensor est_kernel_delta_rule(struct est_pass *pass, const struct est_tensor qkv[3], struct est_tensor g,
					struct est_tensor beta);

/* The same of chunk_kda(): each feature decays by itself. */
struct est_tensor est_kernel_kimi_delta(struct est_pass *pass, const struct est_tensor qkv[3], struct est_tensor g,
					struct est_tensor beta);

/* mamba_split_conv1d_scan_combined() of mamba-ssm, with out_proj in it: projected and a are borrowed. */
struct est_tensor est_kernel_mamba2(struct est_pass *pass, const struct est_mixer *mixer, struct est_tensor projected,
				    struct est_tensor a);

/* Whether the model's mixers are run by it: out_proj's weight is taken then and its module passed by, with what adapts it. */
bool est_kernel_runs_mamba2(const struct est_request *request, const struct est_model *model);

/* Says which packages the replay has, and by what fields a run names those that it lacks. */
void est_kernels_note(const struct est_request *request, const struct est_model *model, struct est_report *report);

/* Adds what the packages that are named do not go with. */
void est_kernels_check(const struct est_request *request, const struct est_model *model, struct est_faults *faults);

#endif

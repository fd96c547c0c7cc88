#include "estimator/mlx.h"

#include <string.h>
#include "estimator/mlx_compile.h"
#include "estimator/mlx_step.h"

/* Arrays of a layer with its gradients, and of the update of a parameter, at most; and of the rest. */
enum { ARRAYS_OF_FROZEN = 128, ARRAYS_OF_TRAINED = 640, ARRAYS_OF_UPDATE = 64, ARRAYS_BESIDE = 256 };

/* ---- the step */

static uint32_t arrays_for(const struct est_mlx_step *step)
{
	uint64_t layers = (uint64_t)step->model->num_hidden_layers, trained = layers - (uint64_t)step->first_trained;

	return (uint32_t)(layers * ARRAYS_OF_FROZEN + trained * (ARRAYS_OF_TRAINED + ARRAYS_OF_UPDATE * EST_MLX_TRAINED_MAX) + ARRAYS_BESIDE);
}

static bool make_step(struct est_mlx_step *step, const struct est_request *request, const struct est_model *model, bool fused_loss,
		      struct est_arena *arena)
{
	uint64_t trained;

	*step = (struct est_mlx_step){ .request = request, .model = model, .batch = (uint64_t)request->micro_batch_size,
				       .length = (uint64_t)request->sequence_length, .fused_loss = fused_loss,
				       .type = request->precision == EST_PURE_FP16 ? EST_MLX_F16
					       : request->precision == EST_PURE_FP32 ? EST_MLX_F32 : EST_MLX_BF16 };
	step->first_trained = model->num_hidden_layers - est_mlx_trained_layers(request, model);
	trained = (uint64_t)est_mlx_trained_layers(request, model) * EST_MLX_TRAINED_MAX;
	step->layers = est_arena_take(arena, (size_t)model->num_hidden_layers, sizeof(*step->layers));
	step->trained = est_arena_reserve(arena, trained, sizeof(uint32_t));
	step->gradients = est_arena_take(arena, trained, sizeof(uint32_t));
	step->outputs = est_arena_reserve(arena, 4 * trained + 4, sizeof(uint32_t));
	if (!step->layers || !step->trained || !step->gradients || !step->outputs
	    || !est_mlx_graph_init(&step->graph, arena, arrays_for(step)))
		return false;
	step->graph.again = est_mlx_layer_again;
	step->graph.context = step;
	return est_mlx_load(step);
}

/* Gradients of the micro-batches before are there to be added to, and the sum is divided. */
static void accumulate(struct est_mlx_step *step)
{
	struct est_mlx_graph *graph = &step->graph;

	for (uint32_t i = 0; i < step->trained_count; i++) {
		const struct est_mlx_array *gradient = est_mlx_at(graph, step->gradients[i]);
		uint32_t before = est_mlx_leaf(graph, gradient->type, gradient->shape, EST_GRADIENTS, false), sum;

		sum = est_mlx_binary(graph, EST_MLX_ADD, step->gradients[i], before);
		step->gradients[i] = est_mlx_scaled(graph, EST_MLX_DIVIDE, sum, (double)step->request->gradient_accumulation_steps);
		est_mlx_at(graph, sum)->category = EST_GRADIENTS;
	}
}

/* step() of mlx_lm/tuner/trainer.py: the call that updates, which has all that other calls have alive, and more. Python gets the loss
 * first, then the state. */
static bool build(struct est_mlx_step *step)
{
	struct est_mlx_graph *graph = &step->graph;
	struct est_mlx_shape ids = EST_MLX_SHAPE(step->batch, step->length + 1);
	uint32_t batch = est_mlx_leaf(graph, EST_MLX_I32, ids, EST_BUFFERS, true), results[2], in, logits;
	uint32_t lengths = est_mlx_leaf(graph, EST_MLX_I32, EST_MLX_SHAPE(step->batch, 2), EST_BUFFERS, true);

	ids.size[1]--;
	in = est_mlx_new(graph, EST_MLX_SLICE, EST_MLX_I32, ids, 0, 1, &batch);
	logits = est_mlx_forward(step, in);
	est_mlx_loss(step, logits, est_mlx_new(graph, EST_MLX_SLICE, EST_MLX_I32, ids, 1, 1, &batch), lengths, results);
	graph->phase = EST_PHASE_LOSS_BACKWARD;
	est_mlx_vjp(graph, results, 2, est_mlx_scalar(graph, EST_MLX_F32, 1), step->trained, step->trained_count, step->gradients);
	for (uint32_t i = 0; i < step->trained_count; i++)
		est_mlx_at(graph, step->gradients[i])->category = EST_GRADIENTS;
	if (step->request->gradient_accumulation_steps > 1)
		accumulate(step);
	memcpy(step->outputs, results, sizeof(results));
	step->output_count = 2;
	est_mlx_update(step);
	return !graph->exhausted && est_mlx_compile(graph, step->outputs, step->output_count);
}

/* mx.eval(state, losses, n_tokens): the sums of losses and tokens of the steps so far come last. */
static void order_outputs(struct est_mlx_step *step)
{
	struct est_mlx_graph *graph = &step->graph;
	uint32_t results[2] = { step->outputs[0], step->outputs[1] };

	memmove(step->outputs, step->outputs + 2, (step->output_count - 2) * sizeof(uint32_t));
	for (unsigned i = 0; i < 2; i++) {
		uint32_t sum = est_mlx_leaf(graph, est_mlx_at(graph, results[i])->type, (struct est_mlx_shape){ 0 }, EST_BUFFERS, false);

		step->outputs[step->output_count - 2 + i] = est_mlx_binary(graph, EST_MLX_ADD, sum, results[i]);
	}
}

bool est_mlx_run(const struct est_request *request, const struct est_model *model, const struct est_mlx_setting *setting,
		     struct est_arena *arena, const struct est_mlx_sink *sink)
{
	size_t mark = arena->used;
	struct est_mlx_step step;
	bool whole = make_step(&step, request, model, setting->fused_loss, arena) && build(&step);

	if (whole) {
		order_outputs(&step);
		whole = est_mlx_eval(&step.graph, step.outputs, step.output_count, setting->device, sink);
	}
	est_arena_rewind(arena, mark);
	return whole;
}

uint32_t est_mlx_most_buffers(const struct est_request *request, const struct est_model *model)
{
	const struct est_mlx_step step = { .model = model, .first_trained = model->num_hidden_layers - est_mlx_trained_layers(request, model) };

	return arrays_for(&step);
}

/* ---- its peak */

struct peak {
	uint64_t alive, most;
	uint64_t *bytes;
};

static void peak_alloc(void *context, uint32_t buffer, uint64_t bytes, enum est_category category, enum est_phase phase)
{
	struct peak *peak = context;

	(void)category;
	(void)phase;
	peak->bytes[buffer] = bytes;
	peak->alive += bytes;
	if (peak->alive > peak->most)
		peak->most = peak->alive;
}

static void peak_free(void *context, uint32_t buffer)
{
	struct peak *peak = context;

	peak->alive -= peak->bytes[buffer];
}

bool est_mlx_peak(const struct est_request *request, const struct est_model *model, const struct est_mlx_setting *setting,
		  struct est_arena *arena, uint64_t *ret_bytes)
{
	size_t mark = arena->used;
	struct peak peak = { 0 };
	const struct est_mlx_sink sink = { &peak, peak_alloc, peak_free, NULL };
	bool whole;

	peak.bytes = est_arena_reserve(arena, est_mlx_most_buffers(request, model), sizeof(uint64_t));
	whole = peak.bytes && est_mlx_run(request, model, setting, arena, &sink);
	est_arena_rewind(arena, mark);
	*ret_bytes = peak.most;
	return whole;
}

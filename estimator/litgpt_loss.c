/* The head and the losses of litgpt/finetune/lora.py and full.py, with Lightning's precision plugin around the
 * model. */
#include "estimator/litgpt.h"
#include "estimator/loss.h"
#include "estimator/split.h"

enum { CHUNK = 128 };

static void drop_all(struct est_tape *tape, const struct est_tensor list[], uint64_t count)
{
	for (uint64_t i = count; i-- > 0;)
		est_drop(tape, list[i]);
}

/* ---- pieces of both */

/* precision.convert_output(): in the default type, whatever the model returns. list moves in and out. */
static void convert_output(struct est_pass *pass, struct est_tensor list[], uint64_t count)
{
	struct est_tensor *converted = est_arena_take(pass->tape->arena, count, sizeof(*converted));

	if (!pass->request->outputs_to_fp32 || !converted)
		return;
	for (uint64_t i = 0; i < count; i++)
		converted[i] = est_hold(est_to(pass->tape, list[i], EST_32BIT));
	drop_all(pass->tape, list, count);
	for (uint64_t i = 0; i < count; i++)
		list[i] = converted[i];
}

/* A variable of the training loop, bound anew in the next turn: it lives as long as the graph. x moves in. */
static void keep_in_loop(struct est_tape *tape, struct est_tensor x)
{
	est_attach(tape, &tape->scratch, x);
	est_drop(tape, x);
}

/* logits[..., :-1, :].reshape(): a copy unless it is of one sequence. logits is borrowed; held. */
static struct est_tensor without_last(struct est_pass *pass, struct est_tensor logits)
{
	struct est_tensor view = est_slice(pass->tape, logits, logits.numel - pass->batch * pass->lm_head.out);

	return est_hold(pass->batch > 1 ? est_contiguous(pass->tape, view) : view);
}

/* torch.cat(loss_chunks).sum(), of cross_entropy(chunk, reduction="none") of each, which keeps what one with a mean
 * does. Chunks are borrowed; held. */
static struct est_tensor chunked_cross_entropy(struct est_pass *pass, const struct est_tensor chunk[], uint64_t count)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor *loss = est_arena_take(tape->arena, count, sizeof(*loss)), sum;

	if (!loss)
		return est_variable(tape, 1, EST_32BIT);
	for (uint64_t i = 0; i < count; i++)
		loss[i] = est_hold(est_cross_entropy(tape, chunk[i], pass->input_ids));
	sum = loss[0];
	for (uint64_t i = 1; i < count; i++) {
		struct est_tensor next = est_hold(est_add(tape, sum, loss[i]));

		est_drop(tape, sum);
		est_drop(tape, loss[i]);
		sum = next;
	}
	return sum;
}

/* ---- finetune/lora.py: [lm_head(x_i) for x_i in x.split(128, dim=1)]. hidden moves in. */

static struct est_tensor head_in_chunks(struct est_pass *pass, struct est_tensor hidden)
{
	struct est_tape *tape = pass->tape;
	uint64_t count;
	struct est_tensor *x = est_split_rows(tape, hidden, pass->sequence, CHUNK, pass->batch * pass->lm_head.in,
					      &count), last, loss;
	struct est_tensor *logits = est_arena_take(tape->arena, count, sizeof(*logits));

	if (!x || !logits)
		return hidden;
	for (uint64_t i = 0; i < count; i++) {
		logits[i] = est_hold(est_linear(tape, &pass->lm_head, x[i]));
		est_drop(tape, x[i]);
	}
	est_drop(tape, hidden);
	convert_output(pass, logits, count);
	est_litgpt_drop_previous(pass); /* logits = model(...) */
	last = logits[count - 1];
	logits[count - 1] = without_last(pass, last);
	loss = chunked_cross_entropy(pass, logits, count);
	est_drop(tape, logits[count - 1]);
	logits[count - 1] = last;
	for (uint64_t i = 0; i < count; i++)
		keep_in_loop(tape, logits[i]);
	return loss;
}

/* ---- finetune/full.py: whole logits, their cross entropy in chunks of rows. hidden moves in. */

static struct est_tensor whole_head(struct est_pass *pass, struct est_tensor hidden)
{
	struct est_tape *tape = pass->tape;
	uint64_t count;
	struct est_tensor logits = est_hold(est_linear(tape, &pass->lm_head, hidden)), flat, *chunks, loss;

	est_drop(tape, hidden);
	convert_output(pass, &logits, 1);
	est_litgpt_drop_previous(pass);
	flat = without_last(pass, logits);
	chunks = est_split_rows(tape, flat, est_shifted_positions(pass), CHUNK, pass->lm_head.out, &count);
	if (!chunks)
		return flat;
	loss = chunked_cross_entropy(pass, chunks, count);
	drop_all(tape, chunks, count);
	est_drop(tape, flat);
	keep_in_loop(tape, logits);
	return loss;
}

struct est_tensor est_litgpt_loss(struct est_pass *pass, struct est_tensor hidden)
{
	bool adapts = est_has_adapters(pass->request);

	hidden = est_hold(est_head_input(pass->tape, hidden));
	return adapts ? head_in_chunks(pass, hidden) : whole_head(pass, hidden);
}

/* ---- the batch before: the loop's variable logits holds its logits until those of the next batch are all there,
 * and by their graph the inputs that bitsandbytes keeps */

static uint64_t logits_bytes(const struct est_request *request, const struct est_model *model, uint64_t tokens)
{
	return tokens * (uint64_t)model->vocab_size * (request->outputs_to_fp32 ? EST_32BIT : EST_16BIT);
}

/* Of norm_1 (and norm_2), attention and the MLP's middle in each layer, and the head's. */
static uint64_t inputs_bytes(const struct est_request *request, const struct est_model *model, uint64_t tokens)
{
	uint64_t hidden = (uint64_t)model->hidden_size, norms = model->norms_per_layer > 1 ? 2 : 1;
	uint64_t width = norms * hidden + (uint64_t)(model->num_attention_heads * model->head_dim + model->intermediate_size);

	if (request->method != EST_QLORA)
		return 0;
	return tokens * EST_16BIT * ((uint64_t)model->num_hidden_layers * width + hidden);
}

/* The scripts of 2023, of PyTorch 2.1, take the longest sequence of all first: nothing before it, and less after it. */
static uint64_t tokens_before(const struct est_request *request)
{
	enum { TORCH_OF_2024 = 2002 };
	bool longest_first = request->versions.torch != 0 && request->versions.torch < TORCH_OF_2024;

	return longest_first ? 0 : (uint64_t)(request->micro_batch_size * request->sequence_length);
}

void est_litgpt_hold_previous(struct est_pass *pass)
{
	uint64_t tokens = tokens_before(pass->request);

	pass->previous[0] = est_variable(pass->tape, logits_bytes(pass->request, pass->model, tokens), EST_BYTE);
	pass->previous[1] = est_variable(pass->tape, inputs_bytes(pass->request, pass->model, tokens), EST_BYTE);
}

void est_litgpt_drop_previous(struct est_pass *pass)
{
	for (unsigned i = 0; i < 2; i++) {
		est_drop(pass->tape, pass->previous[i]);
		pass->previous[i] = est_none;
	}
}

uint64_t est_litgpt_leftover(const struct est_request *request, const struct est_model *model)
{
	uint64_t tokens = tokens_before(request);

	return logits_bytes(request, model, tokens) + inputs_bytes(request, model, tokens);
}

/* unsloth_zoo/fused_losses/cross_entropy_loss.py: a chunk of positions at a time, their logits, and in the same
 * compiled graph the gradients. How it is fused is Inductor's business: no trace has been held against the chunk's
 * temporaries. */
#include "estimator/loss.h"
#include "estimator/unsloth.h"

/* Chunks are made so that fp32 logits take at most so much: half of what is free, and no more than this. */
static const uint64_t target_bytes = UINT64_C(4) << 30;

/* All but the last are alike, and what one leaves behind the next one finds: more of them change nothing. */
enum { CHUNKS_TRACED = 128 };

static uint64_t chunk_of(uint64_t positions, uint64_t vocabulary)
{
	uint64_t bytes = 4 * positions * vocabulary, chunks = (bytes + target_bytes - 1) / target_bytes;

	chunks = chunks <= 1 ? 1 : (chunks + 3) / 4 * 4;
	return (positions + chunks - 1) / chunks;
}

uint64_t est_unsloth_surplus(const struct est_pass *pass)
{
	uint64_t vocabulary = (uint64_t)pass->model->vocab_size;

	return est_unsloth_wanted(pass->request) ? chunk_of(pass->tokens, vocabulary) * vocabulary * EST_32BIT : 0;
}

/* inputs x; grad_inputs * scale */
static const struct est_op fused_op = { "UnslothFusedLoss", est_backward_like_input };

/* Logits in 16 bits, each row's maximum and sum, the gradient of the logits, that of the positions */
static void run_chunk(struct est_tape *tape, uint64_t positions, uint64_t vocabulary, uint64_t hidden)
{
	struct est_tensor logits = est_empty(tape, positions * vocabulary, EST_16BIT), rows[2], grad, grad_x;

	for (unsigned i = 0; i < 2; i++)
		rows[i] = est_empty(tape, positions, EST_32BIT);
	grad = est_empty(tape, positions * vocabulary, EST_16BIT);
	est_drop(tape, logits);
	grad_x = est_empty(tape, positions * hidden, EST_16BIT);
	est_drop(tape, grad);
	est_drop(tape, rows[0]);
	est_drop(tape, rows[1]);
	est_drop(tape, grad_x);
}

/* x is released when temporary */
static struct est_tensor fused_cross_entropy(struct est_pass *pass, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	const struct est_linear *head = &pass->lm_head;
	struct est_node *node = est_node_new(tape, &fused_op, 1, &x);
	struct est_tensor labels = est_empty_as(tape, pass->tokens, EST_INT64, EST_BUFFERS), grad_inputs;
	uint64_t chunk = chunk_of(pass->tokens, head->out), chunks = (pass->tokens + chunk - 1) / chunk;
	uint64_t alike = chunks > CHUNKS_TRACED ? chunks - CHUNKS_TRACED : 0;

	grad_inputs = est_empty(tape, x.numel, x.element);
	for (uint64_t done = alike * chunk; done < pass->tokens; done += chunk)
		run_chunk(tape, pass->tokens - done < chunk ? pass->tokens - done : chunk, head->out, head->in);
	est_save(tape, node, grad_inputs);
	est_drop(tape, grad_inputs);
	est_drop(tape, labels);
	est_finish(tape, x);
	return est_output(tape, node, 0, est_empty(tape, 1, EST_32BIT));
}

struct est_tensor est_unsloth_loss(struct est_pass *pass, struct est_tensor hidden)
{
	return est_loss_at_once(pass, hidden, fused_cross_entropy);
}

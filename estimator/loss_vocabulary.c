/* prime-rl's fused head (trainer/models/layers/lm_head.py, _ChunkedLogProbEntropyFn): log-probabilities of all
 * positions, a chunk of 2,048 words at a time, in plain PyTorch. A loop's variables keep their old value until the
 * new one is there. */
#include "estimator/loss.h"

enum { CHUNK_WORDS = 2048, STATISTICS = 4 };

/* Indices of est_node.extra. */
enum { POSITIONS, VOCABULARY, HIDDEN, ELEMENT };

/* The words of chunk i: all but the last are alike, so that the first three and the last tell all. */
static uint64_t chunk_words(uint64_t i, uint64_t vocabulary)
{
	uint64_t left = vocabulary - i * CHUNK_WORDS;

	return left < CHUNK_WORDS ? left : CHUNK_WORDS;
}

static uint64_t next_chunk(uint64_t i, uint64_t count)
{
	return i >= 2 && i + 2 < count ? count - 1 : i + 1;
}

static uint64_t chunks_of(uint64_t vocabulary)
{
	return (vocabulary + CHUNK_WORDS - 1) / CHUNK_WORDS;
}

/* What both directions begin a chunk with: logits, and logits_f in fp32. */
struct chunk {
	struct est_tensor logits, logits_f, p, grad_logits, grad_w_chunk;
	uint64_t numel;
};

static void make_logits(struct est_tape *tape, struct chunk *chunk, uint64_t numel, uint8_t element)
{
	chunk->numel = numel;
	est_assign(tape, &chunk->logits, est_empty(tape, numel, element));
	est_assign(tape, &chunk->logits_f, est_empty(tape, numel, EST_32BIT));
}

static void drop_chunk(struct est_tape *tape, const struct chunk *chunk)
{
	est_drop(tape, chunk->logits);
	est_drop(tape, chunk->logits_f);
	est_drop(tape, chunk->p);
	est_drop(tape, chunk->grad_logits);
	est_drop(tape, chunk->grad_w_chunk);
}

/* p = exp(logits_f - logz); grad_logits = -g * p */
static void make_grad_logits(struct est_tape *tape, struct chunk *chunk)
{
	struct est_tensor shifted = est_empty(tape, chunk->numel, EST_32BIT), p = est_empty(tape, chunk->numel, EST_32BIT);

	est_drop(tape, shifted);
	est_assign(tape, &chunk->p, p);
	est_assign(tape, &chunk->grad_logits, est_empty(tape, chunk->numel, EST_32BIT));
}

/* A cast of grad_logits times a slice of the head, or times the hidden states. */
static struct est_tensor product(struct est_tape *tape, const struct chunk *chunk, uint64_t numel, uint8_t element)
{
	struct est_tensor cast = est_empty(tape, chunk->numel, element), out = est_empty(tape, numel, element);

	est_drop(tape, cast);
	return out;
}

static void backward_vocabulary(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	uint64_t positions = node->extra[POSITIONS], width = node->extra[HIDDEN], count = chunks_of(node->extra[VOCABULARY]);
	uint8_t element = (uint8_t)node->extra[ELEMENT];
	struct chunk chunk = { 0 };

	ret[0] = est_grad_for(tape, node, 0, element);
	ret[1] = est_needs(node, 1) ? est_grad_for(tape, node, 1, element)
				    : est_empty(tape, node->extra[VOCABULARY] * width, element); /* of a frozen head too */
	for (uint64_t i = 0; i < count; i = next_chunk(i, count)) {
		uint64_t words = chunk_words(i, node->extra[VOCABULARY]);

		make_logits(tape, &chunk, positions * words, element);
		make_grad_logits(tape, &chunk);
		est_drop(tape, product(tape, &chunk, positions * width, element));
		est_assign(tape, &chunk.grad_w_chunk, product(tape, &chunk, words * width, element));
	}
	drop_chunk(tape, &chunk);
	if (!est_needs(node, 1)) {
		est_drop(tape, ret[1]);
		ret[1] = est_none;
	}
}
static const struct est_op vocabulary_op = { "ChunkedLogProbEntropy", backward_vocabulary };

/* chunk_exp = exp(logits_f - m_new), and its product with logits_f, summed */
static void fold(struct est_tape *tape, const struct chunk *chunk)
{
	struct est_tensor shifted = est_empty(tape, chunk->numel, EST_32BIT),
		chunk_exp = est_empty(tape, chunk->numel, EST_32BIT);

	est_drop(tape, shifted);
	est_drop(tape, est_empty(tape, chunk->numel, EST_32BIT));
	est_drop(tape, chunk_exp);
}

static struct est_tensor log_probabilities(struct est_pass *pass, struct est_tensor hidden)
{
	struct est_tape *tape = pass->tape;
	const struct est_linear *head = &pass->lm_head;
	struct est_tensor in[2] = { hidden, est_leaf_tensor(tape, head->weight) }, statistics[STATISTICS], out;
	struct est_node *node = est_node_new(tape, &vocabulary_op, 2, in);
	uint64_t count = chunks_of(head->out);
	struct chunk chunk = { 0 };

	for (unsigned i = 0; i < STATISTICS; i++)
		statistics[i] = est_empty(tape, pass->tokens, EST_32BIT);
	for (uint64_t i = 0; i < count; i = next_chunk(i, count)) {
		make_logits(tape, &chunk, pass->tokens * chunk_words(i, head->out), hidden.element);
		fold(tape, &chunk);
	}
	out = est_empty(tape, pass->tokens, EST_32BIT);
	est_save(tape, node, in[0]);
	est_save(tape, node, in[1]);
	est_save(tape, node, statistics[0]); /* logz */
	if (node) {
		node->extra[POSITIONS] = pass->tokens;
		node->extra[VOCABULARY] = head->out;
		node->extra[HIDDEN] = head->in;
		node->extra[ELEMENT] = in[1].element;
	}
	drop_chunk(tape, &chunk);
	est_drop_all(tape, statistics, STATISTICS);
	return est_output(tape, node, 0, out);
}

static struct est_tensor mean_of_log_probabilities(struct est_pass *pass, struct est_tensor hidden)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor log_probs = log_probabilities(pass, hidden), loss;

	if (pass->schedule && !pass->schedule->leaves_at_loss)
		log_probs = est_schedule_leave(pass->schedule, est_unit_of_output(pass->schedule), log_probs);
	log_probs = est_hold(log_probs);
	loss = est_sum(tape, est_mul_scalar(tape, log_probs));
	est_drop(tape, log_probs);
	return loss;
}

struct est_tensor est_vocabulary_loss(struct est_pass *pass, struct est_tensor hidden)
{
	return est_loss_at_once(pass, hidden, mean_of_log_probabilities);
}

/* MLX's graph and what it keeps alive, by itself and against traces of mlx-lm's trainer (tests/truth/mlx.jsonl). */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "estimator/mlx.h"
#include "estimator/mlx_compile.h"
#include "tests/catalog.h"
#include "tests/suite.h"

enum { ARENA = 64 << 20 };

static struct est_arena arena;

static void open_arena(void)
{
	open_catalog();
	est_arena_init(&arena, malloc(ARENA), ARENA);
	ck_assert_ptr_nonnull(arena.base);
}

static void close_arena(void)
{
	free(arena.base);
	close_catalog();
}

/* ---- the graph */

/* A leaf of rows x columns in bf16. */
static uint32_t matrix(struct est_mlx_graph *graph, uint64_t rows, uint64_t columns)
{
	return est_mlx_leaf(graph, EST_MLX_BF16, EST_MLX_SHAPE(rows, columns), EST_WEIGHTS, true);
}

START_TEST(broadcasts_and_promotes)
{
	struct est_mlx_graph graph;
	uint32_t wide, sum;

	ck_assert(est_mlx_graph_init(&graph, &arena, 64));
	wide = matrix(&graph, 4, 8);
	sum = est_mlx_binary(&graph, EST_MLX_ADD, wide, est_mlx_leaf(&graph, EST_MLX_F32, EST_MLX_SHAPE(8), EST_WEIGHTS, true));
	ck_assert_int_eq(est_mlx_at(&graph, sum)->type, EST_MLX_F32);
	ck_assert_uint_eq(est_mlx_elements(&est_mlx_at(&graph, sum)->shape), 32);
	ck_assert_int_eq(est_mlx_at(&graph, est_mlx_input(&graph, sum, 0))->op, EST_MLX_ASTYPE);
	ck_assert_int_eq(est_mlx_at(&graph, est_mlx_input(&graph, sum, 1))->op, EST_MLX_BROADCAST);
	ck_assert_uint_eq(est_mlx_scalar(&graph, EST_MLX_F32, 2), est_mlx_scalar(&graph, EST_MLX_F32, 2));
	ck_assert_uint_ne(est_mlx_scalar(&graph, EST_MLX_F32, 2), est_mlx_scalar(&graph, EST_MLX_BF16, 2));
}
END_TEST

START_TEST(fuses_what_works_on_the_same_elements)
{
	struct est_mlx_graph graph;
	uint32_t x, gated, output;

	ck_assert(est_mlx_graph_init(&graph, &arena, 64));
	x = matrix(&graph, 4, 8);
	gated = est_mlx_binary(&graph, EST_MLX_MULTIPLY, x, est_mlx_unary(&graph, EST_MLX_SIGMOID, x));
	output = est_mlx_binary(&graph, EST_MLX_MULTIPLY, gated, est_mlx_unary(&graph, EST_MLX_SQUARE, x));
	ck_assert(est_mlx_compile(&graph, &output, 1));
	ck_assert_int_eq(est_mlx_at(&graph, output)->op, EST_MLX_COMPILED);
	ck_assert_uint_eq(est_mlx_at(&graph, output)->input_count, 1);
	ck_assert_uint_eq(est_mlx_at(&graph, output)->extra, 4); /* operators */
}
END_TEST

START_TEST(merges_what_is_written_twice)
{
	struct est_mlx_graph graph;
	uint32_t x, weight, outputs[2];

	ck_assert(est_mlx_graph_init(&graph, &arena, 64));
	x = matrix(&graph, 4, 8);
	weight = est_mlx_leaf(&graph, EST_MLX_F32, EST_MLX_SHAPE(8, 2), EST_WEIGHTS, true);
	for (unsigned i = 0; i < 2; i++) /* each casts x by itself */
		outputs[i] = est_mlx_unary(&graph, i ? EST_MLX_SQUARE : EST_MLX_SQRT, est_mlx_matmul(&graph, x, weight));
	ck_assert(est_mlx_compile(&graph, outputs, 2));
	ck_assert_uint_eq(est_mlx_input(&graph, outputs[0], 0), est_mlx_input(&graph, outputs[1], 0));
}
END_TEST

/* d(x @ w)/dw is x transposed by what comes back. */
START_TEST(differentiates_a_product)
{
	struct est_mlx_graph graph;
	uint32_t x, weight, product, gradient = 0, cotangent;

	ck_assert(est_mlx_graph_init(&graph, &arena, 64));
	x = matrix(&graph, 4, 8);
	weight = matrix(&graph, 8, 2);
	product = est_mlx_matmul(&graph, x, weight);
	cotangent = matrix(&graph, 4, 2);
	est_mlx_vjp(&graph, &product, 1, cotangent, &weight, 1, &gradient);
	ck_assert_uint_ne(gradient, 0);
	ck_assert(est_mlx_same_shape(&est_mlx_at(&graph, gradient)->shape, &est_mlx_at(&graph, weight)->shape));
	ck_assert_int_eq(est_mlx_at(&graph, est_mlx_input(&graph, gradient, 0))->op, EST_MLX_TRANSPOSE);
	ck_assert_uint_eq(est_mlx_input(&graph, gradient, 1), cotangent);
}
END_TEST

/* ---- buffers */

struct counted {
	uint64_t bytes[64], alive, most;
};

static void count_alloc(void *context, uint32_t buffer, uint64_t bytes, enum est_category category, enum est_phase phase)
{
	struct counted *counted = context;

	(void)category;
	(void)phase;
	ck_assert_uint_lt(buffer, 64);
	counted->bytes[buffer] = bytes;
	counted->alive += bytes;
	counted->most = counted->alive > counted->most ? counted->alive : counted->most;
}

static void count_free(void *context, uint32_t buffer)
{
	struct counted *counted = context;

	counted->alive -= counted->bytes[buffer];
}

/* A chain of operators that no one fuses: how many of its arrays are alive at most. */
static uint64_t arrays_of_chain(const struct est_mlx_device *device, bool takes_buffers)
{
	enum { LENGTH = 12, SIDE = 512 };
	struct counted counted = { .most = 0 };
	const struct est_mlx_sink sink = { &counted, count_alloc, count_free, NULL };
	struct est_mlx_graph graph;
	uint32_t x;

	ck_assert(est_mlx_graph_init(&graph, &arena, 64));
	x = matrix(&graph, SIDE, SIDE);
	for (unsigned i = 0; i < LENGTH; i++)
		x = takes_buffers ? est_mlx_unary(&graph, EST_MLX_SQUARE, x) : est_mlx_matmul(&graph, x, x);
	est_mlx_at(&graph, x)->kept = true;
	ck_assert(est_mlx_eval(&graph, &x, 1, device, &sink));
	ck_assert_uint_eq(counted.alive, UINT64_C(2) * 2 * SIDE * SIDE); /* the leaf, which is tied, and the output */
	return counted.most / (UINT64_C(2) * SIDE * SIDE);
}

START_TEST(holds_operands_until_the_device_is_done)
{
	const struct est_mlx_device short_queue = { 2, 1024, 1, 1 };

	ck_assert_uint_eq(arrays_of_chain(&est_mlx_cpu_idle, false), 3); /* the leaf, an operand and a result */
	ck_assert_uint_eq(arrays_of_chain(&est_mlx_metal_idle, false), 3);
	ck_assert_uint_eq(arrays_of_chain(&est_mlx_metal, false), 13);   /* 12 kernels are less than a command buffer */
	ck_assert_uint_gt(arrays_of_chain(&short_queue, false), 3);
	ck_assert_uint_lt(arrays_of_chain(&short_queue, false), 13);
}
END_TEST

START_TEST(takes_buffers_that_nothing_else_wants)
{
	ck_assert_uint_eq(arrays_of_chain(&est_mlx_metal, true), 2);
}
END_TEST

/* ---- the step */

static struct cfg_request request;
static struct est_faults faults;

static void read_row(const json_t *body)
{
	memset(&faults, 0, sizeof(faults));
	ck_assert_msg(cfg_read_request(body, "", catalog, &request, &faults), "%s %s", faults.item[0].pointer, faults.item[0].detail);
}

static uint64_t peak_of(const struct est_mlx_device *device, bool fused_loss)
{
	const struct est_mlx_setting setting = { device, fused_loss };
	uint64_t bytes = 0;

	ck_assert(est_mlx_peak(&request.request, &request.model, &setting, &arena, &bytes));
	return bytes;
}

#define SMALL "'framework':'mlx','model':{'model_type':'llama','hidden_size':256,'num_hidden_layers':4,'intermediate_size':512," \
	"'num_attention_heads':4,'num_key_value_heads':2,'vocab_size':4096},'micro_batch_size':2,'sequence_length':128"

/* Where the GPU keeps up: of a model so small a queue that is full holds most of what a step makes. */
static uint64_t peak_with(const char *fields)
{
	char text[1024];
	json_t *body;
	uint64_t bytes;

	snprintf(text, sizeof(text), "{" SMALL ",%s}", fields);
	body = parse_quoted(text);
	read_row(body);
	json_decref(body);
	bytes = peak_of(&est_mlx_metal_idle, true);
	ck_assert_msg(bytes <= peak_of(&est_mlx_metal, true), "%s", fields);
	return bytes;
}

static const struct { const char *name, *less, *more; } pairs[] = {
	{ "layers", "'method':'lora','trainable_layers':1", "'method':'lora','trainable_layers':4" },
	{ "checkpoints", "'method':'lora','gradient_checkpointing':true", "'method':'lora'" },
	{ "rank", "'method':'lora','lora':{'rank':4}", "'method':'lora','lora':{'rank':64}" },
	{ "targets", "'method':'lora','lora':{'target_modules':['q_proj']}", "'method':'lora'" },
	{ "quantised", "'method':'qlora'", "'method':'lora'" },
	{ "bits", "'method':'qlora'", "'method':'qlora','quantization':{'bits':8}" },
	{ "states", "'method':'full','optimizer':'sgd'", "'method':'full','optimizer':'adamw_torch'" },
	{ "accumulation", "'method':'full'", "'method':'full','gradient_accumulation_steps':2" },
	{ "type", "'method':'full'", "'method':'full','precision':'fp32'" },
};

START_TEST(needs_more_for_more)
{
	ck_assert_msg(peak_with(pairs[_i].less) < peak_with(pairs[_i].more), "%s", pairs[_i].name);
}
END_TEST

START_TEST(trains_as_many_layers_as_mlx_lm)
{
	struct est_model model = { .num_hidden_layers = 32 };
	struct est_request named = { .trainable_layers = 0 };

	ck_assert_int_eq(est_mlx_trained_layers(&named, &model), 16);
	model.num_hidden_layers = 12;
	ck_assert_int_eq(est_mlx_trained_layers(&named, &model), 12);
	named.trainable_layers = 3;
	ck_assert_int_eq(est_mlx_trained_layers(&named, &model), 3);
}
END_TEST

/* ---- traces */

/* The CPU backend where its memory limit is passed: the host waits for every task that is whole. */
static const struct est_mlx_device cpu_short = { 10, 0, 0, 1 };

/* Rows of a group (NULL: of a method), the queue that they ran with, and percent; as good as it has been. The model was never looked at with
 * those that were kept aside. */
static const struct { const char *group; const struct est_mlx_device *device; int rows; double mean, most; } gates[] = {
	{ NULL, &est_mlx_cpu, 27, 1.3, 5.7 },
	{ "kept aside", &est_mlx_cpu, 9, 0.9, 3 },
	{ "short queue", &cpu_short, 5, 0.4, 0.9 },
};

/* Which gate a row of the group stands at. */
static int gate_of(const char *group)
{
	for (int i = 1; i < COUNT(gates); i++)
		if (!strcmp(group, gates[i].group))
			return i;
	return 0;
}

struct tally {
	int rows;
	double mean, most, bias;
};

static bool says(const struct est_notes *notes, const char *text)
{
	for (size_t i = 0; i < notes->count; i++)
		if (strstr(notes->item[i].detail, text))
			return true;
	return false;
}

/* The range that is told for the row's request, and the whole way there. */
static void check_range(const char *id, uint64_t truth)
{
	static struct est_report report;
	const struct est_gpu *card = &cfg_catalog_find_card(catalog, "apple-m4-max-128gb", NULL)->gpu;
	size_t size = est_arena_size(1);
	struct est_arena whole;

	est_arena_init(&whole, malloc(size), size);
	ck_assert_ptr_nonnull(whole.base);
	ck_assert(est_run(&request.request, &request.model, &card, 1, &whole, &report));
	ck_assert_msg(report.peak.allocated.low <= truth && truth <= report.peak.allocated.high, "%s: %llu is not in %llu..%llu", id,
		      (unsigned long long)truth, (unsigned long long)report.peak.allocated.low, (unsigned long long)report.peak.allocated.high);
	ck_assert(says(&report.assumptions, "MLX evaluates lazily") && says(&report.assumptions, "iogpu.wired_limit_mb"));
	ck_assert(says(&report.warnings, "measured on no Mac"));
	ck_assert(report.peak.allocated.expected <= report.peak.reserved.expected && report.fits[0].verdict != EST_UNSUPPORTED);
	free(whole.base);
}

static void judge_row(const json_t *row, const struct est_mlx_device *device, struct tally *tally)
{
	const char *id = json_string_value(json_object_get(row, "id"));
	uint64_t truth = (uint64_t)json_integer_value(json_object_get(json_object_get(row, "measured"), "allocated_bytes"));
	bool fused_loss = json_is_true(json_object_get(row, "fused_loss"));
	double error;

	read_row(json_object_get(row, "request"));
	error = 100 * ((double)peak_of(device, fused_loss) / (double)truth - 1);
	ck_assert_msg(peak_of(&est_mlx_cpu_idle, fused_loss) <= truth, "%s: less than what a device that keeps up holds", id);
	check_range(id, truth);
	if (getenv("MLX_ROWS"))
		printf("# %s %s %+.2f %%\n", id, json_string_value(json_object_get(row, "group")), error);
	tally->rows++;
	tally->mean += fabs(error);
	tally->bias += error;
	tally->most = fmax(tally->most, fabs(error));
}

START_TEST(is_as_near_to_traces_as_it_has_been)
{
	const char *name = gates[_i].group ? gates[_i].group : "looked at";
	char path[4096], line[8192];
	struct tally tally = { 0 };
	FILE *file;

	snprintf(path, sizeof(path), "%s/tests/truth/mlx.jsonl", source_root());
	file = fopen(path, "r");
	ck_assert_msg(file != NULL, "%s", path);
	while (fgets(line, sizeof(line), file)) {
		json_t *row = json_loads(line, 0, NULL);

		ck_assert_ptr_nonnull(row);
		if (gate_of(json_string_value(json_object_get(row, "group"))) == _i)
			judge_row(row, gates[_i].device, &tally);
		json_decref(row);
	}
	fclose(file);
	ck_assert_int_ge(tally.rows, gates[_i].rows);
	printf("# %s: %d rows, mean %.2f %%, most %.2f %%, bias %+.2f %%\n", name, tally.rows, tally.mean / tally.rows, tally.most,
	       tally.bias / tally.rows);
	ck_assert_msg(tally.mean / tally.rows <= gates[_i].mean && tally.most <= gates[_i].most, "%s: mean %.3f %%, most %.3f %%", name,
		      tally.mean / tally.rows, tally.most);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("mlx");
	TCase *graph = tcase_create("graph"), *step = tcase_create("step"), *traces = tcase_create("traces");

	tcase_add_checked_fixture(graph, open_arena, close_arena);
	tcase_add_test(graph, broadcasts_and_promotes);
	tcase_add_test(graph, fuses_what_works_on_the_same_elements);
	tcase_add_test(graph, merges_what_is_written_twice);
	tcase_add_test(graph, differentiates_a_product);
	tcase_add_test(graph, holds_operands_until_the_device_is_done);
	tcase_add_test(graph, takes_buffers_that_nothing_else_wants);
	suite_add_tcase(suite, graph);
	tcase_add_checked_fixture(step, open_arena, close_arena);
	tcase_add_test(step, trains_as_many_layers_as_mlx_lm);
	tcase_add_loop_test(step, needs_more_for_more, 0, COUNT(pairs));
	suite_add_tcase(suite, step);
	tcase_set_timeout(traces, 120);
	tcase_add_checked_fixture(traces, open_arena, close_arena);
	tcase_add_loop_test(traces, is_as_near_to_traces_as_it_has_been, 0, COUNT(gates));
	suite_add_tcase(suite, traces);
	return run_suite(suite);
}

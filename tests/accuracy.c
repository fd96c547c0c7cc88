/* accuracy [--worst N] [--gate] FILE.jsonl...: replays truth rows against the estimator and prints the error of each group.
 * A row is {"request", "gpu", "group", "measured": {"allocated_bytes", "reserved_bytes", "device_bytes"}, "excludes"}; rows
 * whose request is not modelled yet are counted as refused. With --gate the exit status says whether every group of
 * gates[] is as good as it has been. tests/truth/README.md tells where the rows come from. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config/config.h"

enum { ROWS_MAX = 1024, GROUPS_MAX = 128 };

struct error {
	double value;                  /* estimate / measurement - 1; NAN when there is no measurement */
	bool covered;                  /* the measurement is within the upper bound */
};

struct row {
	const char *id, *group;
	char request[512];
	bool refused;
	struct error allocated, reserved, device;
};

struct summary {
	unsigned count;
	double mean, p95, max, bias, covered;
};

/* As good as it has been: mean and worst error of allocated, mean error of reserved, in percent. */
static const struct gate {
	const char *group;
	double allocated_mean, allocated_max, reserved_mean;
} gates[] = {
	{ "modelled full", 0.3, 3.0, 3.0 },
};

static struct row rows[ROWS_MAX];
static size_t row_count;

/* ---- one row */

static struct error compare(const struct est_range *estimate, const json_t *measured, const char *name, uint64_t excluded)
{
	double truth = json_number_value(json_object_get(measured, name));

	if (truth <= 0)
		return (struct error){ NAN, true };
	return (struct error){ (double)(estimate->expected - excluded) / truth - 1, truth <= (double)(estimate->high - excluded) };
}

static bool excludes_workspace(const json_t *row)
{
	json_t *excludes = json_object_get(row, "excludes");
	size_t i;
	json_t *item;

	json_array_foreach(excludes, i, item)
		if (strcmp(json_string_value(item), "workspace") == 0)
			return true;
	return false;
}

static void evaluate(json_t *json, const struct cfg_catalog *catalog, struct est_arena *arena, struct row *row)
{
	static struct cfg_request request;
	static struct est_report report;
	static struct est_faults faults;
	json_t *body = json_object_get(json, "request"), *gpu = json_object_get(json, "gpu");
	const json_t *measured = json_object_get(json, "measured");
	uint64_t workspace, segments;

	memset(&faults, 0, sizeof(faults));
	if (json_is_string(gpu))
		json_object_set(body, "gpus", gpu);
	row->refused = !cfg_read_request(body, "", catalog, &request, &faults);
	if (row->refused) {
		snprintf(row->request, sizeof(row->request), "%s %s", faults.item[0].pointer, faults.item[0].detail);
		return;
	}
	arena->used = 0;
	if (!est_run(&request.request, &request.model, request.cards, 1, arena, &report))
		exit(3);
	workspace = excludes_workspace(json) ? report.peak.at_peak[EST_WORKSPACE] : 0;
	segments = (workspace + (2 << 20) - 1) / (2 << 20) * (2 << 20);
	row->allocated = compare(&report.peak.allocated, measured, "allocated_bytes", workspace);
	row->reserved = compare(&report.peak.reserved, measured, "reserved_bytes", segments);
	row->device = compare(&report.peak.device, measured, "device_bytes", segments);
	snprintf(row->request, sizeof(row->request), "%s b%lld s%lld", request.model.id,
		 (long long)request.request.micro_batch_size, (long long)request.request.sequence_length);
}

static void read_file(const char *path, const struct cfg_catalog *catalog, struct est_arena *arena, json_t *kept)
{
	FILE *file = fopen(path, "r");
	char *line = NULL;
	size_t size = 0;

	if (!file) {
		perror(path);
		exit(3);
	}
	while (getline(&line, &size, file) > 0 && row_count < ROWS_MAX) {
		json_t *json = json_loads(line, 0, NULL);
		struct row *row = &rows[row_count++];

		json_array_append_new(kept, json);
		row->id = json_string_value(json_object_get(json, "id"));
		row->group = json_string_value(json_object_get(json, "group"));
		evaluate(json, catalog, arena, row);
	}
	free(line);
	fclose(file);
}

/* ---- groups */

static int compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Of the errors at offset in the rows of group (NULL: of all rows that are modelled, full fine-tuning). */
static struct summary summarize(const char *group, size_t offset)
{
	static double absolute[ROWS_MAX];
	struct summary summary = { 0 };

	for (size_t i = 0; i < row_count; i++) {
		struct error error;

		memcpy(&error, (const char *)&rows[i] + offset, sizeof(error));
		if (rows[i].refused || (group && strcmp(rows[i].group, group) != 0) || isnan(error.value))
			continue;
		absolute[summary.count++] = fabs(error.value);
		summary.mean += fabs(error.value);
		summary.bias += error.value;
		summary.covered += error.covered;
	}
	if (!summary.count)
		return summary;
	qsort(absolute, summary.count, sizeof(absolute[0]), compare_doubles);
	summary.mean /= summary.count;
	summary.bias /= summary.count;
	summary.covered /= summary.count;
	summary.p95 = absolute[(size_t)ceil(0.95 * summary.count) - 1];
	summary.max = absolute[summary.count - 1];
	return summary;
}

static void print_summary(const char *name, const struct summary *summary)
{
	if (summary->count)
		printf("  %-9s n %3u  mean %6.3f %%  p95 %6.3f %%  max %6.3f %%  bias %+6.3f %%  under upper bound %5.1f %%\n", name,
		       summary->count, 100 * summary->mean, 100 * summary->p95, 100 * summary->max, 100 * summary->bias,
		       100 * summary->covered);
}

static void print_group(const char *group, const char *title)
{
	unsigned count = 0, refused = 0;
	struct summary summary;

	for (size_t i = 0; i < row_count; i++) {
		if (group && strcmp(rows[i].group, group) != 0)
			continue;
		count++;
		refused += rows[i].refused;
	}
	printf("%-34s rows %3u  refused %3u\n", title, count, refused);
	summary = summarize(group, offsetof(struct row, allocated));
	print_summary("allocated", &summary);
	summary = summarize(group, offsetof(struct row, reserved));
	print_summary("reserved", &summary);
	summary = summarize(group, offsetof(struct row, device));
	print_summary("device", &summary);
}

static void print_groups(void)
{
	const char *seen[GROUPS_MAX];
	size_t count = 0;

	for (size_t i = 0; i < row_count; i++) {
		size_t k = 0;

		while (k < count && strcmp(seen[k], rows[i].group) != 0)
			k++;
		if (k < count || count == GROUPS_MAX)
			continue;
		seen[count++] = rows[i].group;
		print_group(rows[i].group, rows[i].group);
	}
	print_group(NULL, "all");
}

static int by_allocated(const void *a, const void *b)
{
	const struct row *x = a, *y = b;
	double ex = x->refused || isnan(x->allocated.value) ? -1 : fabs(x->allocated.value);
	double ey = y->refused || isnan(y->allocated.value) ? -1 : fabs(y->allocated.value);

	return (ex < ey) - (ex > ey);
}

static void print_worst(size_t worst)
{
	qsort(rows, row_count, sizeof(rows[0]), by_allocated);
	for (size_t i = 0; i < worst && i < row_count; i++)
		printf("%s  %+7.3f %%  reserved %+7.3f %%  %s: %s\n", rows[i].id, 100 * rows[i].allocated.value,
		       100 * rows[i].reserved.value, rows[i].group, rows[i].request);
}

static int check_gates(void)
{
	struct summary allocated = summarize(NULL, offsetof(struct row, allocated));
	struct summary reserved = summarize(NULL, offsetof(struct row, reserved));
	const struct gate *gate = &gates[0];
	bool good = allocated.count > 0 && 100 * allocated.mean <= gate->allocated_mean && 100 * allocated.max <= gate->allocated_max
		    && 100 * reserved.mean <= gate->reserved_mean;

	printf("%s: %s\n", gate->group, good ? "as good as it has been" : "WORSE than it has been");
	return good ? 0 : 1;
}

int main(int argc, char **argv)
{
	const char *source = getenv("VRAMCAST_SOURCE");
	size_t size = est_arena_size(1), worst = 0;
	char error[512], directory[1024];
	struct cfg_catalog *catalog;
	json_t *kept = json_array();
	struct est_arena arena;
	bool gate = false;

	snprintf(directory, sizeof(directory), "%s/config", source ? source : ".");
	catalog = cfg_catalog_create(directory, error, sizeof(error));
	if (!catalog) {
		fprintf(stderr, "accuracy: %s\n", error);
		return 3;
	}
	est_arena_init(&arena, malloc(size), size);
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--gate") == 0)
			gate = true;
		else if (strcmp(argv[i], "--worst") == 0 && i + 1 < argc)
			worst = (size_t)strtoul(argv[++i], NULL, 10);
		else
			read_file(argv[i], catalog, &arena, kept);
	}
	print_groups();
	print_worst(worst);
	free(arena.base);
	json_decref(kept);
	cfg_catalog_destroy(catalog);
	return gate ? check_gates() : 0;
}

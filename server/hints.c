#include "server/hints.h"
#include <stdio.h>
#include "config/pod.h"
#include "estimator/words.h"
#include "server/write.h"

struct job {
	int64_t gpus, nodes, per_node;
};

static struct job job_of(const struct est_parallelism *parallelism)
{
	int64_t most = parallelism->gpus_per_node, gpus = parallelism->gpus;
	int64_t nodes = (gpus + most - 1) / most;

	return (struct job){ gpus, nodes, (gpus + nodes - 1) / nodes };
}

/* Accelerators by SkyPilot's names (sky show-gpus -a) and Ray's (ray.util.accelerators); NULL: it has none. */
static const struct {
	const char *id, *sky, *ray;
} names[] = {
	{ "a10", "A10", NULL }, { "a100-pcie-40gb", "A100", "A100-40G" }, { "a100-pcie-80gb", "A100-80GB", "A100-80G" },
	{ "a100-sxm4-40gb", "A100", "A100-40G" }, { "a100-sxm4-80gb", "A100-80GB", "A100-80G" }, { "a10g", "A10G", "A10G" },
	{ "a40", "A40", NULL }, { "b200-sxm-180gb", "B200", "B200" }, { "gh200-96gb", "GH200", NULL },
	{ "h100-pcie-80gb", "H100", "H100" },
	{ "h100-sxm5-80gb", "H100", "H100" }, { "h20-96gb", NULL, "H20" }, { "h200-nvl-141gb", "H200", "H200" },
	{ "h200-sxm-141gb", "H200", "H200" }, { "l4", "L4", "L4" }, { "l40", "L40", NULL }, { "l40s", "L40S", "L40S" },
	{ "max-1100-48gb", NULL, "Intel-GPU-Max-1100" }, { "max-1550-128gb", NULL, "Intel-GPU-Max-1550" },
	{ "mi100-32gb", NULL, "AMD-Instinct-MI100" }, { "mi210-64gb", NULL, "AMD-Instinct-MI210" },
	{ "mi300x-192gb", "MI300X", "AMD-Instinct-MI300X-OAM" }, { "mi325x-256gb", NULL, "AMD-Instinct-MI325X-OAM" },
	{ "mi350x-288gb", NULL, "AMD-Instinct-MI350X-OAM" }, { "mi355x-288gb", NULL, "AMD-Instinct-MI355X-OAM" },
	{ "p100-pcie-16gb", "P100", "P100" }, { "rtx-4090", "RTX4090", NULL }, { "rtx-6000-ada", "RTX6000-Ada", NULL },
	{ "rtx-a4000", "A4000", NULL }, { "rtx-a6000", "A6000", NULL }, { "t4", "T4", "T4" },
	{ "v100-sxm2-16gb", "V100", "V100" }, { "v100-sxm2-32gb", "V100-32GB", "V100" },
};

/* Index into names; COUNT_NAMES when it has none. */
enum { COUNT_NAMES = sizeof names / sizeof names[0] };
static size_t find_name(const char *id)
{
	size_t i = 0;

	while (i < COUNT_NAMES && strcmp(names[i].id, id))
		i++;
	return i;
}

/* The first card that fits, else the first. */
static size_t card_of(const struct est_report *report)
{
	for (size_t i = 0; i < report->fit_count; i++)
		if (report->fits[i].verdict == EST_FITS)
			return i;
	return 0;
}

static void write_pair(struct srv_buffer *buffer, const char *key, int64_t value)
{
	srv_write_string(buffer, key);
	srv_buffer_add_byte(buffer, ':');
	srv_write_i64(buffer, value);
}

/* ---- Slurm */

static bool is_safe(char letter)
{
	return (letter >= '0' && letter <= '9') || ((letter | 0x20) >= 'a' && (letter | 0x20) <= 'z') || letter == '-'
	       || letter == '.' || letter == '_';
}

/* Slurm refuses a job that names a feature or type which its cluster does not have: what the client called the card
 * is a word of its cluster sooner than our id. One that a shell or Slurm would read otherwise is left out. */
static const char *word_of(const struct cfg_request *request, size_t i)
{
	const char *word = request->card_words[i], *at = word;

	if (!word)
		return NULL;
	while (is_safe(*at))
		at++;
	return *at ? request->cards[i]->id : word;
}

/* "l4|h100": the cards that fit, by the client's words. Cut where there is no more room. */
static void list_features(const struct cfg_request *request, const struct est_report *report, char *text, size_t size)
{
	size_t used = 0;

	text[0] = '\0';
	for (size_t i = 0; i < report->fit_count; i++) {
		const char *word = report->fits[i].verdict == EST_FITS ? word_of(request, i) : NULL;

		if (!word || used + strlen(word) + 2 > size)
			continue;
		used += est_copy_text(text + used, size - used, used ? "|" : "");
		used += est_copy_text(text + used, size - used, word);
	}
}

static void write_options(struct srv_buffer *buffer, const struct job *job, const char *features)
{
	SRV_PUT(buffer, ",\"options\":\"--nodes=");
	srv_write_i64(buffer, job->nodes);
	SRV_PUT(buffer, " --ntasks-per-node=");
	srv_write_i64(buffer, job->per_node);
	SRV_PUT(buffer, " --gres=gpu:");
	srv_write_i64(buffer, job->per_node);
	if (*features) {
		SRV_PUT(buffer, " --constraint=\\\"");
		srv_write_text(buffer, features);
		SRV_PUT(buffer, "\\\"");
	}
	srv_buffer_add_byte(buffer, '"');
}

static void write_slurm(struct srv_buffer *buffer, const struct cfg_request *request, const struct est_report *report,
			const struct job *job)
{
	const char *word = word_of(request, card_of(report));
	char features[512];

	list_features(request, report, features, sizeof features);
	SRV_PUT(buffer, "\"slurm\":{\"gres\":\"gpu:");
	srv_write_i64(buffer, job->per_node);
	srv_buffer_add_byte(buffer, '"');
	if (*features) { /* of letters that stand for themselves in a string */
		SRV_PUT(buffer, ",\"typed_gres\":\"gpu:");
		srv_write_text(buffer, word ? word : "");
		srv_buffer_add_byte(buffer, ':');
		srv_write_i64(buffer, job->per_node);
		SRV_PUT(buffer, "\",\"constraint\":\"");
		srv_write_text(buffer, features);
		srv_buffer_add_byte(buffer, '"');
	}
	srv_buffer_add_byte(buffer, ',');
	write_pair(buffer, "nodes", job->nodes);
	srv_buffer_add_byte(buffer, ',');
	write_pair(buffer, "ntasks_per_node", job->per_node);
	write_options(buffer, job, features);
	srv_buffer_add_byte(buffer, '}');
}

/* ---- Kubernetes */

static bool write_labels_of(struct srv_buffer *buffer, const struct cfg_catalog *catalog, const struct est_gpu *gpu, bool first)
{
	const struct cfg_card *card = cfg_catalog_card_of(catalog, gpu);
	const char *label;

	for (size_t at = 0; (label = cfg_card_label(card, &at)); first = false) {
		if (!first)
			srv_buffer_add_byte(buffer, ',');
		srv_write_string(buffer, label);
	}
	return first;
}

/* Whether there was a label. */
static bool write_labels(struct srv_buffer *buffer, const struct cfg_catalog *catalog, const struct est_report *report)
{
	bool first = true;

	srv_buffer_add_byte(buffer, '[');
	for (size_t i = 0; i < report->fit_count; i++)
		if (report->fits[i].verdict == EST_FITS)
			first = write_labels_of(buffer, catalog, report->fits[i].gpu, first);
	srv_buffer_add_byte(buffer, ']');
	return !first;
}

/* One expression of a node selector's term; its values are still to be written. */
static void open_affinity(struct srv_buffer *buffer, const char *key, const char *operator)
{
	SRV_PUT(buffer, ",\"affinity\":{\"nodeAffinity\":{\"requiredDuringSchedulingIgnoredDuringExecution\":{\"nodeSelectorTerms\":["
			"{\"matchExpressions\":[{\"key\":");
	srv_write_string(buffer, key);
	SRV_PUT(buffer, ",\"operator\":");
	srv_write_string(buffer, operator);
	SRV_PUT(buffer, ",\"values\":");
}

/* Nodes by the products that were named and fit, or by their memory: GPU feature discovery's nvidia.com/gpu.memory
 * is in MiB. */
static void write_affinity(struct srv_buffer *buffer, const struct cfg_catalog *catalog,
			   const struct cfg_request *request,
			   const struct est_report *report, const struct est_fit *fit)
{
	size_t start = buffer->length;
	char least[32];

	open_affinity(buffer, "nvidia.com/gpu.product", "In");
	if (!request->cards_named || !write_labels(buffer, catalog, report)) {
		buffer->length = start;
		if (fit->verdict != EST_FITS)
			return;
		open_affinity(buffer, "nvidia.com/gpu.memory", "Gt");
		snprintf(least, sizeof least, "[\"%llu\"]", (unsigned long long)(fit->required_high - 1) >> 20);
		srv_write_text(buffer, least);
	}
	SRV_PUT(buffer, "}]}]}}}");
}

static void write_kubernetes(struct srv_buffer *buffer, const struct cfg_catalog *catalog,
			     const struct cfg_request *request, const struct est_report *report, const struct job *job)
{
	const struct est_fit *fit = &report->fits[card_of(report)];
	const char *own = cfg_gpu_resource(fit->gpu->vendor), *resource = own ? own : cfg_gpu_resource(EST_NVIDIA);

	SRV_PUT(buffer, ",\"kubernetes\":{");
	write_pair(buffer, resource, job->per_node);
	srv_buffer_add_byte(buffer, ',');
	write_pair(buffer, "pods", job->nodes);
	SRV_PUT(buffer, ",\"resources\":{\"limits\":{");
	write_pair(buffer, resource, job->per_node);
	SRV_PUT(buffer, "}}");
	if (fit->gpu->vendor == EST_NVIDIA) {
		if (request->cards_named) {
			SRV_PUT(buffer, ",\"nvidia.com/gpu.product\":");
			write_labels(buffer, catalog, report);
		}
		write_affinity(buffer, catalog, request, report, fit);
	}
	srv_buffer_add_byte(buffer, '}');
}

/* ---- Ray, SkyPilot */

static void write_ray(struct srv_buffer *buffer, const struct job *job, size_t name)
{
	SRV_PUT(buffer, ",\"ray\":{");
	write_pair(buffer, "num_workers", job->gpus);
	SRV_PUT(buffer, ",\"use_gpu\":true,\"resources_per_worker\":{\"GPU\":1}");
	if (name < COUNT_NAMES && names[name].ray) {
		SRV_PUT(buffer, ",\"accelerator_type\":");
		srv_write_string(buffer, names[name].ray);
	}
	srv_buffer_add_byte(buffer, '}');
}

static void write_skypilot(struct srv_buffer *buffer, const struct job *job, size_t name)
{
	if (name == COUNT_NAMES || !names[name].sky)
		return;
	SRV_PUT(buffer, ",\"skypilot\":{");
	write_pair(buffer, "num_nodes", job->nodes);
	SRV_PUT(buffer, ",\"resources\":{\"accelerators\":{");
	write_pair(buffer, names[name].sky, job->per_node);
	SRV_PUT(buffer, "}}}");
}

void srv_write_hints(struct srv_buffer *buffer, const struct cfg_catalog *catalog, const struct cfg_request *request,
		     const struct est_report *report)
{
	const struct job job = job_of(&request->request.parallelism);
	size_t name = find_name(report->fits[card_of(report)].gpu->id);

	srv_buffer_add_byte(buffer, '{');
	write_slurm(buffer, request, report, &job);
	write_kubernetes(buffer, catalog, request, report, &job);
	write_ray(buffer, &job, name);
	write_skypilot(buffer, &job, name);
	srv_buffer_add_byte(buffer, '}');
}

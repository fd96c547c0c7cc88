#include "server/hints.h"
#include <stdio.h>
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

/* The resource's name of a vendor's device plugin. */
static const char *const resources[] = {
	[EST_NVIDIA] = "nvidia.com/gpu", [EST_AMD] = "amd.com/gpu", [EST_INTEL] = "gpu.intel.com/xe",
	[EST_GOOGLE] = "google.com/tpu", [EST_AWS] = "aws.amazon.com/neuron", [EST_HABANA] = "habana.ai/gaudi",
};

/* SkyPilot's names for accelerators (sky show-gpus). */
static const struct {
	const char *id, *name;
} skypilot_names[] = {
	{ "t4", "T4" }, { "l4", "L4" }, { "l40", "L40" }, { "l40s", "L40S" }, { "a10", "A10" }, { "a10g", "A10G" },
	{ "v100-sxm2-16gb", "V100" }, { "v100-sxm2-32gb", "V100-32GB" }, { "a100-sxm4-40gb", "A100" }, { "a100-sxm4-80gb", "A100-80GB" },
	{ "h100-sxm5-80gb", "H100" }, { "h200-sxm-141gb", "H200" }, { "b200-sxm-180gb", "B200" }, { "rtx-4090", "RTX4090" },
};

static const char *skypilot_name(const char *id)
{
	for (size_t i = 0; i < sizeof skypilot_names / sizeof skypilot_names[0]; i++)
		if (!strcmp(skypilot_names[i].id, id))
			return skypilot_names[i].name;
	return NULL;
}

/* The first card that fits, else the first. */
static const struct est_gpu *card_of(const struct est_report *report)
{
	for (size_t i = 0; i < report->fit_count; i++)
		if (report->fits[i].verdict == EST_FITS)
			return report->fits[i].gpu;
	return report->fits[0].gpu;
}

static void write_pair(struct srv_buffer *buffer, const char *key, int64_t value)
{
	srv_write_string(buffer, key);
	srv_buffer_add_byte(buffer, ':');
	srv_write_i64(buffer, value);
}

static void write_slurm(struct srv_buffer *buffer, const struct job *job)
{
	char line[128];

	snprintf(line, sizeof line, "gpu:%lld", (long long)job->per_node);
	SRV_PUT(buffer, "\"slurm\":{\"gres\":");
	srv_write_string(buffer, line);
	srv_buffer_add_byte(buffer, ',');
	write_pair(buffer, "nodes", job->nodes);
	srv_buffer_add_byte(buffer, ',');
	write_pair(buffer, "ntasks_per_node", job->per_node);
	snprintf(line, sizeof line, "--nodes=%lld --ntasks-per-node=%lld --gres=gpu:%lld", (long long)job->nodes,
		 (long long)job->per_node, (long long)job->per_node);
	SRV_PUT(buffer, ",\"options\":");
	srv_write_string(buffer, line);
	srv_buffer_add_byte(buffer, '}');
}

/* GPU feature discovery labels a node with the driver's name, dashes for blanks: such are among a card's aliases. */
static bool is_product_label(const char *alias)
{
	return !strchr(alias, ' ') && (!strncmp(alias, "NVIDIA-", 7) || !strncmp(alias, "Tesla-", 6));
}

static bool write_labels_of(struct srv_buffer *buffer, const struct cfg_catalog *catalog, const char *id, bool first)
{
	const struct cfg_card *card = cfg_catalog_find_card(catalog, id, NULL);
	const json_t *aliases = card ? json_object_get(card->row, "aliases") : NULL;

	for (size_t i = 0; i < json_array_size(aliases); i++) {
		const char *alias = json_string_value(json_array_get(aliases, i));

		if (!is_product_label(alias))
			continue;
		if (!first)
			srv_buffer_add_byte(buffer, ',');
		srv_write_string(buffer, alias);
		first = false;
	}
	return first;
}

static void write_labels(struct srv_buffer *buffer, const struct cfg_catalog *catalog, const struct est_report *report)
{
	bool first = true;

	SRV_PUT(buffer, ",\"nvidia.com/gpu.product\":[");
	for (size_t i = 0; i < report->fit_count; i++)
		if (report->fits[i].verdict == EST_FITS)
			first = write_labels_of(buffer, catalog, report->fits[i].gpu->id, first);
	srv_buffer_add_byte(buffer, ']');
}

void srv_write_hints(struct srv_buffer *buffer, const struct cfg_catalog *catalog, const struct cfg_request *request,
		     const struct est_report *report)
{
	const struct job job = job_of(&request->request.parallelism);
	const struct est_gpu *card = card_of(report);
	const char *sky = skypilot_name(card->id);

	srv_buffer_add_byte(buffer, '{');
	write_slurm(buffer, &job);
	SRV_PUT(buffer, ",\"kubernetes\":{");
	write_pair(buffer, resources[card->vendor] ? resources[card->vendor] : "nvidia.com/gpu", job.per_node);
	srv_buffer_add_byte(buffer, ',');
	write_pair(buffer, "pods", job.nodes);
	if (request->cards_named && card->vendor == EST_NVIDIA)
		write_labels(buffer, catalog, report);
	SRV_PUT(buffer, "},\"ray\":{");
	write_pair(buffer, "num_workers", job.gpus);
	SRV_PUT(buffer, ",\"resources_per_worker\":{\"GPU\":1}}");
	if (sky) {
		SRV_PUT(buffer, ",\"skypilot\":{");
		write_pair(buffer, "num_nodes", job.nodes);
		SRV_PUT(buffer, ",\"resources\":{\"accelerators\":{");
		write_pair(buffer, sky, job.per_node);
		SRV_PUT(buffer, "}}}");
	}
	srv_buffer_add_byte(buffer, '}');
}

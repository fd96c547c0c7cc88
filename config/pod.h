/* What a pod says of the run in it: its request, the container that trains, how many GPUs that asks for, and which the
 * pod may land on. */
#ifndef CFG_POD_H
#define CFG_POD_H

#include "config/config.h"
#include "config/workload.h"

/* Annotations, of the pod or of the object that makes it. */
#define CFG_ANNOTATION_REQUEST "vramcast.io/request"     /* JSON as of POST /estimate, or words: model=x method=lora */
#define CFG_ANNOTATION_GPU "vramcast.io/gpu"             /* ids or aliases of cards, by commas */
#define CFG_ANNOTATION_STEER "vramcast.io/steer"         /* "true": leads the pod to nodes that hold its run */
#define CFG_ANNOTATION_CONTAINER "vramcast.io/container" /* the name of the one that trains */

/* Cards that a pod may land on, or that a node has. */
enum { CFG_WISH_MAX = 32, CFG_WISH_NAME_MAX = 64 };
struct cfg_wish { /* all zero: nothing is known of them */
	size_t card_count, size_count;
	const struct cfg_card *cards[CFG_WISH_MAX];
	uint64_t sizes[CFG_WISH_MAX];        /* bytes of those of which only the memory is said */
	char unknown[CFG_WISH_NAME_MAX];     /* the first that the catalogue does not have; "" */
};

struct cfg_pod { /* borrowed from the template, but for the wish */
	const char *request;                 /* the text of the annotation; NULL: it says nothing of a run */
	const json_t *container;             /* NULL: there is none of the name that is said */
	size_t container_index;
	int64_t gpus;                        /* that the container asks for; 0: none */
	bool asks;                           /* for GPUs, or slices or claims of such, in whatever number */
	bool steers;                         /* it wants to be led to nodes, and names no GPUs of them itself */
	struct cfg_wish wish;
};

/* Reads what template says; where it has no request of its own, owner, the object that it is in, speaks for it. The
 * container is the one of that name, else the first that asks for GPUs, else the first. The cards are those of
 * nodeSelector, else of the required node affinity, which bind a scheduler, else of the annotation. */
void cfg_pod_read(const json_t *owner, const struct cfg_template *template, const struct cfg_catalog *catalog,
		  struct cfg_pod *ret);

/* The cards by the labels of a node, or by a nodeSelector: GPU feature discovery's product and memory, and what clouds
 * call theirs. */
void cfg_wish_from_labels(const json_t *labels, const struct cfg_catalog *catalog, struct cfg_wish *ret);

/* The cards by what a pod's spec demands of nodes: nodeSelector, else the required node affinity. */
void cfg_wish_from_spec(const json_t *spec, const struct cfg_catalog *catalog, struct cfg_wish *ret);

/* The cards by names that commas part: ids or aliases. */
void cfg_wish_from_names(const char *names, const struct cfg_catalog *catalog, struct cfg_wish *ret);

/* Whether it says nothing at all. */
bool cfg_wish_is_empty(const struct cfg_wish *wish);

/* The product that a node with card is labelled with, by GPU feature discovery: the next of several from *at on, which
 * moves behind it; begin with 0. NULL behind the last. Borrowed. */
const char *cfg_card_label(const struct cfg_card *card, size_t *at);

/* Adds a card of the catalogue, or the size of one, that is not there yet; false when there is no room. */
bool cfg_wish_add_card(struct cfg_wish *wish, const struct cfg_card *card);
bool cfg_wish_add_size(struct cfg_wish *wish, uint64_t bytes);

/* The body of POST /estimate of the pod's run: its request, judged for wish where that names any. What the request
 * leaves open is taken from the pod: run_gpus is all GPUs of the run (0: not known), those of one pod are a node's. New
 * reference; NULL with faults, or when memory is short. */
json_t *cfg_pod_body(const struct cfg_pod *pod, const struct cfg_wish *wish, int64_t run_gpus,
		     struct est_faults *faults);

/* The name of a vendor's GPUs among a container's resources, as its device plugin has it; NULL: there is none. */
const char *cfg_gpu_resource(enum est_vendor vendor);

/* A quantity as whole number: 4, "4". False when it is none. */
bool cfg_quantity_whole(const json_t *quantity, int64_t *ret);

#endif

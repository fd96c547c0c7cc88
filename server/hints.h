/* Lines ready to paste into what starts the job: Slurm, Kubernetes, Ray, SkyPilot. */
#ifndef SRV_HINTS_H
#define SRV_HINTS_H

#include "config/config.h"
#include "server/buffer.h"

/* Appends the object of hints: how many GPUs on how many nodes, and, where cards were named, which of them fit. */
void srv_write_hints(struct srv_buffer *buffer, const struct cfg_catalog *catalog, const struct cfg_request *request,
		     const struct est_report *report);

#endif

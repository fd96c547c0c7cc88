/* An estimate for people in a terminal: what stands above its verdicts. */
#ifndef SRV_PEOPLE_H
#define SRV_PEOPLE_H

#include "config/config.h"
#include "server/buffer.h"

/* Appends what is run, the components in GiB, the peak, and what is warned of; ends with an empty line. */
void srv_write_summary(struct srv_buffer *buffer, const struct cfg_request *request, const struct est_report *report);

#endif
